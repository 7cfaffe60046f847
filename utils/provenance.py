"""What a result says about how it came about: flags, images, versions, processor."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from utils.evaluation import precision_name

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
            "revision": git_revision(),
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


def git_revision() -> str:
    """The commit of this code, with `-dirty` where files differ from it; `unknown` outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def changed_versions(old: Any, new: Mapping[str, Any]) -> str:
    """Which of the `versions` of `describe_run` that bear on results are others now: "torch 2.13.0 (now 2.14.1)"."""
    old = old if isinstance(old, dict) else {}
    names = [name for name in DECISIVE_VERSIONS if name in old and old[name] != new.get(name)]
    return ", ".join(f"{name} {old[name]} (now {new.get(name)})" for name in names)
