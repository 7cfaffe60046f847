"""What `pools.json` files recorded: which method, and from which run of tickets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils import checkpoint, schemas, tickets
from utils.claims import FREE_FLAGS, difference, used
from utils.errors import UserError
from utils.method_names import ENSEMBLE, method_label, unique_labels
from utils.plain_data import is_whole, misfit

Entry = Mapping[str, Any]
MAY_DIFFER = {*FREE_FLAGS, "seed"}  # between runs of one experiment


@dataclass(frozen=True)
class Results:
    """One method's pools in one folder: its label, `settings` and `versions`, and its entries of `pools.json` by start.

    `digests` are those of the tickets of its run, by level: of the starts alone, or none, in files of earlier versions.
    `run` is the same number for all results from the same tickets. `ensembles`: they are no networks of their own, but
    several each.
    """

    path: Path
    label: str
    described: dict[str, Any]
    entries: dict[int, Entry]
    digests: dict[int, str]
    run: int = 0
    ensembles: bool = False


def read_results(folder: Path) -> Results:
    """What `folder` (or the `pools.json` named directly) holds; UserError where it holds no pools."""
    path = folder if folder.is_file() else folder / tickets.POOLS_JSON
    content = checkpoint.load_json(path)
    if odd := misfit(content, schemas.COMPARED) or misfit(content, schemas.STARTS if "tickets" in content else {}):
        raise UserError(f"{path} is no list of pools: {odd} is missing or odd")
    label = label_of(content["settings"], path)
    entries = {entry["level"]: entry for entry in content["pools"]}
    if not entries:
        raise UserError(f"{path} holds no pool yet: run Lottery_pools.py to its end")
    ensembles = content["settings"]["interpolate_method"] == ENSEMBLE
    if ensembles and (odd := misfit(content, {"pools": [{"networks": is_whole, **schemas.STARTS}]})):
        raise UserError(f"{path} is no list of ensembles: {odd} is missing or odd")
    described = {name: content[name] for name in ("settings", "versions")}
    return Results(path, label, described, entries, dict(content.get("tickets", [])), ensembles=ensembles)


def label_of(settings: Mapping[str, Any], path: Path) -> str:
    """`method_label`; UserError where the settings in `path` name no method."""
    try:
        return method_label(settings)
    except KeyError as error:
        raise UserError(f"{path} is not of Lottery_pools.py: {error} is no method") from error


def read_all(folders: Sequence[Path]) -> list[Results]:
    """The results in each of `folders`, none of them twice.

    Those of one label are runs of one experiment, on tickets of their own; methods that would bear one name on the same
    tickets are told apart by their folders'. UserError where runs of one method had different flags.
    """
    unique = {results.path.resolve(): results for results in map(read_results, folders)}
    numbered = _numbered([*unique.values()])
    labels = unique_labels([(results.label, results.run, results.path) for results in numbered])
    found = [replace(results, label=label) for results, label in zip(numbered, labels, strict=True)]
    refuse_mixture((results.label, results.path, results.described["settings"]) for results in found)
    return found


def refuse_mixture(found: Iterable[tuple[str, Path, Mapping[str, Any]]]) -> None:
    """UserError where, of (label, path, settings), two of one label had different flags: runs that have no mean."""
    first: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for label, path, settings in found:
        its_path, its_settings = first.setdefault(label, (path, settings))
        if differing := difference(its_settings, settings, MAY_DIFFER):
            name, its, others = differing
            what = f"was made {used(name, others)}, {its_path} {used(name, its)}"
            if name == "images":
                what = f"is of other images than {its_path}"
            raise UserError(
                f"{path} {what}: they are no runs of one experiment ({label}); compare them in a command each"
            )


def _numbered(found: Sequence[Results]) -> list[Results]:
    """The same with the numbers of their runs: results belong together unless a ticket of one level differs."""
    numbered: list[Results] = []
    for results in found:
        others = {other.run for other in numbered if not _same_tickets(results, other)}
        numbered.append(replace(results, run=min({*range(len(numbered) + 1)} - others)))
    return numbered


def _same_tickets(first: Results, second: Results) -> bool:
    levels = (first.entries.keys() & second.entries.keys()) | (first.digests.keys() & second.digests.keys())
    return all(_same_ticket(first, second, level) for level in levels)


def _same_ticket(first: Results, second: Results, level: int) -> bool:
    """By its digest, or where a file has none by what it scored."""
    if level in first.digests and level in second.digests:
        return first.digests[level] == second.digests[level]
    names = ("density", "ticket_val_accuracy", "ticket_test_accuracy")
    return all(first.entries[level][name] == second.entries[level][name] for name in names)
