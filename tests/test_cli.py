"""The device, the arithmetic and the networks that flags ask for."""

import os
from argparse import Namespace

import pytest
import torch
from conftest import SMALL
from torch import nn

from CIFAR import Lottery_pools, main_imp
from CIFAR.dataset import load_data
from utils import cli


@pytest.mark.parametrize("device, gpu, wanted", [("auto", None, "cuda"), ("auto", 1, "cuda:1"), ("cpu", 1, "cpu")])
def test_auto_is_cuda_where_there_is_one(device, gpu, wanted, monkeypatch):
    args = Namespace(device=device, gpu=gpu)
    for is_there, expected in ((True, wanted), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_there=is_there: is_there)
        assert cli._wanted_device(args) == expected


def test_gpu_of_a_device_without_a_number():
    assert cli._wanted_device(Namespace(device="cuda", gpu=1)) == "cuda:1"
    assert cli._wanted_device(Namespace(device="cuda:0", gpu=1)) == "cuda:0"


@pytest.mark.parametrize("flags, asked", [([], []), (["--deterministic"], [True])])
def test_torch_is_asked_for_the_same_bits_each_time_where_the_flag_is_given(monkeypatch, flags, asked):
    found = []
    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, **_: found.append(mode))
    cli.select_device(main_imp.build_parser().parse_args(["--device", "cpu", *flags]))
    assert found == asked and (not asked or "CUBLAS_WORKSPACE_CONFIG" in os.environ)


def test_no_more_networks_than_can_be_at_work():
    args = Lottery_pools.build_parser().parse_args([*SMALL, "--jobs", "999999999"])
    assert len(cli.make_networks(args, load_data("digits", None, "cpu"), torch.device("cpu"), 3)) == 3


@pytest.mark.parametrize(
    ("flags", "modes"), [("", []), ("--compile", [None]), ("--compile_mode reduce-overhead", ["reduce-overhead"])]
)
def test_networks_are_compiled_as_the_flags_say(monkeypatch, flags, modes):
    found = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode=None: found.append(mode))
    args = Lottery_pools.build_parser().parse_args([*SMALL, *flags.split()])
    cli.make_network(args, load_data("digits", None, "cpu"), torch.device("cpu"))
    assert found == modes
