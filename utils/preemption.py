"""SIGTERM, by which Slurm and others take a machine back: work is saved, and an exit status of its own says so."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

PR_SET_PDEATHSIG = 1
EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: not done, to be tried again


class Preempted(BaseException):
    """SIGTERM has come. No Exception, since nothing but the end of the script may catch it."""


class _Sigterm:
    """Whether the signal has come, and whether the work at hand asks for it by itself; a process has one."""

    received = False
    deferred = False


def handle_sigterm() -> None:
    """From now on SIGTERM raises Preempted in the main thread; in `defer_sigterm` it is noted for the work to ask."""
    signal.signal(signal.SIGTERM, _on_sigterm)


def ignore_sigterm() -> None:
    """For a script that is done: as Python ends it lets go of handlers, and the signal would count as a failure."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _on_sigterm(*_) -> None:
    again, _Sigterm.received = _Sigterm.received, True
    if not (again or _Sigterm.deferred):  # a launcher and Slurm may both send it
        raise Preempted


@contextlib.contextmanager
def defer_sigterm() -> Iterator[Callable[[], bool]]:
    """A block that SIGTERM does not break into; it gives a function that says whether the signal has come."""
    _Sigterm.deferred = True
    try:
        yield lambda: _Sigterm.received
    finally:
        _Sigterm.deferred = False


def stop_requested() -> bool:
    """Whether SIGTERM has come inside `defer_sigterm`: what takes minutes there asks, and then raises Preempted."""
    return _Sigterm.deferred and _Sigterm.received


@contextlib.contextmanager
def block_sigterm() -> Iterator[None]:
    """A block that SIGTERM does not reach. Processes forked in it inherit that, until `end_with_parent` listens."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*_) -> None:
    """For a helper process that was forked with the signal held back: let the parent's SIGTERM, and no other, end it.

    Slurm signals helpers too, and their parent needs them until it has saved. When it is killed they die with it, for
    they hold its connections open, and other processes would wait for it.
    """
    die_with_parent()
    if hasattr(signal, "sigwaitinfo"):  # else there is no telling who has sent a signal
        threading.Thread(target=_wait_for_parent, daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def die_with_parent() -> None:
    """Have Linux kill this process when its parent dies without ending it (by SIGKILL, say)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
