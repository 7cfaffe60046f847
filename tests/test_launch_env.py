"""Which process this is, by the variables of torchrun and of Slurm."""

import os

import pytest
from slurm_env import SLURM, add_scontrol

from utils.errors import UserError
from utils.launch_env import RankInfo, cores_each, read_rank_info

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "host0",
    "MASTER_PORT": "8020",
}


@pytest.mark.parametrize(
    "own, on_node, local_world_size, cores",
    [
        (64, "", 8, 8),
        (2, "", 1, 2),
        (4, "", 8, 1),
        (8, "64", 8, 8),  # Slurm has given each task its own
        (64, "64", 8, 8),  # or all of them together
        (128, "32", 4, 8),  # or does not keep them from those that are others'
    ],
)
def test_processes_of_a_machine_share_its_cores(monkeypatch, own, on_node, local_world_size, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(own), raising=False)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", on_node)
    monkeypatch.delenv("RANK", raising=False)
    assert cores_each(local_world_size) == cores


@pytest.mark.parametrize("own, on_node, cores", [(64, "128", 8), (128, "64", 8), (16, "", 2)])
def test_processes_of_a_launcher_share_its_cores(monkeypatch, own, on_node, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(own), raising=False)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", on_node)
    monkeypatch.setenv("RANK", "0")
    assert cores_each(8) == cores


def test_place_by_torchrun():
    assert read_rank_info(TORCHRUN) == RankInfo(3, 4, 1, 2, "host0", 8020)
    assert read_rank_info({**TORCHRUN, **SLURM}) == RankInfo(3, 4, 1, 2, "host0", 8020)
    assert read_rank_info({"RANK": "0", "WORLD_SIZE": "1"}) == RankInfo()
    one_a_node = {name: value for name, value in TORCHRUN.items() if not name.startswith("LOCAL")}
    assert read_rank_info(one_a_node) == RankInfo(3, 4, 0, 1, "host0", 8020)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"RANK": "4"}, "RankInfo"),
        ({"LOCAL_RANK": "2"}, "RankInfo"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"MASTER_PORT": ""}, "MASTER_PORT"),
    ],
)
def test_a_contradictory_environment_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        read_rank_info({**TORCHRUN, **change})


def test_place_by_slurm(monkeypatch, tmp_path):
    add_scontrol(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    info = read_rank_info(SLURM)
    assert (info.rank, info.world_size, info.local_rank, info.local_world_size) == (3, 4, 1, 2)
    assert info.address == "node07" and 15000 <= info.port < 30000
    other_step = read_rank_info({**SLURM, "SLURM_STEP_ID": "1"})
    assert other_step.port != info.port
    given = read_rank_info({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "8020"})
    assert (given.address, given.port) == ("10.0.0.1", 8020)
    uneven = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_LOCALID": "0"}
    assert read_rank_info(uneven).local_world_size == 1
    with pytest.raises(UserError, match="MASTER_ADDR"):
        read_rank_info({**SLURM, "SLURM_JOB_NODELIST": "elsewhere"})


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_ID": ""},  # a batch script, or a shell
        {"SLURM_STEP_ID": str(0xFFFFFFFB)},  # a batch script, by Slurm's own number
        {"SLURM_STEP_ID": str(0xFFFFFFFA)},  # salloc's interactive step
        {"SLURM_NTASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_slurm_without_srun_is_one_process(change):
    assert read_rank_info({**SLURM, **change}) == RankInfo()
