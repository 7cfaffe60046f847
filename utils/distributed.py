"""Ranks and sums: the one module that knows torch.distributed.

A script is one process, or one of several that `multiproc.py`, torchrun or Slurm's srun started:

    with connect("cpu", args.timeout) as processes:
        correct = sum(map(is_correct, images[processes.shard(len(images))]))
        (correct,) = processes.sum_counts(correct)
        if processes.is_main:
            print(correct)
"""

import contextlib
import io
import json
import os
import socket
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import UserError, one_line
from utils.launch_env import RankInfo, read_rank_info
from utils.preemption import die_with_parent

CAUSE_S = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    That is `rank` of `world_size` processes, and `local_rank` of the `local_world_size` on its machine; `device` is its
    own.

    Every process calls the same operations in the same order. With one process they give back what they are given. An
    operation raises RuntimeError (or NCCL ends the process) when another process is gone or the timeout is over.

    Data on the CPU go over gloo, which notices at once that a process is gone, as after a refusal by rank 0; NCCL has
    what is on GPUs alone, and may wait for the lost one until the timeout is over.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _on_cpu: Any = field(default=None, repr=False, compare=False)  # a gloo group; None: the usual group is one
    # What the last operations worked on. Under torch 2.6 leaving a gloo group hangs while a thread of it is the last to
    # refer to a tensor: that thread waits for the interpreter, which waits for the thread.
    _recent: deque = field(default_factory=lambda: deque(maxlen=8), repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks for all."""
        return self.rank == 0

    def shard(self, n: int) -> slice:
        """Which of `n` items are this process's: neighbours, none twice or left out.

        The processes' numbers of items differ by one at most.
        """
        return slice(n * self.rank // self.world_size, n * (self.rank + 1) // self.world_size)

    @torch.no_grad()
    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor`, wherever it lies, by its sum over all processes, in its own precision, and return it."""
        if self.world_size > 1:
            total = tensor.contiguous()
            on_cpu = total.device.type == "cpu"
            if on_cpu:
                self._recent.append(total)
            dist.all_reduce(total, group=self._on_cpu if on_cpu else None)
            if total is not tensor:
                tensor.copy_(total)
        return tensor

    def sum_counts(self, *counts: int) -> tuple[int, ...]:
        """The sum of each whole number over all processes, exact below 2⁶³."""
        if self.world_size == 1:
            return counts
        return tuple(self.sum_(torch.tensor(counts, dtype=torch.int64)).tolist())

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process. It does not wait for what a GPU still computes."""
        if self.world_size == 1:
            return flag
        (votes,) = self.sum_counts(int(flag))
        return votes > 0

    def barrier(self) -> None:
        """Wait until every process has come here, not for what its GPU still computes."""
        self.sum_counts(0)

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's `value` in every process: plain data and tensors (which arrive on the CPU), never code."""
        if self.world_size == 1:
            return value
        data = _to_bytes(value) if self.is_main else torch.empty(0, dtype=torch.uint8)
        (size,) = self.sum_counts(len(data))
        data = _padded(data, size)
        self._recent.append(data)
        dist.broadcast(data, src=0, group=self._on_cpu)
        return _from_bytes(data)

    def from_main(self, ask: Callable[[], T]) -> T:
        """The main process's answer to `ask`, in every process: files may show late on other machines."""
        return self.broadcast_object(ask() if self.is_main else None)

    def meeting(self) -> Callable[[], None]:
        """A function that waits for all without a timeout, for processes that work alone for very different times.

        `meeting` itself must be called while all are in step. Who waits in it does not notice that another process has
        died: the launcher ends them all.
        """
        if self.world_size == 1:
            return lambda: None
        group = dist.new_group(backend="gloo", timeout=timedelta(days=365))

        def wait() -> None:
            self._recent.append(torch.zeros(1))
            dist.all_reduce(self._recent[-1], group=group)

        return wait

    def gather_objects(self, value: Any) -> list[Any]:
        """Every process's `value`, by rank, in every process: plain data and tensors, as `broadcast_object` has it."""
        if self.world_size == 1:
            return [value]
        data = _to_bytes(value)
        sizes = self.sum_counts(*(len(data) if rank == self.rank else 0 for rank in range(self.world_size)))
        data = _padded(data, max(sizes))
        parts = [torch.empty_like(data) for _ in sizes]
        self._recent.append((data, parts))
        dist.all_gather(parts, data, group=self._on_cpu)
        return [_from_bytes(part[:size]) for part, size in zip(parts, sizes, strict=True)]

    def wrap(self, net: nn.Module) -> nn.Module:
        """What trains `net` with gradients averaged over all processes: `net` itself if there is one."""
        if self.world_size == 1:
            return net
        devices = [self.device] if self.device.type == "cuda" else None
        warnings.filterwarnings("ignore", "Grad strides")  # 1×1 convolutions: two names for one layout
        warnings.filterwarnings("ignore", "`broadcast_buffers`")  # newer torch has a longer name for it
        # Each process keeps the statistics of what it sees, for `average_buffers_` to average.
        return DistributedDataParallel(net, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    @torch.no_grad()
    def average_buffers_(self, net: nn.Module) -> None:
        """Replace each floating-point buffer (batch-norm statistics) by its mean over all processes."""
        buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
        if self.world_size > 1 and buffers:
            sums = self.sum_(torch.cat([buffer.double().flatten() for buffer in buffers]))
            for buffer, total in zip(buffers, sums.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_((total / self.world_size).view_as(buffer))

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        if self.world_size == 1:
            return
        if error is None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # or NCCL could end while another GPU still needs this one
            self.barrier()  # The process that holds the store must not go while others need it.
        if isinstance(error, Exception):
            _report(error)
        if isinstance(error, RuntimeError):
            _let_the_cause_speak()
        # After an error NCCL would wait here for the others; the end of the process aborts it.
        if error is None or self.device.type != "cuda":
            dist.destroy_process_group()
        if _is_loss(error):
            raise RuntimeError(f"rank {self.rank} lost another rank, or waited for it longer than --timeout") from error


SINGLE = Processes()


def connect(device_name: str, timeout_s: float = 600.0) -> Processes:
    """Join the other processes of this run, as the environment of torchrun or of Slurm names them, or be alone.

    `device_name` is `cpu`, `cuda` or, where a machine has one process, `cuda:N`: NCCL on CUDA, with a GPU for each
    process of a machine, gloo on the CPU. A process that is gone, or silent, is waited for at most `timeout_s` seconds.
    UserError: the environment contradicts itself, too few GPUs, or the processes do not find each other. RuntimeError:
    they do, but NCCL or gloo cannot connect them.
    """
    info = read_rank_info(os.environ)
    device = _own_device(device_name, info)
    on_cpu = None
    if info.world_size > 1:
        _end_with_launcher()
        on_cpu = _join(info, device, timeout_s)
    return Processes(info.rank, info.world_size, info.local_rank, info.local_world_size, device, on_cpu)


def _own_device(name: str, info: RankInfo) -> torch.device:
    """The device of this process, made the current one where there are several processes."""
    device = torch.device(name)
    if info.world_size == 1 or device.type != "cuda":
        return device
    gpus = torch.cuda.device_count()
    if device.index is not None and info.local_world_size > 1:
        raise UserError(
            f"--device {name} for {info.local_world_size} processes: --device cuda gives each a GPU of its own"
        )
    if not dist.is_nccl_available() or not gpus:
        raise UserError("--device cuda needs CUDA and NCCL for several processes: --device cpu does without")
    index = info.local_rank if device.index is None else device.index
    if gpus == 1 and "SLURM_STEP_GPUS" in os.environ:
        index = 0  # Slurm may have given each task its own and hidden the others; NCCL finds out if it has not.
    if index >= gpus:
        raise UserError(
            f"{info.local_world_size} processes on a machine of {gpus} GPUs: start fewer, or give --device cpu"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def _join(info: RankInfo, device: torch.device, timeout_s: float) -> dist.ProcessGroup | None:
    """Meet the other processes; returns their group over the CPU where the default one is over GPUs."""
    timeout = timedelta(seconds=timeout_s)
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's launcher holds the store
    if info.rank > 0:
        wait_for_port(info.address, info.port, timeout_s)
    try:
        store = dist.TCPStore(info.address, info.port, info.world_size, info.rank == 0 and not by_agent, timeout)
        # A store that outlives an attempt still holds its keys.
        attempt = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        members = {"store": attempt, "rank": info.rank, "world_size": info.world_size, "timeout": timeout}
        if device.type != "cuda":
            dist.init_process_group("gloo", **members)
            return None
        dist.init_process_group("nccl", device_id=device, **members)
        return dist.new_group(backend="gloo", timeout=timeout)
    except (dist.DistStoreError, dist.DistNetworkError, ValueError) as error:
        where = f"{info.address}:{info.port} (MASTER_ADDR:MASTER_PORT)"
        raise UserError(f"rank {info.rank} does not meet the other processes at {where}: {error}") from error
    except RuntimeError as error:  # no UserError: it may be gone when the launcher tries again
        hint = ""
        if info.local_world_size < info.world_size:
            hint = " (GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network to use)"
        raise RuntimeError(f"rank {info.rank} is not connected to the others{hint}: {one_line(error)}") from error


def wait_for_port(address: str, port: int, timeout_s: float) -> None:
    """Return as soon as `port` of the host `address` answers; UserError after `timeout_s` seconds.

    torch's own clients wait too, but without hearing Ctrl-C, and print pages of C++ in the end.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
                raise UserError(f"there is no host {address}: {error.strerror}") from error
            if time.monotonic() > end:
                reason = error.strerror or error
                raise UserError(f"nothing answers at {address}:{port} for {timeout_s:g} s: {reason}") from error
        time.sleep(0.2)


def _end_with_launcher() -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()


def _report(error: Exception) -> None:
    """Write `error` where torchrun and `multiproc.py` look for what happened first, as torch's `record` would."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        details = {"py_callstack": traceback.format_exc(), "timestamp": str(int(time.time()))}
        text = json.dumps({"message": {"message": f"{type(error).__name__}: {error}", "extraInfo": details}})
        with contextlib.suppress(OSError):  # The launcher reads it whole or not at all; a full disk is no second error.
            Path(f"{path}.new").write_text(text)
            Path(f"{path}.new").replace(path)


def _is_loss(error: BaseException | None) -> bool:
    """Whether an operation has failed for another process's sake, as NCCL and gloo say it."""
    return isinstance(error, dist.DistBackendError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _let_the_cause_speak() -> None:
    """Give the launcher CAUSE_S seconds to end this process: its error may only follow from another's failure."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        time.sleep(CAUSE_S)


def _to_bytes(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    _from_bytes(data)  # Refuse here, with a traceback that helps, what the others would refuse.
    return data


def _from_bytes(data: Tensor) -> Any:
    return torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)


def _padded(data: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(data, (0, size - len(data)))
