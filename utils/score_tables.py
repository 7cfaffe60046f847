"""Scored networks as plain data: one entry each, means over several runs, the table, and what the pictures draw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from utils import report
from utils.method_names import TICKET
from utils.scoring import Scored
from utils.spread import format_spread, spread

Entry = Mapping[str, Any]
# The measures of an entry: column, heading in the table, format there.
MEASURES = (
    ("accuracy", "top-1 %", ".2f"),
    ("top5_accuracy", "top-5 %", ".2f"),
    ("nll", "NLL", ".3f"),
    ("ece", "ECE %", ".2f"),
    ("brier", "Brier", ".3f"),
    ("corrupted_accuracy", "corrupted %", ".2f"),
    ("gain", "gain", "+.2f"),
)
SIGNIFICANT = 0.05


def describe_network(scored: Scored) -> dict[str, Any]:
    """All that is known of one network: an entry of `evaluation.json`. What does not apply or is unknown is None."""
    paired = scored.paired
    return {
        "method": scored.network.method,
        "level": scored.network.level,
        "density": scored.density,
        "path": str(scored.network.file.path),
        "networks": len(scored.files),
        **scored.quality,
        "corrupted_accuracy": scored.corrupted_accuracy,
        "ticket": str(scored.ticket.network.file.path) if scored.ticket else None,
        "gain": scored.gain,
        "only_ticket_correct": paired.only_first if paired else None,
        "only_pool_correct": paired.only_second if paired else None,
        "p_value": paired.p_value if paired else None,
        "bins": scored.predictions.bins(),
        "corruptions": scored.corrupted,
    }


def write_networks(entries: Sequence[Entry], path: Path) -> None:
    """The CSV file of all entries, one row each, without the lists in them."""
    columns = [name for name, value in entries[0].items() if not isinstance(value, list | dict)]
    report.write_csv(columns, [[entry[name] for name in columns] for entry in entries], path)


def write_corruptions(entries: Sequence[Entry], path: Path) -> None:
    """The CSV file of accuracies (percent) by network, corruption and severity, one row each."""
    header = ("method", "level", "path", "corruption", "severity", "accuracy")
    rows = [
        (entry["method"], entry["level"], entry["path"], name, severity, accuracy)
        for entry in entries
        for name, accuracies in entry["corruptions"].items()
        for severity, accuracy in enumerate(accuracies, 1)
    ]
    report.write_csv(header, rows, path)


def grouped(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Networks of one method, level and density together, as runs of one experiment: by level, then from dense on.

    Unknown levels and densities come last; of one level and density the tickets come first.
    """
    methods = list(dict.fromkeys([TICKET, *(entry["method"] for entry in entries)]))
    groups: dict[tuple, list[Entry]] = {}
    for entry in entries:
        level = float("inf") if entry["level"] is None else entry["level"]
        density = float("-inf") if entry["density"] is None else entry["density"]
        groups.setdefault((level, -density, methods.index(entry["method"])), []).append(entry)
    return [group for _, group in sorted(groups.items())]


def summarise(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What the groups of `grouped` come to.

    Each measure becomes its `mean` and the sample standard `deviation` (None for one network) over the `networks`; None
    where none of them has it. `p_values` are those of the pools.
    """
    return [
        {
            **{name: group[0][name] for name in ("method", "level", "density")},
            "networks": len(group),
            **{measure: spread(entry[measure] for entry in group) for measure, _, _ in MEASURES},
            "p_values": [entry["p_value"] for entry in group if entry["p_value"] is not None],
        }
        for group in grouped(entries)
    ]


def results_table(groups: Sequence[Entry]) -> report.Table:
    """One row a group, with the measures that any of them has."""
    measures = [measure for measure in MEASURES if any(group[measure[0]] for group in groups)]
    several, paired = any(group["networks"] > 1 for group in groups), any(group["p_values"] for group in groups)
    header = ["level", "density %", "method", *(heading for _, heading, _ in measures)]
    rows = [
        [
            "" if group["level"] is None else group["level"],
            "" if group["density"] is None else f"{100 * group['density']:.2f}",
            group["method"],
            *(format_spread(group[name], digits) for name, _, digits in measures),
            *([group["networks"]] if several else []),
            *([_p_cell(group["p_values"])] if paired else []),
        ]
        for group in groups
    ]
    return [*header, *(["runs"] if several else []), *(["p"] if paired else [])], rows


def _p_cell(values: Sequence[float]) -> str:
    if len(values) > 1:
        return f"{sum(value < SIGNIFICANT for value in values)} of {len(values)} < {SIGNIFICANT}"
    return "".join("<0.001" if value < 0.001 else f"{value:.3f}" for value in values)


def density_series(entries: Sequence[Entry], measure: str) -> dict[str, list[tuple[float, float]]]:
    """For each method, tickets first, density (0..1) and `measure` of each network of which both are known."""
    series: dict[str, list[tuple[float, float]]] = {}
    for entry in sorted(entries, key=lambda entry: entry["method"] != TICKET):
        if None not in (entry["density"], entry[measure]):
            series.setdefault(entry["method"], []).append((entry["density"], entry[measure]))
    return series


def reliability_series(entries: Sequence[Entry]) -> dict[str, list[dict[str, float]]]:
    """For each method, the bins of all its networks added up."""
    series: dict[str, list[dict[str, float]]] = {}
    for entry in entries:
        old = series.get(entry["method"], [dict.fromkeys(bin, 0) for bin in entry["bins"]])
        pairs = zip(old, entry["bins"], strict=True)
        series[entry["method"]] = [{name: one[name] + other[name] for name in one} for one, other in pairs]
    return series


def corruption_series(entries: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """For each method and corruption, the mean accuracy over severities and networks, percent."""
    series: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(entry["method"] for entry in entries):
        found = [entry["corruptions"] for entry in entries if entry["method"] == method]
        series[method] = {name: mean(mean(accuracies[name]) for accuracies in found) for name in found[0]}
    return series
