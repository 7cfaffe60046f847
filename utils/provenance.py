"""What a result says about how it came about, and the guard that keeps two different runs out of one folder."""

import contextlib
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy
import torch

from utils import checkpoint
from utils.distributed import Processes
from utils.errors import UserError
from utils.evaluation import precision_name
from utils.folders import locked
from utils.method_names import METHOD_FLAGS, OLDER
from utils.plain_data import Shape, misfit
from utils.records import is_settings

# Flags that may differ between two commands that belong to one run: they say where and how, not what.
FREE_FLAGS = {
    *("data", "data_url", "save_dir", "checkpoint", "resume", "slim", "tensorboard"),
    *("device", "gpu", "compile", "workers", "cache_gb", "processes", "parallel", "jobs", "timeout", "deterministic"),
    *("save_interval", "print_freq", "master_port", "local_rank", "inference", "quiet", "debug"),
    *("levels", "pairs", "pruning_times", "ticket_tolerance"),
}

# Of `versions`, what may change a result beyond rounding, or tells that it has.
DECISIVE_VERSIONS = ("revision", "torch", "precision", "device")


def describe_run(
    flags: Mapping[str, Any], device: torch.device, images: Mapping[str, Any], processes: int = 1
) -> dict[str, Any]:
    """`settings` (every flag, which images, processes) and `versions` (of what ran it), as plain data for a file."""
    plain = {name: _plain(value) for name, value in flags.items()}
    return {
        "settings": {**plain, "images": dict(images), "processes": processes},
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a class of its own, not plain text
            "torchvision": importlib.metadata.version("torchvision"),  # not imported, which takes seconds
            "numpy": numpy.__version__,
            "precision": precision_name(device, flags.get("amp", False)),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
            "threads": torch.get_num_threads(),
            "revision": _git_revision(),
            "command": shlex.join(sys.argv),
        },
    }


def _plain(value: Any) -> Any:
    """A flag's value as JSON gives it back, so that what was written compares equal to what is given again."""
    if isinstance(value, Path):
        return str(value)
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def processor_name() -> str:
    """The CPU's model, where Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@contextlib.contextmanager
def claimed_folder(
    path: Path,
    description: Mapping[str, Any],
    processes: Processes,
    started: bool = True,
    renews: bool = True,
    **items: Shape,
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


def changed_versions(old: Any, new: Mapping[str, Any]) -> str:
    """Which of the `versions` of `describe_run` that bear on results are others now: "torch 2.13.0 (now 2.14.1)"."""
    old = old if isinstance(old, dict) else {}
    names = [name for name in DECISIVE_VERSIONS if name in old and old[name] != new.get(name)]
    return ", ".join(f"{name} {old[name]} (now {new.get(name)})" for name in names)


def _read_claim(path: Path, new: dict[str, Any], started: bool, items: Mapping[str, Shape]) -> dict[str, Any]:
    if not path.exists():
        return new
    found = checkpoint.load_json(path)
    _refuse_damaged(path, found, {"settings": is_settings})
    if started or any(found.get(name) for name in items):
        refuse_other_run(found["settings"], new["settings"], path)
    _refuse_damaged(path, found, {name: [shape] for name, shape in items.items()})  # last: another run's are others
    return found


def _refuse_damaged(path: Path, content: Any, shape: Shape) -> None:
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
    (METHOD_FLAGS). Where a flag of OLDER is missing, its default stands for it.
    """
    first, second = {**OLDER, **first}, {**OLDER, **second}
    method = first.get("interpolate_method")
    useless = {name for name, methods in METHOD_FLAGS.items() if method is not None and method not in methods}
    names = sorted((first.keys() & second.keys()) - free - useless)
    return next(((name, first[name], second[name]) for name in names if first[name] != second[name]), None)
