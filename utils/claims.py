"""The guard that keeps two different runs out of one folder, by the flags that it records there."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from utils import checkpoint
from utils.distributed import Processes
from utils.errors import UserError
from utils.folders import locked
from utils.method_names import LATER_FLAGS, METHOD_FLAGS
from utils.plain_data import Schema, misfit
from utils.schemas import is_settings

# Flags that may differ between two commands that belong to one run: they say where and how, not what. What
# --val_images comes to is in `images`.
FREE_FLAGS = {
    *("data", "data_url", "save_dir", "checkpoint", "resume", "slim", "tensorboard"),
    *("device", "gpu", "compile", "compile_mode", "deterministic", "processes", "parallel", "jobs", "timeout"),
    *("workers", "cache_gb", "save_interval", "print_freq", "master_port", "local_rank", "inference", "quiet", "debug"),
    *("levels", "pairs", "pruning_times", "ticket_tolerance", "val_images"),
}


@contextlib.contextmanager
def claimed_folder(
    path: Path,
    description: Mapping[str, Any],
    processes: Processes,
    started: bool = True,
    renews: bool = True,
    **items: Schema,
) -> Iterator[dict[str, Any]]:
    """Lock the folder of `path`, and record in the JSON file `path` the `description` of the run that it belongs to.

    The file also holds a list for each name in `items`, which gives the shape of its items. The run has begun if it has
    `started` or a list is not empty. Then only a command of the same run is let in, and the description in the file is
    replaced only by one that `renews` it: what is there was made with the flags and versions that the file names. What
    killed writers left half written in the folder is removed.

    Gives what the file held before, or `description` and empty lists. UserError when the file is damaged or of another
    run that has begun, or when another process works in the folder.
    """
    found = {**description, **{name: [] for name in items}}
    if processes.is_main:
        _read_claim(path, found, started, items)  # a command that is refused touches nothing, not even a lock
    with locked(path.parent, processes):
        if processes.is_main:
            checkpoint.remove_leftovers(path.parent)
            found = _read_claim(path, found, started, items)
            is_begun = started or any(found[name] for name in items)
            if not path.exists() or ((renews or not is_begun) and {**found, **description} != found):
                checkpoint.save_json({**found, **description}, path)
        yield processes.broadcast_object(found)


def save_results(path: Path, description: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write `results` and the `description` of this command, unless `path` holds the same results already.

    Those keep the description of the earlier command, which made them.
    """
    found = checkpoint.load_json(path) if path.exists() else {}
    if json.dumps({name: found.get(name) for name in results}) != json.dumps(results):
        checkpoint.save_json({**description, **results}, path)


def _read_claim(path: Path, new: dict[str, Any], started: bool, items: Mapping[str, Schema]) -> dict[str, Any]:
    if not path.exists():
        return new
    found = checkpoint.load_json(path)
    _refuse_damaged(path, found, {"settings": is_settings})
    if started or any(found.get(name) for name in items):
        refuse_other_run(found["settings"], new["settings"], path)
    _refuse_damaged(path, found, {name: [shape] for name, shape in items.items()})  # last: another run's are others
    return found


def _refuse_damaged(path: Path, content: Any, shape: Schema) -> None:
    if odd := misfit(content, shape):
        raise UserError(f"{path} is damaged ({odd}): move it away, or name another folder to write to")


def refuse_other_run(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """UserError when `path` was written with settings (`old`) under which the `new` ones would mix two runs."""
    if found := difference(old, new, FREE_FLAGS):
        name, before, now = found
        if name == "images":
            raise UserError(f"{path} belongs to a run on other images: name another folder to write to")
        raise UserError(
            f"{path} belongs to a run {used(name, before)}, not {used(name, now)}: "
            "give the same flags, or name another folder to write to"
        )


def used(name: str, value: Any) -> str:
    """That a flag had this value, as a command line has it: "with --lr 0.1", "without --amp"."""
    if value is None or value is False:
        return f"without --{name}"
    if isinstance(value, list):
        value = ("," if name == "decreasing_lr" else " ").join(map(str, value))
    return f"with --{name}" if value is True else f"with --{name} {value}"


def difference(first: Mapping[str, Any], second: Mapping[str, Any], free: Set[str]) -> tuple[str, Any, Any] | None:
    """The first flag, by name, in which two settings differ, and its value in each; None if there is none.

    Only flags that both settings have count, without those that are `free` or that the method of `first` does not heed
    (METHOD_FLAGS). Where a flag of LATER_FLAGS is missing, its default stands for it.
    """
    first, second = {**LATER_FLAGS, **first}, {**LATER_FLAGS, **second}
    method = first.get("interpolate_method")
    useless = {name for name, methods in METHOD_FLAGS.items() if method is not None and method not in methods}
    names = sorted((first.keys() & second.keys()) - free - useless)
    return next(((name, first[name], second[name]) for name in names if first[name] != second[name]), None)
