"""Ranks and sums, with the processes started by hand, by torchrun and as Slurm would."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, free_port, gone
from slurm_env import SLURM, add_scontrol

from utils import distributed
from utils.distributed import Processes, connect, wait_for_port
from utils.errors import UserError
from utils.launch_env import RankInfo

# Every operation, and what the result must be; rank 1 is slow in the end, and then, if the test wants it, silent.
OPERATIONS = """
import sys, time
import torch
from utils.distributed import connect

device_name, timeout_s, ending = sys.argv[1:]
with connect(device_name, float(timeout_s)) as processes:
    rank, world_size = processes.rank, processes.world_size
    assert (world_size, processes.local_world_size, processes.is_main) == (2, 2, rank == 0)
    device = processes.device
    values = torch.full((2, 3), rank + 1.0, dtype=torch.float64, device=device)
    assert processes.sum_(values) is values and (values == 3).all()
    columns = torch.full((2, 3), rank + 1.0)
    processes.sum_(columns[:, 1])
    assert columns.tolist() == [[rank + 1, 3, rank + 1]] * 2
    weight = torch.nn.Parameter(torch.ones(4))
    assert (processes.sum_(weight) == 2).all() and weight.requires_grad
    assert processes.sum_counts(2**53 + rank, 1) == (2**54 + 1, 2)
    data = {"level": rank, 3: (0.1, None, "ü"), "mask": torch.ones(rank + 1, dtype=torch.bool)}
    first, second = processes.gather_objects(data)
    assert (first["level"], second["level"], len(first["mask"]), len(second["mask"])) == (0, 1, 1, 2)
    assert processes.broadcast_object(data)["level"] == 0
    assert processes.broadcast_object(("recipe", [rank])) == ("recipe", [0])
    assert processes.gather_objects([*range(5)][processes.shard(5)]) == [[0, 1], [2, 3, 4]]
    if rank == 1:
        time.sleep(1)
    processes.barrier()
    sys.stdout.write(f"{rank} of {world_size} agrees\\n")
    sys.stdout.flush()
    if ending == "silence":
        if rank == 1:
            time.sleep(60)
        start = time.monotonic()
        try:
            processes.barrier()
        except RuntimeError:
            print(f"{rank} waited {time.monotonic() - start:.0f} s", flush=True)
            sys.exit(9)
