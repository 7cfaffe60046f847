"""Several networks at work at the same time on one CPU.

A small network cannot keep many cores busy: each of its operations is over before all of them have begun. Networks on a
core each can.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """`count` threads that share the threads which torch may use (`torch.get_num_threads`) evenly."""

    def __init__(self, count: int):
        self.count = count
        self._stopped = threading.Event()

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
        """`map`, `count` items at the same time. After an error or an interrupt no item is begun or gone on with."""
        items = list(items)
        together = min(self.count, len(items))
        if together <= 1:
            return map(function, items)
        threads = torch.get_num_threads()
        share = max(1, threads // together)
        with ThreadPoolExecutor(together, initializer=torch.set_num_threads, initargs=(share,)) as executor:
            running = [executor.submit(function, item) for item in items]
            try:
                for ended in wait(running, return_when=FIRST_EXCEPTION).done:
                    ended.result()  # whichever failed first, not when its turn comes
                return [result.result() for result in running]
            except BaseException:
                self._stopped.set()
                executor.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                torch.set_num_threads(threads)  # what a worker sets is what later threads begin with

    def watched(self, batches: Iterable[Item]) -> Iterator[Item]:
        """`batches`, ending in an error as soon as another thread has met one: passes take minutes, Ctrl-C must not."""
        for batch in batches:
            if self._stopped.is_set():
                raise InterruptedError("another thread stopped the work")
            yield batch
