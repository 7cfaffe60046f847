"""Several methods on the same tickets, side by side, from what their `pools.json` files say: `evaluate.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from utils import checkpoint, report, tickets
from utils.errors import UserError
from utils.methods import method_label
from utils.parser import Parser
from utils.plain_data import misfit
from utils.records import COMPARED


def build_parser() -> Parser:
    parser = Parser(
        "Compare methods on the same tickets: one table, comparison.csv, and one picture, accuracy.png.\n\n"
        "    python evaluate.py DIR/pools/Lottery_pools DIR/pools/interpolate_swa [--save_dir DIR]\n\n"
        "Each folder holds a pools.json of Lottery_pools.py; the numbers are those that were measured then.",
        usage="%(prog)s DIR [DIR …] [flags]",
    )
    parser.add_argument("pools", type=Path, nargs="+", metavar="DIR", help="folders of pools, one a method")
    parser.add_argument(
        "--save_dir", type=Path, metavar="DIR", help="folder of table and picture; default: the first folder's parent"
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    folder = args.save_dir or args.pools[0].parent
    print(compare([read_results(path) for path in args.pools], folder))
    print(f"table and picture are in {folder}")


@dataclass(frozen=True)
class Results:
    """One method's pools: its label, and its entries of `pools.json` by the level that each started from."""

    label: str
    entries: dict[int, dict[str, Any]]


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
    results = Results(label, {entry["level"]: entry for entry in content["pools"]})
    if not results.entries:
        raise UserError(f"{path} holds no pool yet: run Lottery_pools.py to its end")
    return results


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
    return report.format_table(header, [*shown, ["", "", "mean gain", *map(_mean_gain, results)]])


def _common_tickets(results: Sequence[Results]) -> dict[int, dict[str, Any]]:
    """One entry a level, to take the ticket's own numbers from."""
    found: dict[int, dict[str, Any]] = {}
    for method in results:
        for level, entry in method.entries.items():
            first = found.setdefault(level, entry)
            if (first["density"], first["ticket_test_accuracy"]) != (entry["density"], entry["ticket_test_accuracy"]):
                raise UserError(f"{method.label} started from another ticket of level {level} than {results[0].label}")
    return dict(sorted(found.items()))


def _pool(method: Results, level: int) -> float | None:
    return method.entries[level]["pool_test_accuracy"] if level in method.entries else None


def _mean_gain(method: Results) -> str:
    gains = [entry["pool_test_accuracy"] - entry["ticket_test_accuracy"] for entry in method.entries.values()]
    return f"{mean(gains):+.2f}"


def _series(results: Sequence[Results], found: dict[int, dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    pools = {
        method.label: [(entry["density"], entry["pool_test_accuracy"]) for entry in method.entries.values()]
        for method in results
    }
    return {"ticket": [(entry["density"], entry["ticket_test_accuracy"]) for entry in found.values()], **pools}


def _dense_accuracy(found: dict[int, dict[str, Any]]) -> float | None:
    dense = [entry["ticket_test_accuracy"] for entry in found.values() if entry["density"] == 1]
    return dense[0] if dense else None
