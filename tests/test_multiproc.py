"""The launcher: its flags, what it shows and keeps, and how everything ends when one rank fails or a user stops it."""

import os
import shlex
import signal
import socket
import time

import pytest
import torch
from conftest import free_port, gone
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

import multiproc
from utils import preemption
from utils.errors import UserError

PAPER = (
    "--nproc_per_node 2 Lottery_pools.py --save_dir tickets data --interpolation_value_list 0.5 --seed 17 "
    "--master_port 8020 -j32 -p 500 --arch imagenet_resnet_18 --interpolate_method Lottery_pools"
)
# The ranks agree on a sum, and write to both streams.
AGREE = """
import os, sys
from utils.distributed import connect

with connect("cpu", timeout_s=60) as processes:
    (total,) = processes.sum_counts(processes.rank + 1)
    here = f"{processes.local_rank} of {processes.local_world_size} here"
    print(f"rank {processes.rank} of {processes.world_size}, {here}: {total}")
    print(sys.argv[1:], "threads:", os.environ["OMP_NUM_THREADS"])
    print(f"rank {processes.rank} warns", file=sys.stderr)
"""
# In the first attempt rank 1 fails while rank 0 waits for it; in the second all is well.
FAIL_ONCE = """
import os
from pathlib import Path
from utils.distributed import connect

with connect("cpu", timeout_s=60) as processes:
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    Path(f"pid{processes.rank}.{attempt}").write_text(str(os.getpid()))
    processes.barrier()
    if processes.rank == 1 and attempt == "0":
        raise ValueError("the first attempt fails")
    processes.barrier()
    if processes.is_main:
        print("the second attempt ends well")
"""
# Without torch, which takes seconds to import. Rank 1 ends as the first argument says, rank 0 waits.
PLAIN = """
import os, sys, time
from pathlib import Path

rank, ending = os.environ["RANK"], sys.argv[1]
Path(f"new{rank}").write_text(str(os.getpid()))
Path(f"new{rank}").rename(f"pid{rank}.{ending}")
if ending == "mistake":
    sys.exit((print("plain.py: error: no such folder: x", file=sys.stderr), 2)[1])
while rank == "1" and not Path(f"pid0.{ending}").exists():
    time.sleep(0.05)
if rank == "1" and ending == "die":
    os.abort()
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def hear_ctrl_c():
    """A shell starts background jobs deaf to Ctrl-C, their children too; multiproc.py respects that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def scripts(tmp_path) -> None:
    """The scripts above, in the folder that `launch` works in."""
    for name, text in {"agree": AGREE, "fail_once": FAIL_ONCE, "plain": PLAIN}.items():
        (tmp_path / f"{name}.py").write_text(text)


