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

from utils.errors import UserError

# Flags that may differ between two commands that belong to one run: they say where and how, not what.
FREE_FLAGS = {
    *("data", "data_url", "save_dir", "checkpoint", "resume"),
    *("device", "gpu", "compile", "workers", "print_freq", "inference", "quiet", "debug"),
    *("levels", "pruning_times"),
}


def describe_run(flags: Mapping[str, Any], device: torch.device, images: Mapping[str, int]) -> dict[str, Any]:
    """`settings` (every flag and the number of images in each split) and `versions`, as plain data for a file."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    return {
        "settings": {**plain, "images": dict(images)},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
            "revision": _git_revision(),
            "command": " ".join(sys.argv),
        },
    }


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def refuse_other_run(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """UserError when `path` was written with settings (`old`) under which the `new` ones would mix two runs."""
    for name in sorted((set(old) & set(new)) - FREE_FLAGS):
        if old[name] != new[name]:
            raise UserError(
                f"{path} belongs to a run with --{name} {old[name]}, not {new[name]}: "
                "give the same flag, or another folder with --save_dir"
            )
