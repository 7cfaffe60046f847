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
class Place:
    """Which of `world` processes this one is, which of `local_world` on its machine, and where all of them meet."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    address: str = ""
    port: int = 0


def own_cores() -> int:
    """On how many CPU cores this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_each(local_world: int) -> int:
    """How many CPU cores each of the `local_world` processes of this machine, of which this is one, has, at least 1.

    They share those that this process may run on, unless srun has started each, and may have given each its own.
    """
    own = own_cores()
    on_node = _number(os.environ, "SLURM_CPUS_ON_NODE", own)
    if "RANK" in os.environ:
        return max(1, min(own, on_node) // local_world)
    return max(1, min(own, on_node // local_world))


def find_place(env: Mapping[str, str]) -> Place:
    """This process's place by the variables of torchrun or, in a step of several tasks that srun started, of Slurm."""
    if "RANK" in env and "WORLD_SIZE" in env:
        place = _place_by_torchrun(env)
    elif "SLURM_PROCID" in env and _number(env, "SLURM_STEP_ID", SLURM_SPECIAL_STEPS) < SLURM_SPECIAL_STEPS:
        place = _place_by_slurm(env)
    else:
        place = Place()
    if not (0 <= place.rank < place.world and 0 <= place.local_rank < place.local_world <= place.world):
        raise UserError(f"the environment's ranks contradict each other: {place}")
    return place


def _place_by_torchrun(env: Mapping[str, str]) -> Place:
    world = _number(env, "WORLD_SIZE")
    if world == 1:
        return Place()
    return Place(
        _number(env, "RANK"),
        world,
        _number(env, "LOCAL_RANK", 0),
        _number(env, "LOCAL_WORLD_SIZE", 1),
        _value(env, "MASTER_ADDR"),
        _number(env, "MASTER_PORT"),
    )


def _place_by_slurm(env: Mapping[str, str]) -> Place:
    world = _number(env, "SLURM_STEP_NUM_TASKS", _number(env, "SLURM_NTASKS", 1))
    if world == 1:
        return Place()
    # The same for all tasks of a step, below the ports that systems give out, and another for most other steps.
    port = 15000 + (7 * _number(env, "SLURM_JOB_ID", 0) + _number(env, "SLURM_STEP_ID")) % 15000
    return Place(
        _number(env, "SLURM_PROCID"),
        world,
        _number(env, "SLURM_LOCALID", 0),
        _slurm_local_tasks(env, world),
        env.get("MASTER_ADDR") or _slurm_first_host(env),
        _number(env, "MASTER_PORT", port),
    )


def _slurm_local_tasks(env: Mapping[str, str], world: int) -> int:
    """How many tasks of the step run on this machine."""
    counts = []
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):  # as in 2(x3),1: two on three nodes, one on one
        if match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part):
            counts += [int(match[1])] * int(match[2] or 1)
    node = _number(env, "SLURM_NODEID", 0)
    return counts[node] if node < len(counts) else _number(env, "SLURM_NTASKS_PER_NODE", world)


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
