"""How much memory is free, for the machine and for what Slurm or a container lets this process take of it."""

import re
from pathlib import Path


def free_memory(root: Path = Path("/")) -> float:
    """Bytes that this process can take before Linux has to kill one; infinite where it does not say so.

    What its page cache keeps counts as free. Limits are read from cgroups of version 2, below `root`.
    """
    return min(_free_of_machine(root / "proc/meminfo"), _free_of_cgroups(root))


def _free_of_machine(meminfo: Path) -> float:
    found = re.search(r"^MemAvailable: *(\d+) kB$", _text(meminfo), re.MULTILINE)
    return int(found[1]) * 1024 if found else float("inf")


def _free_of_cgroups(root: Path) -> float:
    """The least that this process's cgroup and those around it, any of which may have a limit, leave."""
    own = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    if not own:
        return float("inf")
    top = root / "sys/fs/cgroup"
    folder = top / own[1]
    return min(map(_free_of_cgroup, [folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]))


def _free_of_cgroup(folder: Path) -> float:
    limit, used = _text(folder / "memory.max").strip(), _text(folder / "memory.current")
    if not limit.isdigit() or not used:  # "max", or the topmost one, which has no such files
        return float("inf")
    cached = re.findall(r"^(?:in)?active_file (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(used) + sum(map(int, cached)))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
