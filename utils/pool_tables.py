"""What a method made of the tickets of one run, for programs and people: `pools.json`, a CSV, a picture, a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import report, tickets
from utils.claims import save_results

Entry = dict[str, Any]
NOT_IN_CSV = ("members", "steps", "checkpoint", "tickets")


def save_table(entries: Sequence[Entry], description: dict[str, Any], digests: Mapping[int, str], folder: Path) -> None:
    """Write `pools.json` and, as soon as there is an entry, `pools.csv`.

    `entries` are in the order of their levels; `digests` are those of all tickets of the study, by level.
    """
    known = [[level, digest] for level, digest in sorted(digests.items())]
    save_results(folder / tickets.POOLS_JSON, description, {"tickets": known, "pools": list(entries)})
    if not entries:
        return
    columns = [name for name in entries[0] if name not in NOT_IN_CSV]
    rows = [[entry[name] for name in columns] + [_members(entry)] for entry in entries]
    report.write_csv([*columns, "members"], rows, folder / tickets.POOLS_CSV)


def draw(entries: Sequence[Entry], folder: Path) -> None:
    """Draw the test accuracy of tickets and pools (or ensembles) against density, `accuracy.png`."""
    series = {
        label: [(entry["density"], entry[f"{name}_test_accuracy"]) for entry in entries]
        for label, name in (("ticket", "ticket"), (_what(entries), "pool"))
    }
    report.plot_accuracy(series, folder / tickets.POOLS_PLOT)


def format_results(entries: Sequence[Entry]) -> str:
    """One aligned line a start: level, density, test accuracy of ticket and pool, gain, members.

    Ensembles have their cost too: how many networks run, and how many times the ticket's weights they have together.
    """
    costly = _what(entries) == "ensemble"
    rows = [
        (
            entry["level"],
            f"{100 * entry['density']:.2f}",
            f"{entry['ticket_test_accuracy']:.2f}",
            f"{entry['pool_test_accuracy']:.2f}",
            f"{gain(entry):+.2f}",
            *((entry["networks"], f"{entry['weights']:.2f}×") if costly else ()),
            _members(entry),
        )
        for entry in entries
    ]
    cost = ("networks", "weights") if costly else ()
    return report.format_table(
        ("level", "density %", "ticket %", f"{_what(entries)} %", "gain", *cost, "members (level:share)"), rows
    )


def by_level(entries: Mapping[Any, Entry]) -> list[Entry]:
    """The values of `entries`, by their keys: of starts the level, of lines the levels at both ends."""
    return [entries[key] for key in sorted(entries)]


def gain(entry: Mapping[str, Any]) -> float:
    """Points of test accuracy that the pool of an entry has over its ticket."""
    return entry["pool_test_accuracy"] - entry["ticket_test_accuracy"]


def _what(entries: Sequence[Entry]) -> str:
    return "ensemble" if entries and "networks" in entries[0] else "pool"


def _members(entry: Entry) -> str:
    return " ".join(f"{member['level']}:{member['weight']:.3f}" for member in entry["members"])
