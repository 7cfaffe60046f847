"""What becomes of ImageNet's scripts under multiproc.py when one of two ranks is killed, slow, or silent for good."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import IMAGENET_IMP, IMAGENET_SEARCH, ROOT, Launched, launched

from utils import preemption, tickets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ranks are looked for in /proc")
END_S = 30  # within which all must have come to an end
TIMEOUT_S = 30  # of a silent rank; on cores that others use too, one may take long to begin
EARLY = "level 0 epoch   1/3"  # what main_imp.py says after its first epoch


@dataclass
class Script:
    """A script to disturb: its command, what rank 0 says in the midst of it, and whether it ended as it should."""

    command: list
    early: str
    late: str
    check: Callable[[], None]


def train(photographs: Path, folder: Path) -> list:
    """The command of small tickets in `folder`."""
    return [ROOT / "ImageNet" / "main_imp.py", photographs, *IMAGENET_IMP, "--save_dir", folder]


@pytest.fixture
def imp(photographs, imagenet_tickets, tmp_path) -> Script:
    folder = tmp_path / "tickets"

    def check() -> None:
        ours, theirs = (
            {path.relative_to(top): path.read_bytes() for path in top.rglob("*.pth*")}
            for top in (folder, imagenet_tickets)
        )
        assert ours == theirs and len(ours) == 2 * 3

    return Script(train(photographs, folder), EARLY, "level 1 epoch   2/3", check)


@pytest.fixture
def search(photographs, imagenet_tickets, imagenet_pools, tmp_path) -> Script:
    folder = tmp_path / "pools"

    def check() -> None:
        ours, theirs = (
            json.loads((top / tickets.POOLS_JSON).read_text())["pools"] for top in (folder, imagenet_pools / "two")
        )
        assert ours == theirs and len(ours) == 2
        for entry in ours:
            pool, other = (
                torch.load(top / entry["checkpoint"], weights_only=True)["state_dict"]
                for top in (folder, imagenet_pools / "two")
            )
            assert all(torch.equal(pool[name], other[name]) for name in other)

    files = ["--save_dir", imagenet_tickets, photographs, "--output_dir", folder]
    command = [ROOT / "ImageNet" / "Lottery_pools.py", *files, *IMAGENET_SEARCH]
    return Script(command, "level 0: 100.00% of weights remain", "level 1: 80.0", check)


def two_ranks(folder: Path) -> list:
    """The launcher's flags."""
    return ["--nproc_per_node", 2, "--log_dir", folder / "logs"]


@pytest.fixture
def start(launch, tmp_path) -> Callable[..., Launched]:
    """Starts a script on two ranks; flags come before its name (the launcher's) or after it (its own)."""
    return lambda *words: launch(*two_ranks(tmp_path), *words)


