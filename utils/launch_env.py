"""Which of several processes this one is, as the environment of torchrun or of Slurm tells it."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from utils.errors import UserError

# Slurm's numbers of steps that are no srun: the batch script, 0xfffffffb, an interactive shell, 0xfffffffa, and others.
SLURM_SPECIAL_STEPS = 0xFFFFFFF0


@dataclass(frozen=True)
class RankInfo:
    """Which of all processes this one is, which of those on its machine, and at what address and port all meet."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str = ""
    port: int = 0


def own_cores() -> int:
    """On how many CPU cores this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_each(local_world_size: int) -> int:
    """How many CPU cores (at least 1) each process of this machine has, if it runs `local_world_size` of them.

    They share those that this process may run on, unless srun has started each, and may have given each its own.
    """
    own = own_cores()
    on_node = _number(os.environ, "SLURM_CPUS_ON_NODE", own)
    if "RANK" in os.environ:
        return max(1, min(own, on_node) // local_world_size)
    return max(1, min(own, on_node // local_world_size))


def read_rank_info(env: Mapping[str, str]) -> RankInfo:
    """What torchrun's variables tell of this process or, in a step of several tasks that srun started, Slurm's.

    UserError where they contradict each other, or one is missing or no number.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        info = _info_by_torchrun(env)
    elif "SLURM_PROCID" in env and _number(env, "SLURM_STEP_ID", SLURM_SPECIAL_STEPS) < SLURM_SPECIAL_STEPS:
        info = _info_by_slurm(env)
    else:
        info = RankInfo()
    if not (0 <= info.rank < info.world_size and 0 <= info.local_rank < info.local_world_size <= info.world_size):
        raise UserError(f"the environment's ranks contradict each other: {info}")
    return info


def _info_by_torchrun(env: Mapping[str, str]) -> RankInfo:
    world_size = _number(env, "WORLD_SIZE")
    if world_size == 1:
        return RankInfo()
    return RankInfo(
        _number(env, "RANK"),
        world_size,
        _number(env, "LOCAL_RANK", 0),
        _number(env, "LOCAL_WORLD_SIZE", 1),
        _value(env, "MASTER_ADDR"),
        _number(env, "MASTER_PORT"),
    )


def _info_by_slurm(env: Mapping[str, str]) -> RankInfo:
    world_size = _number(env, "SLURM_STEP_NUM_TASKS", _number(env, "SLURM_NTASKS", 1))
    if world_size == 1:
        return RankInfo()
    # The same for all tasks of a step, below the ports that systems give out, and another for most other steps.
    port = 15000 + (7 * _number(env, "SLURM_JOB_ID", 0) + _number(env, "SLURM_STEP_ID")) % 15000
    return RankInfo(
        _number(env, "SLURM_PROCID"),
        world_size,
        _number(env, "SLURM_LOCALID", 0),
        _slurm_local_tasks(env, world_size),
        env.get("MASTER_ADDR") or _slurm_first_host(env),
        _number(env, "MASTER_PORT", port),
    )


def _slurm_local_tasks(env: Mapping[str, str], world_size: int) -> int:
    """How many tasks of the step run on this machine."""
    counts = []
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):  # as in 2(x3),1: two on three nodes, one on one
        if match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part):
            counts += [int(match[1])] * int(match[2] or 1)
    node = _number(env, "SLURM_NODEID", 0)
    return counts[node] if node < len(counts) else _number(env, "SLURM_NTASKS_PER_NODE", world_size)


def _slurm_first_host(env: Mapping[str, str]) -> str:
    """The host of task 0, from a list such as node[07-09,12]."""
    hosts = env.get("SLURM_STEP_NODELIST") or _value(env, "SLURM_JOB_NODELIST")
    try:
        command = ["scontrol", "show", "hostnames", hosts]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise UserError(f"scontrol does not name the hosts of {hosts}: set MASTER_ADDR to the first of them") from error


def _value(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise UserError(f"the environment variable {name} is missing: start several processes by multiproc.py or srun")
    return env[name]


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and not env.get(name):
        return default
    try:
        return int(_value(env, name))
    except ValueError:
        raise UserError(f"the environment variable {name} is no whole number: {env[name]}") from None
