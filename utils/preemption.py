"""SIGTERM, by which Slurm and others take a machine back: work is saved, and an exit status of its own says so."""

import atexit
import contextlib
import multiprocessing.util  # what it does at the end of the process comes after what is registered from here on
import signal
from collections.abc import Callable, Iterator

STATUS = 75  # EX_TEMPFAIL of sysexits.h: not done, to be tried again


class Preempted(BaseException):
    """SIGTERM has come. No Exception, since nothing but the end of the script may catch it."""


class _Sigterm:
    """Whether the signal has come, and whether the work at hand asks for it by itself; a process has one."""

    received = False
    deferred = False


def handle_sigterm() -> None:
    """From now on SIGTERM raises Preempted in the main thread, at once or, inside `deferred`, when that is asked."""
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(*_) -> None:
    again, _Sigterm.received = _Sigterm.received, True
    if not (again or _Sigterm.deferred):  # a launcher and Slurm may both send it
        raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """A block that SIGTERM does not break into; it gives a function that says whether the signal has come."""
    _Sigterm.deferred = True
    try:
        yield lambda: _Sigterm.received
    finally:
        _Sigterm.deferred = False


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """A block whose new processes never get SIGTERM: Slurm signals helpers too, and their parent needs them to save."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def _kill_helpers() -> None:
    """End helpers that never get SIGTERM: multiprocessing would end them with it now, and wait for them for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would take their end for an error
    for helper in multiprocessing.active_children():
        helper.kill()