def processes(folder: Path) -> dict[int, str]:
    """The ranks that log below `folder` and all that they have started: process numbers, and whose rank they are."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            pairs = (pair.partition("=") for pair in path.read_text().split("\0"))
            env = {name: value for name, _, value in pairs}
            if env.get("TORCHELASTIC_ERROR_FILE", "").startswith(str(folder)):
                found[int(path.parent.name)] = env["RANK"]
    return found


def wait_until(run: Launched, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < end
        assert run.process.poll() is None, "\n".join(run.process.communicate())  # as text, it is shown to its end
        time.sleep(0.005)


def ranks_of(run: Launched) -> list[int]:
    """The process numbers of both ranks, as soon as they are there."""
    found = {}

    def are_there() -> bool:  # both, and none of their helpers yet
        found.clear()
        found.update(processes(run.folder))
        return len(found) == 2

    wait_until(run, are_there)
    return sorted(found, key=found.get)


def wait_for(said: str, run: Launched) -> None:
    """Return as soon as rank 0 has `said` something in its first attempt."""
    logs = run.folder / "logs"
    pattern = f"*-{run.process.pid}/attempt_0/rank0.stdout.log"
    wait_until(run, lambda: any(said in log.read_text() for log in logs.glob(pattern)))


def assert_all_end(run: Launched, seconds: float) -> SimpleNamespace:
    """How the launcher comes to its end within `seconds`; nothing may be left of its ranks."""
    begun = time.monotonic()
    end = run.end()
    assert time.monotonic() - begun < seconds
    assert not processes(run.folder)
    return end


@pytest.fixture(scope="module")
def silent(photographs, tmp_path_factory) -> Iterator[Future]:
    """The end of a run one of whose ranks has stopped for good.

    It is a long time off, and nothing computes until then: the first test has it begin, and the last one waits for it.
    """
    folder = tmp_path_factory.mktemp("silent")
    with launched(folder) as launch, ThreadPoolExecutor(1) as waiting:
        run = launch(*two_ranks(folder), *train(photographs, folder / "tickets"), "--timeout", TIMEOUT_S, "-j1")
        ranks = ranks_of(run)
        wait_for(EARLY, run)
        os.kill(ranks[0], signal.SIGSTOP)
        yield waiting.submit(assert_all_end, run, TIMEOUT_S + END_S)


def assert_waits_for(slow: int, run: Launched) -> None:
    """A rank that says nothing for a while is neither given up nor left behind."""
    os.kill(slow, signal.SIGSTOP)
    time.sleep(5)
    assert run.process.poll() is None
    os.kill(slow, signal.SIGCONT)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("name, victim", [("imp", 0), ("search", 1)])
def test_after_a_rank_was_killed_a_second_attempt_goes_on(request, start, name, victim):
    """Without the processes that decoded images for the first one; before that, a slow rank was waited for."""
    script = request.getfixturevalue(name)
    run = start("--max_restarts", 1, *script.command, "-j1")
    ranks = ranks_of(run)
    wait_for(script.early, run)
    if name == "imp":
        assert_waits_for(ranks[1], run)
    wait_for(script.late, run)
    os.kill(ranks[victim], signal.SIGKILL)
    killed = time.monotonic()
    wait_until(run, lambda: any(run.folder.glob(f"logs/*-{run.process.pid}/attempt_1")))
    assert time.monotonic() - killed < END_S, "all ranks of the first attempt have ended by then"
    (first,) = run.folder.glob(f"logs/*-{run.process.pid}/attempt_0")
    wait_until(run, lambda: not processes(first))
    end = run.end()
    assert end.status == 0, end.errors
    assert f"multiproc.py: rank {victim} was killed by SIGKILL; all start again; its log: " in end.errors
    script.check()


def test_ranks_stop_in_the_midst_of_an_epoch_and_go_on(start, imp, imagenet_tickets, tmp_path):
    """With processes that decode images, which must neither end before their ranks nor keep them from ending.

    The ranks' batch-norm statistics are averaged once more, so those agree to rounding, not bit for bit.
    """
    run = start(*imp.command, "-j1")
    wait_for(imp.early, run)
    run.process.send_signal(signal.SIGTERM)
    end = assert_all_end(run, END_S)
    assert end.status == preemption.EXIT_STATUS
    assert "stopped by SIGTERM" in end.errors
    assert start(*imp.command).end().status == 0
    for theirs in imagenet_tickets.rglob("*.pth*"):
        ours = tmp_path / "tickets" / theirs.relative_to(imagenet_tickets)
        states = (torch.load(path, weights_only=True) for path in (ours, theirs))
        for found, expected in zip(*(state.get("state_dict", state).values() for state in states), strict=True):
            torch.testing.assert_close(found, expected)


def test_a_silent_rank_ends_all_when_the_timeout_is_over(silent):
    """Also those who wait for it, and the processes that decode images for them."""
    end = silent.result()
    assert end.status == 1
    assert "multiproc.py: rank 1 failed" in end.errors
    assert end.err[-1].endswith("rank 1 lost another rank, or waited for it longer than --timeout")
