"""Folders that runs write to: locks, so that runs do not mix; whether one can be written; whether the disk has room."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from utils.distributed import Processes
from utils.errors import UserError, warn

LOCK = ".lock"
# What systems say, differently, of a lock that another process holds.
HELD = (BlockingIOError, PermissionError)
# What file systems say that know no locks.
CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(folder: Path, processes: Processes) -> Iterator[None]:
    """Keep other runs out of `folder` as long as this one lives; the main one of `processes` holds the lock.

    The lock is the system's (POSIX, which network file systems know too), so it goes with its process however that
    ends. UserError when another process holds it; on a file system without locks, a warning.
    """
    if not processes.is_main:
        yield
        return
    file = _take(Path(folder) / LOCK)
    try:
        yield
    finally:
        Path(file.name).unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Wait until no other process is in this block with the same lock file `path`; the next ones wait for this one.

    The lock is of the kind of `locked`; on a file system without locks nobody waits. The file stays, for one who waits
    has it open already. OSError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except HELD:
            warn(f"waiting for another process, which holds {path}")
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in CANNOT_LOCK:
                raise
        yield


def _take(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = path.open("a+")
            _lock(file, path)
            if _is_still(path, file):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                return file
            file.close()  # its last holder has removed it since it was opened
    except OSError as error:
        raise _not_writable(path.parent, error) from error


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {folder}: {error.strerror or error}; name another folder")


def _lock(file: IO[str], path: Path) -> None:
    """Lock an open file. These locks are not inherited, so no process that outlives ours can hold it for us."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except HELD as error:
        file.seek(0)
        holder = file.read(200) or "another process"
        raise UserError(
            f"{path.parent} is in use by {holder}: wait for its end, or name another folder to write to"
        ) from error
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise
        warn(f"{path.parent} cannot be locked ({error.strerror}): start no second run in it")


def _is_still(path: Path, file: IO[str]) -> bool:
    """Whether `path` names the open `file`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def check_folder(path: Path) -> None:
    """Make the folder `path`; UserError where it cannot be had or written to, before hours of work show it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise _not_writable(path, error) from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """UserError if the disk that `folder` is, or will be, on has less than `needed` bytes free for `what`."""
    there = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{folder}: {what} need {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free: make room, or name "
            "another folder to write to"
        )
