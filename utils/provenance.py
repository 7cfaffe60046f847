"""What a result says about how it came about, and the guard that keeps two different runs out of one folder."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision

from utils import checkpoint
from utils.distributed import Processes
from utils.errors import UserError
from utils.evaluation import precision_name
from utils.plain_data import is_plain, misfit
from utils.records import is_settings

# Flags that may differ between two commands that belong to one run: they say where and how, not what.
FREE_FLAGS = {
    *("data", "data_url", "save_dir", "checkpoint", "resume"),
    *("device", "gpu", "compile", "workers", "cache_gb", "processes", "parallel", "jobs", "timeout"),
    *("print_freq", "master_port", "local_rank", "inference", "quiet", "debug"),
    *("levels", "pruning_times"),
}


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
            "torchvision": str(torchvision.__version__),
            "numpy": numpy.__version__,
            "precision": precision_name(device, flags.get("amp", False)),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
            "revision": _git_revision(),
            "command": " ".join(sys.argv),
        },
    }


def _plain(value: Any) -> Any:
    """A flag's value as JSON gives it back, so that what was written compares equal to what is given again."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def claim_folder(
    path: Path, description: Mapping[str, Any], processes: Processes, started: bool = True, **lists: list
) -> dict[str, Any]:
    """Note in `path` what run the folder is for, beside `lists` (or what the file holds of them by now).

    Returns what the file held before, or would have held. UserError when it is damaged, or when it is of another run
    that has `started`.
    """
    found = {**description, **lists}
    if processes.is_main:
        if path.exists():
            found = checkpoint.load_json(path)
            _check_whole(found, path, lists)
            if started:
                refuse_other_run(found["settings"], description["settings"], path)
        if not path.exists() or {**found, **description} != found:
            checkpoint.save_json({**found, **description}, path)
    return processes.broadcast_object(found)


def _check_whole(content: Any, path: Path, lists: Mapping[str, list]) -> None:
    if odd := misfit(content, {"settings": is_settings, **{name: [is_plain] for name in lists}}):
        raise UserError(f"{path} is damaged ({odd}): move it away, or name another folder to write to")


def refuse_other_run(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """UserError when `path` was written with settings (`old`) under which the `new` ones would mix two runs."""
    for name in sorted((set(old) & set(new)) - FREE_FLAGS):
        if old[name] != new[name]:
            if name == "images":
                raise UserError(f"{path} belongs to a run on other images: name another folder to write to")
            raise UserError(
                f"{path} belongs to a run with --{name} {old[name]}, not {new[name]}: "
                "give the same flag, or name another folder to write to"
            )