"""


@pytest.fixture
def operations(tmp_path) -> Path:
    script = tmp_path / "operations.py"
    script.write_text(OPERATIONS)
    return script


@pytest.fixture
def clean_env(monkeypatch) -> pytest.MonkeyPatch:
    """An environment that names no other processes."""
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return monkeypatch


@pytest.fixture
def start(clean_env, tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts Python on a script and further variables; ends what is left of it after the test."""
    started = []

    def run(*argv: object, **env: object) -> subprocess.Popen:
        variables = os.environ | {name: str(value) for name, value in env.items()}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, *map(str, argv)]
        started.append(subprocess.Popen(command, env=variables, cwd=tmp_path, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_shards_cover_every_item_once(world_size):
    for n in range(11):
        shards = [range(n)[Processes(rank, world_size).shard(n)] for rank in range(world_size)]
        assert [item for part in shards for item in part] == [*range(n)]
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_process_alone_joins_nothing_and_gets_back_what_it_gives(clean_env):
    with connect("cpu") as processes:
        assert processes == Processes()
        assert processes.is_main and not dist.is_initialized()
        value = torch.arange(3)
        assert processes.sum_(value) is value and value.tolist() == [0, 1, 2]
        assert processes.sum_counts(5, 7) == (5, 7)
        assert processes.broadcast_object("x") == "x" and processes.gather_objects("x") == ["x"]
        assert processes.shard(4) == slice(0, 4)
        processes.barrier()


def test_devices(monkeypatch):
    two = RankInfo(1, 2, 1, 2)
    assert distributed._own_device("cpu", two) == torch.device("cpu")
    assert distributed._own_device("cuda:3", RankInfo()) == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="--device cuda needs"):
        distributed._own_device("cuda", two)
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    assert [distributed._own_device("cuda", two)] == chosen == [torch.device("cuda:1")]
    with pytest.raises(UserError, match="--device cuda:0 for 2 processes"):
        distributed._own_device("cuda:0", two)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes on a machine of 1 GPUs"):
        distributed._own_device("cuda", two)
    monkeypatch.setenv("SLURM_STEP_GPUS", "5")
    assert distributed._own_device("cuda", two) == torch.device("cuda:0")


def test_what_lies_on_the_cpu_never_waits_for_a_gpu(monkeypatch):
    """Every operation on it takes gloo's group, where a process that is gone is noticed at once."""
    gloo, used = object(), []

    def reached(*tensors, group=None, **_):
        used.append(group)
        if isinstance(tensors[0], list):  # all_gather: from both the same
            for part in tensors[0]:
                part.copy_(tensors[1])

    for name in ("all_reduce", "broadcast", "all_gather"):
        monkeypatch.setattr(dist, name, reached)
    processes = Processes(0, 2, 0, 2, torch.device("cuda"), gloo)
    assert processes.sum_counts(3) == (3,) and not processes.any(False)
    processes.barrier()
    assert processes.sum_(torch.ones(2)).tolist() == [1, 1]
    assert processes.broadcast_object("x") == "x"
    monkeypatch.setattr(Processes, "sum_counts", lambda self, *sizes: [max(sizes)] * 2)
    assert processes.gather_objects("x") == ["x", "x"]
    assert used == [gloo] * 7


def test_only_plain_data_travels():
    with pytest.raises(Exception, match="weights_only"):
        distributed._to_bytes(Path())


def test_nobody_there_is_one_line():
    start = time.monotonic()
    with pytest.raises(UserError, match=r"nothing answers at 127\.0\.0\.1:"):
        wait_for_port("127.0.0.1", free_port(), 0.5)
    assert time.monotonic() - start < 5


def test_a_name_server_that_does_not_know_a_host_is_believed_one_that_does_not_answer_is_asked_again(monkeypatch):
    failures = [socket.gaierror(code, "said") for code in (socket.EAI_AGAIN, socket.EAI_AGAIN, socket.EAI_NONAME)]

    def look_up(*_, **__):
        raise failures.pop(0)

    monkeypatch.setattr(socket, "create_connection", look_up)
    with pytest.raises(UserError, match="there is no host nobody: said"):
        wait_for_port("nobody", 1, 60)
    assert not failures


@pytest.mark.parametrize(
    ("error", "info", "kind", "words"),
    [
        (
            dist.DistBackendError("NCCL error: invalid usage\nncclInvalidUsage\nLast error:\nDuplicate GPU detected"),
            RankInfo(0, 2, 0, 2, "host0", 1),
            RuntimeError,
            "rank 0 is not connected to the others: NCCL error: .* Last error: Duplicate GPU detected",
        ),
        (
            RuntimeError("Unable to find address for: eth9"),
            RankInfo(0, 2, 0, 1, "host0", 1),
            RuntimeError,
            r"rank 0 is not connected to the others \(GLOO_SOCKET_IFNAME .*: Unable to find address for: eth9",
        ),
        (
            dist.DistStoreError("Timed out after 6 seconds"),
            RankInfo(0, 2, 0, 2, "host0", 1),
            UserError,
            r"does not meet the other processes at host0:1 \(MASTER_ADDR:MASTER_PORT\): Timed out after 6 seconds",
        ),
    ],
    ids=["nccl", "mesh", "store"],
)
def test_what_keeps_processes_apart_is_said_in_whole(monkeypatch, error, info, kind, words):
    """Where it is the backend's fault, another attempt may do: no user's mistake then."""

    def refuse(*_, **__):
        raise error

    for name in ("TCPStore", "PrefixStore"):
        monkeypatch.setattr(dist, name, lambda *_: None)
    monkeypatch.setattr(dist, "init_process_group", refuse)
    with pytest.raises(kind, match=f"^{words}" if kind is RuntimeError else words):
        distributed._join(info, torch.device("cpu"), 1)


def test_operations_over_slurm_and_a_process_that_is_slow_then_gone(start, operations, tmp_path):
    add_scontrol(tmp_path)
    env = {name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")}
    env |= {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_STEP_NODELIST": "localhost"}
    env |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "MASTER_PORT": free_port()}
    ranks = [start(operations, "cpu", 5, "silence", SLURM_PROCID=i, SLURM_LOCALID=i, **env) for i in range(2)]
    output, errors = ranks[0].communicate(timeout=60)
    assert ranks[0].returncode == 9, errors
    agrees, waited = output.splitlines()
    assert agrees == "0 of 2 agrees"
    assert 4 <= int(waited.split()[2]) <= 10
    assert ranks[1].poll() is None
    assert ranks[1].stdout.readline() == "1 of 2 agrees\n"


def test_operations_over_torchrun(start, operations):
    command = ["-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port()]
    output, errors = start(*command, operations, "cpu", 60, "end").communicate(timeout=60)
    assert sorted(output.splitlines()) == ["0 of 2 agrees", "1 of 2 agrees"], errors


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are needed")
def test_operations_over_nccl(start, operations):
    command = ["-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port()]
    output, errors = start(*command, operations, "cuda", 60, "end").communicate(timeout=120)
    assert sorted(output.splitlines()) == ["0 of 2 agrees", "1 of 2 agrees"], errors


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can do that")
def test_a_rank_does_not_outlive_its_launcher(start, tmp_path):
    rank = "import time; from utils.distributed import _end_with_launcher as end; end(); print(1, flush=True)"
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import subprocess, sys, time\n"
        f"rank = subprocess.Popen([sys.executable, '-c', '{rank}; time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "rank.stdout.readline(); print(rank.pid, flush=True); time.sleep(60)\n"
    )
    process = start(launcher, TORCHELASTIC_RUN_ID="any")
    pid = int(process.stdout.readline())
    assert not gone(pid)
    process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while not gone(pid):
        assert time.monotonic() < end
        time.sleep(0.05)
