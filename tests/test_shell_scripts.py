"""What scripts/*.sh call, with an interpreter that notes how it was called."""

import functools
import importlib
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

NOTE = """#!/bin/sh
if [ "$1" = -c ]; then exec python3 "$@"; fi
echo "$*" >> "$NOTES"
case "$*" in
  *"$FAILS"*) echo "this went wrong" >&2; exit 2 ;;
esac
"""


@pytest.fixture
def noted(tmp_path):
    """Runs a script; returns the finished process and the commands of Python, those of a study in their order."""
    python, notes = tmp_path / "python", tmp_path / "notes"
    python.write_text(NOTE)
    python.chmod(0o755)
    (tmp_path / "images.npz").touch()

    def run(
        script: str, *arguments: str, fails: str = "nothing", **env: str
    ) -> tuple[subprocess.CompletedProcess, list[str]]:
        notes.write_text("")
        env = {"PYTHON": str(python), "NOTES": str(notes), "FAILS": fails, "DATA": "images.npz", "OUT": "out", **env}
        command = ["bash", ROOT / "scripts" / script, *arguments]
        # Its own folder is the repository: names are seen from there.
        env = {name: str(tmp_path / value) if name in ("DATA", "OUT") else value for name, value in env.items()}
        done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
        return done, notes.read_text().splitlines()

    return run


@pytest.fixture
def reproduce(noted) -> Callable:
    return functools.partial(noted, "reproduce_cifar100.sh")


def test_every_seed_gets_tickets_then_all_methods_and_the_runs_one_table(reproduce, tmp_path):
    done, calls = reproduce(ARCHS="resnet20s", SEEDS="7 8", EPOCHS="40", LEVELS="3", JOBS="1")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2 * 8 + 1
    for seed, study in ((7, calls[:8]), (8, calls[8:16])):
        assert [call.split()[1] for call in study] == ["CIFAR/main_imp.py", *["CIFAR/Lottery_pools.py"] * 7]
        assert all(f"--dataset npz --data {tmp_path}/images.npz" in call for call in study)
        assert all(f"--arch resnet20s --seed {seed}" in call for call in study)
        assert f"--save_dir {tmp_path}/out/resnet20s/seed{seed}" in study[0]
        assert "--rewind_epoch 30 --pruning_times 3 --epochs 40" in study[0]
        assert "--lr 0.1 --decreasing_lr 35,37" in study[0]
        methods = [re.search(r"--interpolate_method (.*)", call)[1] for call in study[1:]]
        assert methods == [
            *("Lottery_pools", "Lottery_pools --interpolation_value_list 0.5", "average_or_soup --denser_num 1"),
            *("interpolate_swa", "interpolate_ema --EMA_value 0.95", "recalibrated", "ensemble"),
        ]
    assert calls[16].startswith(f"CIFAR/evaluate.py --save_dir {tmp_path}/out/resnet20s ")


def test_the_gpu_scale_rewinds_as_early_as_the_paper_and_the_schedule_can_be_chosen(reproduce):
    _, calls = reproduce("resnet18", "5", SCALE="gpu", EPOCHS="40")
    assert "--rewind_epoch 2 --pruning_times 12 --epochs 40" in calls[0]
    assert "--decreasing_lr 20,30" in calls[0]
    _, calls = reproduce("resnet18", "5", SCALE="gpu", REWIND="9", MILESTONES="45,55")
    assert "--rewind_epoch 9 --pruning_times 12 --epochs 60" in calls[0]
    assert "--decreasing_lr 45,55" in calls[0]
    assert all("--rewind_epoch 9" in call for call in calls)


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize("emptied, left", [("IMP_FLAGS", 7), ("POOL_FLAGS", 1)])
def test_flags_that_are_emptied_stay_empty_in_every_study(reproduce, scale, emptied, left):
    _, calls = reproduce(SCALE=scale, ARCHS="resnet20s", SEEDS="7", **{emptied: ""})
    assert len(calls) == 9
    assert sum("--amp" in call or "--fast" in call for call in calls) == left


def test_each_network_has_its_table_and_the_narrow_vgg_a_lower_learning_rate(reproduce, tmp_path):
    _, calls = reproduce(SEEDS="7", JOBS="1")
    trained = [call for call in calls if "main_imp.py" in call]
    assert ["--arch resnet20s" in call and "--lr 0.1 " in call for call in trained] == [True, False]
    assert ["--arch vgg16_bn_16" in call and "--lr 0.02 " in call for call in trained] == [False, True]
    tables = [call.split()[2] for call in calls if call.startswith("CIFAR/evaluate.py ")]
    assert tables == [f"{tmp_path}/out/resnet20s", f"{tmp_path}/out/vgg16_bn_16"]


def test_one_study_alone_makes_no_table(reproduce):
    _, calls = reproduce("vgg16_bn", "5", SCALE="gpu")
    assert len(calls) == 8
    assert all("--arch vgg16_bn --seed 5" in call for call in calls)


