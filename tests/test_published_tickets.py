"""The tickets that the paper's own scripts wrote, on the images that they were made with."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, snapshot

import models
from CIFAR import Lottery_pools
from CIFAR.dataset import ImageData, load_data
from utils import checkpoint
from utils.evaluation import Evaluator
from utils.pruning import count_kept
from utils.tickets import Ticket, find_tickets

# What the tickets' README says of them.
KEPT = [267_696, 214_157, 171_326, 137_061, 109_649, 87_719]
VAL_ACCURACY = [21.1, 22.5, 23.2, 25.5, 26.6, 27.2]
TEST_ACCURACY = [20.65, 20.75, 22.65, 25.00, 26.75, 27.50]
VAL_IMAGES, TEST_IMAGES = 1000, 2000


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory) -> Path:
    """The images of the published tickets, as an .npz file."""
    unpack = SHARED / "data" / "unpack.py"
    if not unpack.is_file():
        pytest.skip(f"the images of the published tickets are not there: {unpack}")
    path = tmp_path_factory.mktemp("cifar100") / "cifar100.npz"
    flags = ["--train", "10000", "--test", str(TEST_IMAGES)]
    subprocess.run([sys.executable, unpack, "cifar100", path, *flags], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def images(cifar100) -> ImageData:
    return load_data("npz", cifar100, "cpu")


@pytest.fixture(scope="module")
def evaluator(images) -> Evaluator:
    net = models.build("resnet20s", 100, images.mean, images.std)
    return Evaluator("resnet20s", [net], images, batch_size=128)


@pytest.fixture(scope="module")
def published(published_tickets, evaluator) -> list[Ticket]:
    return [evaluator.read_ticket(file) for file in find_tickets(published_tickets)]


def test_every_level_is_read_with_the_weights_that_it_keeps(published):
    assert [ticket.level for ticket in published] == [0, 1, 2, 3, 4, 5]
    assert [ticket.kept for ticket in published] == KEPT
    assert [ticket.is_dense for ticket in published] == [True, False, False, False, False, False]
    assert [ticket.density for ticket in published] == [kept / KEPT[0] for kept in KEPT]


def test_split_is_that_of_the_published_run(images):
    assert images.sizes == {"train": 9000, "val": VAL_IMAGES, "test": TEST_IMAGES}
    assert len(images.classes) == 100


@pytest.mark.parametrize("level", range(6))
def test_accuracy_agrees_with_the_tickets_own_to_the_last_image(published, evaluator, level):
    result = checkpoint.load(published[level].path)["result"]
    val, test = evaluator.validate(published[level].state), evaluator.test(published[level].state)
    in_file = [
        round(accuracy[-1] * images / 100)
        for accuracy, images in ((result["val_ta"], VAL_IMAGES), (result["test_ta"], TEST_IMAGES))
    ]
    assert [val.correct, test.correct] == in_file
    assert [val.accuracy, test.accuracy] == [VAL_ACCURACY[level], TEST_ACCURACY[level]]


def test_they_are_pooled_as_they_are(published_tickets, cifar100, tmp_path):
    with np.load(cifar100) as arrays:
        fewer = {**arrays, "x_test": arrays["x_test"][:100], "y_test": arrays["y_test"][:100]}
    np.savez(tmp_path / "fewer_test_images.npz", **fewer)
    before = snapshot(published_tickets)
    (tmp_path / "tickets").mkdir()
    for level in (3, 4, 5):  # every ticket that is there is scored
        name = f"{level}model_SA_best.pth.tar"
        (tmp_path / "tickets" / name).symlink_to(published_tickets.resolve() / name)
    images = ["--dataset", "npz", "--data", str(tmp_path / "fewer_test_images.npz"), "--arch", "resnet20s"]
    search = ["--search_num", "1", "--interpolation_value_list", "0.5", "--bn_images", "256", "--levels", "5"]
    files = ["--checkpoint", str(tmp_path / "tickets"), "--save_dir", str(tmp_path / "pools")]
    Lottery_pools.main([*images, *search, *files, "--device", "cpu"])
    (entry,) = json.loads((tmp_path / "pools" / "pools.json").read_text())["pools"]
    (step,) = entry["steps"]
    assert (entry["level"], step["candidate"], step["coefficients"]) == (5, 4, [0.5])
    assert entry["ticket_val_accuracy"] == VAL_ACCURACY[5]
    assert step["accepted"] == (step["scores"][0] >= VAL_ACCURACY[5])
    pool = torch.load(tmp_path / "pools" / "5pool.pth.tar", weights_only=True)
    assert count_kept(pool["mask"]) == KEPT[5]
    assert snapshot(published_tickets) == before
