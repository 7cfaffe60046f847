"""Test images choose nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMP, SMALL, stand_ins
from script_runs import METHODS, TEST_FIELDS, load, pools_json, same_tensors

from CIFAR import Lottery_pools, main_imp
from CIFAR.dataset import load_data

LEAK_METHODS = ("Lottery_pools", "interpolate_swa", "interpolate_ema", "greedy_soup", "average_or_soup", "learned")


@pytest.fixture(scope="module")
def leak(tmp_path_factory) -> list[Path]:
    """The same run of tickets and all pools twice, the second time with its test labels shuffled."""
    data = load_data("digits", None, "cpu", data_limit=200)
    arrays = {"x_train": torch.cat([data.train.images, data.val.images]).numpy(), "x_test": data.test.images.numpy()}
    arrays |= {"y_train": torch.cat([data.train.labels, data.val.labels]).numpy(), "y_test": data.test.labels.numpy()}
    runs = []
    for name, order in (("true", np.arange(200)), ("shuffled", np.random.RandomState(0).permutation(200))):
        folder = tmp_path_factory.mktemp(name)
        np.savez(folder / "images.npz", **{**arrays, "y_test": arrays["y_test"][order]})
        flags = [*SMALL, "--dataset", "npz", "--data", str(folder / "images.npz")]
        with stand_ins():
            main_imp.main(
                [*flags, *IMP, "--epochs", "6", "--pruning_times", "2", "--save_dir", str(folder / "tickets")]
            )
            for method in LEAK_METHODS:
                Lottery_pools.main([*flags, *METHODS[method], "--checkpoint", str(folder / "tickets")])
        runs.append(folder / "tickets")
    return runs


def test_tickets_do_not_depend_on_test_labels(leak):
    for name in (f"{level}{kind}.pth.tar" for level in range(2) for kind in ("model_SA_best", "checkpoint")):
        true, shuffled = (load(folder / name) for folder in leak)
        assert true["result"].pop("test_ta") != shuffled["result"].pop("test_ta"), "they were not shuffled"
        for part in ("state_dict", "init_weight"):
            assert same_tensors(true.pop(part), shuffled.pop(part))
        for key in ("result", "epoch", "best_sa", "scheduler"):
            assert true[key] == shuffled[key]


def test_pools_do_not_depend_on_test_labels(leak):
    folders = sorted(path.relative_to(leak[0]) for path in (leak[0] / "pools").iterdir())
    assert len(folders) == len(LEAK_METHODS)
    for folder in folders:
        true, shuffled = (pools_json(run / folder)["pools"] for run in leak)
        assert [[entry.pop(name) for name in TEST_FIELDS] for entry in true] != [
            [entry.pop(name) for name in TEST_FIELDS] for entry in shuffled
        ], "they were not shuffled"
        assert true == shuffled
        for entry in true:
            pools = [load(run / folder / entry["checkpoint"]) for run in leak]
            assert same_tensors(pools[0]["state_dict"], pools[1]["state_dict"])
            assert same_tensors(pools[0]["mask"], pools[1]["mask"])