def test_a_study_that_fails_is_said_and_ends_in_no_table(reproduce):
    done, calls = reproduce(SEEDS="7 8", JOBS="1", fails="interpolate_swa")
    assert done.returncode != 0
    assert "this went wrong" in done.stderr
    assert not any(call.startswith("CIFAR/evaluate.py") for call in calls)


def test_the_table_is_of_all_pools_that_are_there_whatever_flags_named_them(reproduce, tmp_path):
    found = tmp_path / "out/resnet20s/seed7/pools/Lottery_pools_passes_2/pools.json"
    found.parent.mkdir(parents=True)
    found.touch()
    done, calls = reproduce(ARCHS="resnet20s", SEEDS="7", JOBS="1", POOL_FLAGS="--passes 2")
    assert done.returncode == 0, done.stderr
    assert calls[-1] == f"CIFAR/evaluate.py --save_dir {tmp_path}/out/resnet20s {found}"


def test_a_network_without_a_seed_is_no_study_of_everything(reproduce):
    done, calls = reproduce("resnet20s")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.startswith("usage: ")


def test_a_scale_of_another_name_is_refused(reproduce):
    done, calls = reproduce(SCALE="tpu")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == "SCALE=tpu: choose cpu or gpu\n"


@pytest.mark.parametrize("script", ["quickstart.sh", "benchmarks.sh", "reproduce_cifar100.sh"])
def test_an_interpreter_is_seen_from_where_the_script_is_called(noted, tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    done, calls = noted(script, PYTHON="./python", ARCHS="resnet20s", SEEDS="7")
    assert done.returncode == 0, done.stderr
    assert "main_imp.py" in " ".join(calls)


def parsed(call: str, folder: str = ""):
    """What the script of a call, made in this folder, makes of its flags."""
    name, *flags = shlex.split(call.removeprefix("-u "))
    module = importlib.import_module((folder + name).removesuffix(".py").replace("/", "."))
    return module.build_parser().parse_args(flags)


@pytest.mark.parametrize(
    "script, folder, scale, count",
    [
        *(("quickstart.sh", "CIFAR/", "", 7), ("cifar_imp.sh", "CIFAR/", "", 1), ("cifar_pools.sh", "CIFAR/", "", 6)),
        *(("reproduce_cifar100.sh", "", "cpu", 9), ("reproduce_cifar100.sh", "", "gpu", 9)),
    ],
)
def test_the_programs_know_every_flag_that_they_are_called_with(noted, script, folder, scale, count):
    names = {"ARCHS": "resnet20s", "DATASETS": "cifar10", "SEEDS": "7"}
    done, calls = noted(script, SCALE=scale or "cpu", **names)
    assert done.returncode == 0, done.stderr
    assert len([parsed(call, folder) for call in calls]) == count


@pytest.mark.parametrize(("device", "arch"), [("cpu", "resnet20s"), ("cuda", "resnet18"), ("cuda:1", "resnet18")])
def test_the_benchmarks_take_their_flags_and_search_the_tickets_found_before(noted, tmp_path, device, arch):
    done, calls = noted("benchmarks.sh", DEVICE=device)
    assert done.returncode == 0, done.stderr
    names = [re.search(r"(\w+)\.py", call)[1] for call in calls]
    on_gpu = device.startswith("cuda")
    assert names == ["main_imp", "train", "search", "growth", "forward", *(["train", "search"] if on_gpu else [])]
    imp, train, search, growth, forward, *graphs = map(parsed, calls)
    assert {found.device for found in (imp, train, search, forward, growth)} == {device}
    assert {found.arch for found in (imp, train, search, forward, growth)} == {arch}
    assert imp.save_dir == search.tickets and max(search.levels) < imp.pruning_times
    assert imp.rewind_epoch < imp.epochs and imp.data_limit == train.images == search.images
    assert any(way.startswith("graph") for way in forward.ways) == on_gpu
    assert {found.out for found in (train, search, forward, growth)} == {tmp_path / "out"}
    assert {found.out for found in graphs} <= {tmp_path / "out" / "graphs"}


def test_a_benchmark_that_torch_refuses_stops_no_other(noted):
    done, calls = noted("benchmarks.sh", DEVICE="cuda", fails="forward.py")
    assert done.returncode == 2
    assert "train.py" in calls[-2] and "search.py" in calls[-1]


def test_a_benchmark_whose_table_is_there_is_not_run_again(noted, tmp_path):
    Path(tmp_path, "out").mkdir()
    Path(tmp_path, "out", "train.json").touch()
    done, calls = noted("benchmarks.sh")
    assert "out/train.md is there already" in done.stdout
    assert not any("train.py" in call for call in calls) and any("search.py" in call for call in calls)


def test_a_device_of_another_name_is_refused(noted):
    done, calls = noted("benchmarks.sh", DEVICE="tpu")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == "DEVICE=tpu: choose cpu, cuda or cuda:N\n"
