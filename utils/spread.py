"""What several runs say together: mean and deviation, as numbers and as text."""

from collections.abc import Iterable, Mapping
from statistics import mean, stdev

Spread = Mapping[str, float | None]


def spread(values: Iterable[float | None]) -> dict[str, float | None] | None:
    """The `mean` and the sample standard `deviation` (None of one value) of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return {"mean": mean(known), "deviation": stdev(known) if len(known) > 1 else None} if known else None


def format_spread(spread: Spread | None, digits: str) -> str:
    """`mean` or `mean ± deviation` in the format `digits` (`.2f`, `+.2f`); nothing for None."""
    if spread is None:
        return ""
    deviation = spread["deviation"]
    return f"{spread['mean']:{digits}}" + ("" if deviation is None else f" ± {deviation:{digits.lstrip('+')}}")
