"""A run's folder: one run at a time, nothing half-written left, and no run begun that will not fit."""

import contextlib
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import IMP, ROOT, SMALL, snapshot

from CIFAR import Lottery_pools, main_imp
from utils import folders
from utils.distributed import SINGLE
from utils.errors import UserError
from utils.tickets import find_tickets, read_ticket

# Torch, which takes seconds to import, has no part in a lock.
HOLD = """
import sys
from pathlib import Path
from types import SimpleNamespace

sys.modules["utils.distributed"] = SimpleNamespace(Processes=None)
from utils.folders import hold_lock, locked

path = Path(sys.argv[1])
with hold_lock(path) if path.suffix == ".lock" else locked(path, SimpleNamespace(is_main=True)):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Locks a folder in another process, or takes its turn with a lock file; returns that process."""
    held = []

    def start(folder: Path) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        held.append(subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, **pipes))
        assert held[-1].stdout.readline() == "locked\n"
        return held[-1]

    yield start
    for process in held:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_while_the_first_lives(hold, tmp_path):
    holder = hold(tmp_path)
    with (
        pytest.raises(UserError, match=f"{tmp_path} is in use by process {holder.pid} on "),
        folders.locked(tmp_path, SINGLE),
    ):
        pass
    holder.communicate("")
    with folders.locked(tmp_path, SINGLE):
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_of_a_dead_process_is_no_lock(hold, tmp_path, number):
    holder = hold(tmp_path)
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with folders.locked(tmp_path, SINGLE):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_is_no_longer_in_the_folder_is_taken_again(monkeypatch, tmp_path):
    """Its last holder may remove it after we have opened it and before we have locked it."""
    lock, removed = folders._lock, []

    def remove_first(file, path):
        if not removed:
            removed.append(path)
            path.unlink()
        lock(file, path)

    monkeypatch.setattr(folders, "_lock", remove_first)
    with folders.locked(tmp_path, SINGLE):
        assert (tmp_path / ".lock").exists()


