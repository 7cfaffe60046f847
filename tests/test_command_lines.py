"""What the CIFAR scripts' command lines mean: the paper's, and the defaults."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMP, LIST, ROOT, SMALL
from script_runs import PAPER_LIST, RESULTS, load, names, searches, table_of
from torch import Tensor

import models
from CIFAR import Lottery_pools, main_imp
from CIFAR.dataset import load_data
from CIFAR.flags import data_from_flags
from ImageNet import Lottery_pools as imagenet_pools
from ImageNet import main_imp as imagenet_imp
from utils import cli
from utils.imp_runs import imp_settings


def defaults(script) -> dict:
    return vars(script.build_parser().parse_args([]))


IMAGES_AND_NETWORK = {"dataset": "cifar100", "data": "../data", "val_images": None, "data_limit": 0, "no_flip": False}
IMAGES_AND_NETWORK |= {"arch": "resnet18", "seed": 41, "batch_size": 128, "amp": False, "device": "auto"}
IMAGES_AND_NETWORK |= {"save_interval": 30}
TRAINING = {"epochs": 182, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "warmup": 0, "decreasing_lr": (91, 136)}
PRUNING = {"pruning_times": 19, "rate": 0.2, "prune_type": "rewind_lt", "rewind_epoch": 9, "random_prune": False}
POOLS = {"interpolate_method": "Lottery_pools", "interpolation_value_list": PAPER_LIST, "search_num": 19}
POOLS |= {"learned_steps": 50, "learned_lr": 0.1}
POOLS |= {"coefficient_search": "grid", "final_bn_images": None, "jobs": None, "ticket_tolerance": 1}
POOLS |= {"EMA_value": 0.95, "bn_images": 0, "levels": None, "prune_type": "rewind_lt", "rewind_epoch": 9}
PHOTOGRAPHS = {"image_size": 224, "cache_gb": 16, "timeout": 600, "save_interval": 30}
IMAGENET_POOLS = {"arch": "imagenet_resnet_18", "seed": 17, "rewind_epoch": 5, "batch_size": 256, "ticket_tolerance": 1}
IMAGENET_POOLS |= {"EMA_value": 0.9, "search_num": 19}


@pytest.mark.parametrize(
    "script, expected",
    [
        (main_imp, {**IMAGES_AND_NETWORK, **TRAINING, **PRUNING}),
        (Lottery_pools, {**IMAGES_AND_NETWORK, **POOLS}),
        (imagenet_imp, PHOTOGRAPHS),
        (imagenet_pools, {**PHOTOGRAPHS, **IMAGENET_POOLS}),
    ],
)
def test_defaults_are_the_papers(script, expected):
    found = defaults(script)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("script", [main_imp, Lottery_pools])
def test_help_names_the_default_of_every_flag_that_has_one(script):
    parser = script.build_parser()
    formatter = parser._get_formatter()
    # A preset stands for other flags and has no value of its own.
    flags = [action for action in parser._actions if action.default is not argparse.SUPPRESS]
    assert len(flags) == len(defaults(script))
    for action in flags:
        says_something = action.default is not None and action.default is not False
        assert (f"(default: {action.default})" in formatter._expand_help(action)) == says_something, action.dest


IMP_COMMAND = (
    "python -u main_imp.py --data ../data --dataset cifar100 --arch resnet18 --seed 41 --prune_type rewind_lt "
    "--rewind_epoch 9 --pruning_times 19"
)
POOLS_COMMAND = (
    "python Lottery_pools.py --interpolate_method {} --rewind_epoch 9 --search_num 19 {} --arch resnet18 "
    "--data ../data --dataset cifar100 --seed 41 --inference --checkpoint {}"
)
ALL = f"--interpolation_value_list {' '.join(map(str, PAPER_LIST))}"


def arguments(command: str) -> list[str]:
    """What a shell would hand to the script that `command` names."""
    words = shlex.split(command)
    return words[1 + next(number for number, word in enumerate(words) if word.endswith(".py")) :]


def test_papers_imp_command_means_the_defaults():
    assert vars(main_imp.build_parser().parse_args(arguments(IMP_COMMAND))) == defaults(main_imp)


@pytest.mark.parametrize(
    "method, flags, changed",
    [
        ("Lottery_pools", "--interpolation_value_list 0.5", {"interpolation_value_list": [0.5]}),
        ("Lottery_pools", ALL, {}),
        ("Lottery_pools", "", {}),
        ("interpolate_swa", "", {}),
        ("interpolate_swa", ALL, {}),
        ("interpolate_ema", "--EMA_value 0.95", {"EMA_value": 0.95}),
        ("interpolate_ema", "", {}),
        ("liner_inter", "", {"interpolate_method": "linear_inter"}),
        ("liner_inter", ALL, {"interpolate_method": "linear_inter"}),
        ("linear_inter", ALL, {}),
    ],
)
def test_papers_pool_commands_mean_what_they_say(method, flags, changed):
    argv = arguments(POOLS_COMMAND.format(method, flags, "runs/seed41"))
    expected = {"interpolate_method": method, "checkpoint": Path("runs/seed41"), "inference": True, **changed}
    assert vars(Lottery_pools.build_parser().parse_args(argv)) == {**defaults(Lottery_pools), **expected}


@pytest.mark.parametrize("script", [main_imp, Lottery_pools, imagenet_imp, imagenet_pools])
def test_flags_of_the_published_scripts_and_launchers_are_accepted(script):
    flags = "--inference -p 100 --print_freq 100 --workers 4 -j 4 --master_port 8020 --local_rank 0 --local-rank 0"
    assert script.build_parser().parse_args([*flags.split(), "--gpu", "0"]).gpu == 0


@pytest.fixture
def small_images(tmp_path) -> Path:
    """Sixty digits of 8 by 8 pixels as an .npz file."""
    data = load_data("digits", None, "cpu")
    arrays = {}
    for part, split in (("train", data.train[:60]), ("test", data.test[:30])):
        arrays |= {f"x_{part}": split.images.numpy(), f"y_{part}": split.labels.numpy()}
    np.savez(tmp_path / "images.npz", **arrays, classes=[str(digit) for digit in range(10)])
    return tmp_path / "images.npz"


def test_flags_reach_the_settings_the_images_and_the_network(small_images):
    flags = ["--dataset", "npz", "--data", str(small_images), "--arch", "resnet18_8", "--device", "cpu"]
    flags += ["--warmup", "3", "--amp", "--no_flip", "--channels_last", "--imagenet_arch"]
    args, cpu = main_imp.build_parser().parse_args(flags), torch.device("cpu")
    assert (imp_settings(args).schedule.warmup, imp_settings(args).amp) == (3, True)
    data = data_from_flags(args, cpu)
    assert not data.flip
    weight = cli.make_network(args, data, cpu).conv1.weight
    assert weight.shape[2:] == (7, 7) and weight.is_contiguous(memory_format=torch.channels_last)


def test_papers_commands_run_as_printed_one_after_the_other(small_images, tmp_path, monkeypatch, capfd):
    """Smaller in data, network and epochs alone; the second finds the first one's tickets where the paper puts them."""
    (tmp_path / "CIFAR").mkdir()
    monkeypatch.chdir(tmp_path / "CIFAR")
    small = ["--dataset", "npz", "--data", "../images.npz", "--arch", "cifar_resnet_8_4", "--device", "cpu"]
    main_imp.main([*arguments(IMP_COMMAND), *small, "--epochs", "10", "--pruning_times", "2"])
    tickets = Path("checkpoints/rewind_lt/npz/cifar_resnet_8_4/rewind_epoch_9/seed41")
    assert {"0model_SA_best.pth.tar", "1model_SA_best.pth.tar", "epoch_9_rewind_weight.pt"} <= {*names(tickets)}
    capfd.readouterr()
    Lottery_pools.main([*arguments(POOLS_COMMAND.format("interpolate_ema", "--EMA_value 0.95", tickets)), *small])
    with_checkpoint = table_of(capfd.readouterr().out)
    Lottery_pools.main(["--interpolate_method", "interpolate_ema", *small, "--save_dir", "elsewhere"])
    assert table_of(capfd.readouterr().out) == with_checkpoint
    assert names(tickets / "pools" / "interpolate_ema_0.95")[:2] == ["0pool.pth.tar", "1pool.pth.tar"]