@pytest.fixture
def in_process(monkeypatch) -> None:
    """For the launcher's `main` in this process: what it sets for itself is not for other tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(multiproc, "die_of_signals", lambda: None)
    monkeypatch.setattr(multiproc.logging, "disable", lambda: None)


def assert_gone(pids: list[int], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not all(map(gone, pids)):
        assert time.monotonic() < end, "a process is left behind"
        time.sleep(0.05)


def parse(line: str):
    return multiproc.parse(shlex.split(line))


def test_the_papers_command():
    args = parse(PAPER)
    assert (args.nproc_per_node, args.master_port, args.script) == (2, 8020, "Lottery_pools.py")
    assert args.script_args == shlex.split(PAPER.partition(".py ")[2].replace("--master_port 8020 ", ""))
    assert "-j32" in args.script_args and args.script_args[-2:] == ["--interpolate_method", "Lottery_pools"]


def test_a_port_stands_anywhere():
    assert parse("--master_port 1 run.py").master_port == 1
    assert parse("run.py a --master_port=2 -- b").master_port == 2
    assert parse("run.py a --master_port=2 -- b").script_args == ["a", "--", "b"]
    assert parse("--master_port 1 run.py --master_port 2").master_port == 1
    assert parse("run.py --master_ports 2 --help").script_args == ["--master_ports", "2", "--help"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "script"),
        ("--master_port 65536 run.py", "--master_port: 65536"),
        ("run.py --master_port none", "--master_port"),
        ("--nproc_per_node 2 run.py --master_port", "--master_port"),
        ("--nproc_per_node 0 run.py", "--nproc_per_node"),
        ("missing.py", "missing.py"),
        (f"--nnodes 2 {__file__}", "--master_addr"),
        (f"--nnodes 2 --node_rank 2 --master_addr host0 {__file__}", "--node_rank 2"),
        (f"--log_dir {__file__} {__file__}", "--log_dir"),
    ],
)
def test_a_mistake_is_one_line(fails, in_process, line, named):
    error = fails(multiproc, *shlex.split(line))
    assert error.startswith("multiproc.py: error: ") and named in error


def test_a_port_in_use(fails, in_process):
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        error = fails(multiproc, __file__, "--master_port", port)
    assert error.startswith(f"multiproc.py: error: --master_port {port}: address already in use")


def test_a_process_per_gpu(monkeypatch):
    def processes(line: str) -> int:
        args = parse(line)
        multiproc.check(args)
        return args.nproc_per_node

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert processes(__file__) == 1
    assert processes(f"--nproc_per_node 3 {__file__}") == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes(__file__) == 2
    assert processes(f"--nproc_per_node 3 {__file__} --device cpu") == 3
    assert processes(f"{__file__} --device=cpu") == 1
    with pytest.raises(UserError, match="--nproc_per_node 3: this machine has 2 GPUs"):
        processes(f"--nproc_per_node 3 {__file__}")


def test_who_failed_first(tmp_path):
    reports = [tmp_path / f"rank{rank}.error.json" for rank in range(4)]
    for rank, report in enumerate(reports):
        report.write_text('{"message": {"message": "x", "extraInfo": {"timestamp": "100"}}}')
        os.utime(report, ns=(0, 10 - rank))

    def blamed(*failures: tuple[int, int, bool], killed: frozenset[int] = frozenset()) -> int:
        found = {
            rank: ProcessFailure(rank, 1, status, str(reports[rank]) if reported else "")
            for rank, status, reported in failures
        }
        return multiproc.first_failure(found, killed)[0]

    assert blamed((0, 1, True), (1, 1, True)) == 1  # it reported earlier
    assert blamed((0, -15, False), (1, 7, False)) == 1  # the launcher ended the other
    assert blamed((0, 1, True), (1, -9, False)) == 1  # the other lost it
    assert blamed((0, -9, False), (1, 1, True), killed=frozenset({0})) == 1  # the launcher had to kill the other
    assert blamed((0, -9, True), (1, -9, False), killed=frozenset({0})) == 1  # which had lost it, and did not end
    assert blamed((1, 7, False), (0, 143, False)) == 1  # the other ended at the launcher's wish
    assert blamed((0, -6, False), (1, 1, True)) == 1  # NCCL ended the other


@pytest.mark.parametrize("said", ["run.py: error: no such folder: x", "stopped by SIGTERM; give the same command"])
def test_what_a_script_says_at_its_end_is_found_before_later_warnings(said):
    assert multiproc.last_word(["loading", said, "[W] destroy_process_group() was not called"]) == said
    assert multiproc.last_word(["loading", "usage: run.py"]) == "usage: run.py"


def test_launchers_of_two_machines_do_not_share_a_folder_for_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(multiproc.time, "strftime", lambda _: "now")
    flags = f"--nnodes 2 --log_dir {tmp_path}/logs run.py"
    folders = {multiproc.make_folder(parse(f"--node_rank {rank} {flags}")) for rank in (0, 1)}
    assert {*(tmp_path / "logs").iterdir()} == folders and len(folders) == 2


def test_two_ranks_one_terminal_and_a_file_each(launch, tmp_path):
    port = free_port()
    run = launch("--nproc_per_node", 2, "agree.py", "data", "--master_port", port, "-j32", "two words", "$HOME").end()
    assert run.status == 0, run.errors
    announced, placed, passed = run.out
    assert run.err == ["rank 0 warns"]
    assert placed == "rank 0 of 2, 0 of 2 here: 3"
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert passed == f"['data', '-j32', 'two words', '$HOME'] threads: {threads}"
    folder = tmp_path / announced.rpartition(" logs in ")[2] / "attempt_0"
    assert (folder / "rank0.stdout.log").read_text().splitlines() == [placed, passed]
    assert (folder / "rank1.stdout.log").read_text().splitlines() == ["rank 1 of 2, 1 of 2 here: 3", passed]
    assert (folder / "rank1.stderr.log").read_text() == "rank 1 warns\n"


def test_two_nodes(launch):
    flags = ["--nnodes", 2, "--master_addr", "127.0.0.1", "--master_port", free_port()]
    nodes = [launch(*flags, "--node_rank", node, "agree.py") for node in (0, 1)]
    first, second = (node.end() for node in nodes)
    assert (first.status, second.status) == (0, 0), first.errors + second.errors
    assert first.out[1] == "rank 0 of 2, 0 of 1 here: 3"
    assert all(line.startswith("multiproc.py: ") for line in second.out) and not second.err


def test_a_second_attempt(launch):
    run = launch("--nproc_per_node", 2, "--max_restarts", 1, "fail_once.py")
    first = run.pids("0")
    assert_gone(first, 20)
    end = run.end()
    assert end.status == 0, end.errors
    assert end.out[1:] == ["the second attempt ends well"]
    assert end.err[0].startswith("multiproc.py: rank 1 failed with exit status 1; all start again; its log: ")
    assert end.err[-1].endswith("ValueError: the first attempt fails")
    assert sum("Traceback" in line for line in end.err) == 1


def test_a_rank_that_dies_ends_all(launch):
    run = launch("--nproc_per_node", 2, "plain.py", "die")
    pids = run.pids("die")
    start = time.monotonic()
    end = run.end()
    assert time.monotonic() - start < 15
    assert all(map(gone, pids))
    assert end.status == 128 + signal.SIGABRT
    assert end.err[0].startswith("multiproc.py: rank 1 was killed by SIGABRT; its log: ")


def test_a_users_mistake_is_one_line_and_not_tried_again(launch):
    run = launch("--nproc_per_node", 2, "--max_restarts", 3, "plain.py", "mistake").end()
    assert (run.status, run.err) == (2, ["plain.py: error: no such folder: x"])


def test_a_signal_ends_all(launch):
    endings = {"interrupted": (signal.SIGINT, 130), "terminated": (signal.SIGTERM, preemption.EXIT_STATUS)}
    runs = {kind: launch("--nproc_per_node", 2, "plain.py", kind) for kind in endings}
    for kind, run in runs.items():
        pids = run.pids(kind)
        start = time.monotonic()
        number, status = endings[kind]
        run.process.send_signal(number)
        assert run.end().status == status
        assert time.monotonic() - start < 8
        assert all(map(gone, pids))
