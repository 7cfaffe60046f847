"""Several methods side by side, over one run of tickets or several, from what their `pools.json` files say."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from utils import checkpoint, report, score_tables, tickets
from utils.method_names import TICKET
from utils.pool_results import Results
from utils.pool_tables import gain
from utils.score_tables import Entry
from utils.spread import format_spread, spread

Rows = dict[tuple[int, float], dict[str, Entry]]  # by level and density (0..1), then by label: means over the runs


def compare(results: Sequence[Results], folder: Path) -> report.Table:
    """Write the comparison's files and pictures into `folder` and return the table.

    Where there are several runs, numbers are the mean and the sample standard deviation over them. Mean gains are over
    the starts that all methods share.
    """
    networks = _networks_of(results)
    summary = [_summarise(group) for group in score_tables.grouped(networks)]
    rows: Rows = {}
    for one in summary:
        rows.setdefault((one["level"], one["density"]), {})[one["method"]] = one
    labels = [TICKET, *dict.fromkeys(one.label for one in results)]
    sources = [{"method": one.label, "run": one.run, "path": str(one.path)} for one in results]
    checkpoint.save_json({"results": sources, "summary": summary}, folder / tickets.COMPARISON_JSON)
    _write_csv(rows, labels, folder / tickets.COMPARISON_CSV)
    accuracies = score_tables.density_series(networks, "accuracy")
    dense = [accuracy for density, accuracy in accuracies[TICKET] if density == 1]
    report.plot_accuracy(accuracies, folder / tickets.COMPARISON_PLOT, mean(dense) if dense else None)
    report.plot_gain(score_tables.density_series(networks, "gain"), folder / tickets.GAIN_PLOT)
    return _table(results, rows, labels)


def notes_on(results: Sequence[Results]) -> list[str]:
    """What one must know to read the table."""
    shared, every = _shared_starts(results), set().union(*map(_starts, results))
    if shared == every:
        return []
    note = f"mean gain: over the {len(shared)} of {len(every)} starts that all methods share"
    return [
        note if shared else "no mean gain: there is no start that all methods share",
        "rows and pictures: each method over the starts that it has, which are not the same for all",
    ]


def _starts(results: Results) -> set[tuple[int, int]]:
    """The tickets that the pools started from, as run and level."""
    return {(results.run, level) for level in results.entries}


def _shared_starts(results: Sequence[Results]) -> set[tuple[int, int]]:
    """Those of every method, in whichever of its results: means over others would compare tickets, not methods."""
    starts: dict[str, set[tuple[int, int]]] = {}
    for one in results:
        starts.setdefault(one.label, set()).update(_starts(one))
    return set.intersection(*starts.values())


def _networks_of(results: Sequence[Results]) -> list[Entry]:
    """One entry a network, as `score_tables` has them: every pool, and every ticket once."""
    entries, seen = [], set()
    for one in results:
        for level, entry in one.entries.items():
            place = {"level": level, "density": entry["density"]}
            if (one.run, level) not in seen:
                entries.append({"method": TICKET, **place, "accuracy": entry["ticket_test_accuracy"], "gain": None})
                seen.add((one.run, level))
            entries.append({"method": one.label, **place, "accuracy": entry["pool_test_accuracy"], "gain": gain(entry)})
    return entries


def _summarise(group: Sequence[Entry]) -> dict[str, Any]:
    return {
        **{name: group[0][name] for name in ("method", "level", "density")},
        "runs": len(group),
        **{measure: spread(entry[measure] for entry in group) for measure in ("accuracy", "gain")},
    }


def _write_csv(rows: Rows, labels: Sequence[str], path: Path) -> None:
    """Means first, then what deviates, where there are several runs; what a method has not is empty."""
    columns = [
        *((f"{label} %" if label == TICKET else label, label, "accuracy") for label in labels),
        *((f"{label} gain", label, "gain") for label in labels[1:]),
    ]
    several = any(one["runs"] > 1 for row in rows.values() for one in row.values())
    header = [name for name, *_ in columns]
    cells = [[row[label][measure] if label in row else {} for _, label, measure in columns] for row in rows.values()]
    parts = ("mean", "deviation") if several else ("mean",)
    report.write_csv(
        ["level", "density %", *header, *(f"{name} deviation" for name in header if several)],
        [
            [level, 100 * density, *(cell.get(part) for part in parts for cell in line)]
            for (level, density), line in zip(rows, cells, strict=True)
        ],
        path,
    )


def _table(results: Sequence[Results], rows: Rows, labels: Sequence[str]) -> report.Table:
    header = ["level", "density %", f"{TICKET} %", *labels[1:]]
    shown = []
    for (level, density), row in rows.items():
        spreads = (row[label]["accuracy"] if label in row else None for label in labels)
        shown.append([str(level), f"{100 * density:.2f}", *(format_spread(one, ".2f") for one in spreads)])
    methods = [[one for one in results if one.label == label] for label in labels[1:]]
    if shared := _shared_starts(results):
        gains = (spread(_mean_gain(one, shared) for one in runs) for runs in methods)
        shown.append(["", "", "mean gain", *(format_spread(one, "+.2f") for one in gains)])
    if len({one.run for one in results}) > 1:
        shown.append(["", "", "runs", *(str(len(runs)) for runs in methods)])
    if any(one.ensembles for one in results):
        shown.append(["", "", "networks", *(_networks(runs) for runs in methods)])
    return header, shown


def _networks(runs: Sequence[Results]) -> str:
    """How many networks run for each image, from the least to the most of all starts."""
    numbers = {entry["networks"] if one.ensembles else 1 for one in runs for entry in one.entries.values()}
    return "-".join(map(str, sorted({min(numbers), max(numbers)})))


def _mean_gain(results: Results, starts: set[tuple[int, int]]) -> float | None:
    """Over those of `starts` that are there; None if none is."""
    gains = [gain(entry) for level, entry in results.entries.items() if (results.run, level) in starts]
    return mean(gains) if gains else None