def test_papers_pool_command_runs_on_a_resnet18(small_images, tmp_path):
    torch.manual_seed(0)
    for level in (0, 1):
        net = models.build("resnet18", 10, [0.5] * 3, [0.5] * 3)
        torch.save({"state_dict": net.state_dict()}, tmp_path / f"{level}model_SA_best.pth.tar")
    command = POOLS_COMMAND.format("Lottery_pools", "--interpolation_value_list 0.5", tmp_path)
    images = ["--dataset", "npz", "--data", str(small_images), "--data_limit", "20", "--levels", "1"]
    Lottery_pools.main([*arguments(command), *images, "--device", "cpu"])
    pool = load(tmp_path / "pools" / "Lottery_pools_0.5" / "1pool.pth.tar")["state_dict"]
    assert same_names(pool, models.build("resnet18", 10, [0.5] * 3, [0.5] * 3).state_dict())


def same_names(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return {name: value.shape for name, value in first.items()} == {name: v.shape for name, v in second.items()}


def test_scripts_run_as_programs_from_their_folder(tmp_path):
    for script, flags in (
        ("main_imp.py", [*IMP, "--pruning_times", "2", "--save_dir"]),
        ("Lottery_pools.py", [*LIST, "--checkpoint"]),
    ):
        command = [sys.executable, script, *SMALL, *flags, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT / "CIFAR", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    written = tmp_path / "pools" / "Lottery_pools_0.3_0.7"
    assert names(written) == ["0pool.pth.tar", "1pool.pth.tar", *RESULTS, *searches(0, 1)]
