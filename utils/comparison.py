"""Several methods on the same tickets, side by side, from what their `pools.json` files say: `evaluate.py`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from utils import checkpoint, report, tickets
from utils.errors import UserError
from utils.methods import ENSEMBLE, method_label
from utils.plain_data import is_whole, misfit
from utils.records import COMPARED


@dataclass(frozen=True)
class Results:
    """One method's pools: its label, and its entries of `pools.json` by the level that each started from.

    `ensembles`: they are no networks of their own, but several each.
    """

    label: str
    entries: dict[int, dict[str, Any]]
    ensembles: bool = False


def read_results(folder: Path) -> Results:
    """What `folder` (or the `pools.json` named directly) holds; UserError where it holds no pools."""
    path = folder if folder.is_file() else folder / tickets.POOLS_JSON
    content = checkpoint.load_json(path)
    if odd := misfit(content, COMPARED):
        raise UserError(f"{path} is no list of pools: {odd} is missing or odd")
    try:
        label = method_label(content["settings"])
    except KeyError as error:
        raise UserError(f"{path} is no list of pools: {error} is no method") from error
    ensembles = content["settings"]["interpolate_method"] == ENSEMBLE
    if ensembles and (odd := misfit(content, {"pools": [{"networks": is_whole}]})):
        raise UserError(f"{path} is no list of ensembles: {odd} is missing or odd")
    results = Results(label, {entry["level"]: entry for entry in content["pools"]}, ensembles)
    if not results.entries:
        raise UserError(f"{path} holds no pool yet: run Lottery_pools.py to its end")
    return results


def read_all(folders: Sequence[Path]) -> list[Results]:
    """The results in each of `folders`; methods that would bear one name are told apart by their folders'."""
    found = [read_results(folder) for folder in folders]
    count = Counter(method.label for method in found)
    return [
        replace(method, label=f"{method.label} ({_folder(path).name})") if count[method.label] > 1 else method
        for method, path in zip(found, folders, strict=True)
    ]


def _folder(path: Path) -> Path:
    return path.resolve().parent if path.is_file() else path.resolve()


def compare(results: Sequence[Results], folder: Path) -> str:
    """Write the comparison's table and picture into `folder` and return the table.

    UserError where a level's ticket differs between two methods, since their gains are then not of one ticket.
    """
    found = _common_tickets(results)
    header = ["level", "density %", "ticket %", *(method.label for method in results)]
    rows = [
        [level, 100 * ticket["density"], ticket["ticket_test_accuracy"], *(_pool(method, level) for method in results)]
        for level, ticket in found.items()
    ]
    report.write_csv(header, rows, folder / tickets.COMPARISON_CSV)
    report.plot_accuracy(_series(results, found), folder / tickets.COMPARISON_PLOT, _dense_accuracy(found))
    shown = [[row[0], *("" if value is None else f"{value:.2f}" for value in row[1:])] for row in rows]
    shown.append(["", "", "mean gain", *map(_mean_gain, results)])
    if any(method.ensembles for method in results):
        shown.append(["", "", "networks", *map(_networks, results)])
    return report.format_table(header, shown)


def _common_tickets(results: Sequence[Results]) -> dict[int, dict[str, Any]]:
    """One entry a level, to take the ticket's own numbers from."""
    found: dict[int, dict[str, Any]] = {}
    for method in results:
        for level, entry in method.entries.items():
            first = found.setdefault(level, entry)
            if (first["density"], first["ticket_test_accuracy"]) != (entry["density"], entry["ticket_test_accuracy"]):
                raise UserError(
                    f"{method.label} started from another ticket of level {level} than {results[0].label}: "
                    "compare methods on the same tickets, or score several runs with --score"
                )
    return dict(sorted(found.items()))


def _pool(method: Results, level: int) -> float | None:
    return method.entries[level]["pool_test_accuracy"] if level in method.entries else None


def _mean_gain(method: Results) -> str:
    gains = [entry["pool_test_accuracy"] - entry["ticket_test_accuracy"] for entry in method.entries.values()]
    return f"{mean(gains):+.2f}"


def _networks(method: Results) -> str:
    """How many networks run for each image, by the levels' least and most."""
    numbers = {entry["networks"] for entry in method.entries.values()} if method.ensembles else {1}
    return "-".join(map(str, sorted({min(numbers), max(numbers)})))


def _series(results: Sequence[Results], found: dict[int, dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    pools = {
        method.label: [(entry["density"], entry["pool_test_accuracy"]) for entry in method.entries.values()]
        for method in results
    }
    return {"ticket": [(entry["density"], entry["ticket_test_accuracy"]) for entry in found.values()], **pools}


def _dense_accuracy(found: dict[int, dict[str, Any]]) -> float | None:
    dense = [entry["ticket_test_accuracy"] for entry in found.values() if entry["density"] == 1]
    return dense[0] if dense else None
