"""Memory that the processes of one host share, as far as each host has it."""

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from utils.distributed import Processes
from utils.memory import free_memory


def shared_memory(size: int, processes: Processes) -> tuple[Tensor | None, str]:
    """`size` bytes, uint8, that the `processes` of this host share; None, and why, where any host has no room for them.

    The file behind them is unlinked as soon as all have it, while it takes no room yet: a kill leaves nothing.
    """
    # The first process of each machine chooses for it: free space changes from one look to the next.
    folders = processes.gather_objects(str(_memory_folder(size)))
    name = processes.broadcast_object(f"lottery_pools_{secrets.token_hex(8)}")
    path = Path(folders[processes.rank - processes.local_rank], name)
    owner = processes.local_rank == 0
    file, failure = _create(path, size) if owner else (None, "")
    with file or contextlib.nullcontext():
        try:
            # Nobody maps the file before all know that every host has one.
            if failure := _failure(failure, processes):
                return None, failure
            memory = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
            processes.barrier()
        finally:
            if owner:
                path.unlink(missing_ok=True)
        failure = _failure(_allocate(file, size) if owner else "", processes)
    return (None, failure) if failure else (memory, "")


def _failure(own: str, processes: Processes) -> str:
    """The first failure among all processes, of which `own` is this one's; an empty text where there is none."""
    return next(filter(None, processes.gather_objects(own)), "")


def _memory_folder(size: int) -> Path:
    """Where a file of `size` bytes lies in memory: shared memory if it has the room, else among temporary files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 1.1 * size
    return memory if roomy else Path(tempfile.gettempdir())


def _create(path: Path, size: int) -> tuple[BinaryIO | None, str]:
    """A new file, open and sparse, of `size` bytes; None, and why, where that fails or memory is too short for them.

    A file system in memory knows its own limit alone: who fills more memory than there is gets killed.
    """
    free = free_memory()
    if 1.1 * size > free:
        return None, f"do not fit into {free / 1e9:.1f} GB of free memory"
    try:
        file = path.open("xb")
        file.truncate(size)
    except OSError as error:
        return None, _not_kept(error, path)
    return file, ""


def _allocate(file: BinaryIO, size: int) -> str:
    """Give a sparse file of `size` bytes all its room; returns why that fails, or an empty text.

    Into a sparse file one can write until its file system is full; then the process is killed without a word.
    """
    try:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        return _not_kept(error, Path(file.name))
    return ""


def _not_kept(error: OSError, path: Path) -> str:
    return f"cannot be kept in {path.parent} ({error.strerror or error})"