def refuse(file, how):
    """In the place of `lockf`."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_file_system_without_locks_is_said_and_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(folders.fcntl, "lockf", refuse)
    with folders.locked(tmp_path, SINGLE):
        print("used")
    said = capsys.readouterr()
    assert "cannot be locked" in said.err and said.out == "used\n"


def take_turn(path: Path) -> tuple[threading.Thread, threading.Event]:
    """Waits in a thread for its turn; the event says that it has come."""
    came = threading.Event()

    def wait() -> None:
        with folders.hold_lock(path):
            came.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    return waiting, came


@pytest.mark.parametrize("number", [None, signal.SIGKILL])
def test_a_turn_comes_when_the_process_before_has_ended_in_whatever_way(hold, tmp_path, capfd, number):
    path = tmp_path / "new" / "images.lock"
    holder = hold(path)
    waiting, came = take_turn(path)
    assert not came.wait(0.3)
    assert f"waiting for another process, which holds {path}" in capfd.readouterr().err
    holder.communicate("") if number is None else holder.send_signal(number)
    assert came.wait(30)
    waiting.join()


def test_on_a_file_system_without_locks_it_is_always_ones_turn(monkeypatch, tmp_path):
    monkeypatch.setattr(folders.fcntl, "lockf", refuse)
    turns = []
    for number in (1, 2):
        with folders.hold_lock(tmp_path / "images.lock"):
            turns.append(number)
    assert turns == [1, 2]


def test_scripts_refuse_a_folder_in_use(fails, hold, small_tickets, tmp_path):
    hold(small_tickets)
    assert "is in use by process" in fails(main_imp, *SMALL, *IMP, "--pruning_times", 4, "--save_dir", small_tickets)
    for method in ("Lottery_pools", "linear_inter"):
        flags = [*SMALL, "--checkpoint", small_tickets, "--interpolate_method", method, "--save_dir", tmp_path / method]
        hold(tmp_path / method)
        assert "is in use by process" in fails(Lottery_pools, *flags)


@pytest.mark.parametrize("method", ["Lottery_pools", "ensemble", "linear_inter"])
def test_whatever_a_method_writes_it_writes_while_it_has_the_folder(method, search, tmp_path, monkeypatch):
    """Whoever comes next takes files that are half written for leftovers, and removes them."""
    create, locked = tempfile.NamedTemporaryFile, []

    def watched(*args, **kwargs):
        if kwargs.get("dir") == tmp_path / "pools":
            locked.append((kwargs["prefix"], (tmp_path / "pools" / folders.LOCK).exists()))
        return create(*args, **kwargs)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", watched)
    search("pools", "--interpolate_method", method, "--search_num", "1")
    assert any(".png" in name for name, _ in locked)
    assert [name for name, is_locked in locked if not is_locked] == []


def test_leftovers_of_a_killed_writer_go(small_tickets, tmp_path):
    flags = [*SMALL, "--checkpoint", str(small_tickets), "--search_num", "0", "--save_dir", str(tmp_path / "pools")]
    left = [small_tickets / ".0model_SA_best.pth.tar.abcd_123.tmp", tmp_path / "pools" / ".pools.json.abcd_123.tmp"]
    others = [*(small_tickets / name for name in ("notes.tmp", ".bashrc", ".notes.tmp", ".editor-swap.tmp"))]
    others += [tmp_path / "pools" / "deeper" / ".x.tmp"]
    for path in (*left, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    main_imp.main([*SMALL, *IMP, "--save_dir", str(small_tickets)])
    Lottery_pools.main(flags)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


Usage = namedtuple("Usage", "total used free")


def test_a_run_that_will_not_fit_is_not_begun(fails, monkeypatch, small_tickets, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10_000, 10_000))
    before = snapshot(small_tickets)
    line = fails(main_imp, *SMALL, *IMP, "--save_dir", tmp_path / "new" / "folder")
    assert "new/folder: tickets of 3 more levels need 0.4 MB and 0.0 MB are free" in line
    line = fails(Lottery_pools, *SMALL, "--checkpoint", small_tickets, "--save_dir", tmp_path / "pools")
    assert "3 more pools need" in line
    assert snapshot(small_tickets) == before


def test_a_finished_run_needs_no_room(monkeypatch, small_tickets):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))
    main_imp.main([*SMALL, *IMP, "--save_dir", str(small_tickets)])


@pytest.mark.parametrize("slim", [[], ["--slim"]])
def test_the_room_that_is_asked_for_is_that_of_the_files(monkeypatch, tmp_path, slim):
    asked = []
    monkeypatch.setattr("utils.imp.check_space", lambda folder, needed, what: asked.append(needed))
    main_imp.main([*SMALL, *IMP, *slim, "--save_dir", str(tmp_path)])
    taken = sum(path.stat().st_size for path in tmp_path.glob("*.pth.tar"))
    assert 0.5 * taken < asked[0] < taken  # so small a network has nearly as much zip directory as weights


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing to any file beyond so many bytes fails; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_the_last_good_ticket(small_tickets):
    """Writing fails at the n-th byte of a file, for n over the whole length of a checkpoint."""
    size = (small_tickets / "2checkpoint.pth.tar").stat().st_size
    before = {path: path.read_bytes() for path in small_tickets.glob("*.pth.tar")}
    flags = [*SMALL, *IMP, "--pruning_times", "4", "--save_dir", str(small_tickets)]
    for part in range(1, 8):
        with (
            largest_file(size * part // 8),
            pytest.raises(UserError, match=f"cannot write .*{re.escape(str(small_tickets))}"),
        ):
            main_imp.main([*flags, "--quiet"])
        assert not [*small_tickets.glob(".*")]
    for path, content in before.items():
        assert path.read_bytes() == content
    assert [read_ticket(file).level for file in find_tickets(small_tickets)][:3] == [0, 1, 2]
    main_imp.main(flags)
    assert len(find_tickets(small_tickets)) == 4


def test_a_full_disk_in_a_search_leaves_what_was_pooled(small_tickets, small_disk):
    flags = [*SMALL, "--checkpoint", str(small_tickets), "--search_num", "1", "--interpolation_value_list", "0.5"]
    Lottery_pools.main([*flags, "--levels", "0", "--save_dir", str(small_disk)])
    pool = (small_disk / "0pool.pth.tar").read_bytes()
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(room - 20_000))
    with pytest.raises(UserError, match=r"(cannot write .*: No space left on device|need .* MB are free)"):
        Lottery_pools.main([*flags, "--save_dir", str(small_disk)])
    assert (small_disk / "0pool.pth.tar").read_bytes() == pool
    (small_disk / "ballast").unlink()
    Lottery_pools.main([*flags, "--save_dir", str(small_disk)])
    assert len(list(small_disk.glob("*pool.pth.tar"))) == 3
