"""What tests of the CIFAR scripts share: commands, and what is in the folders that these leave."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIST
from PIL import Image
from torch import Tensor

from CIFAR.dataset import load_data
from utils.errors import UserError

PAPER_LIST = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
KEPT = [267_696, 214_157, 171_326]  # of a resnet20s, each a fifth less than the one before
METHODS = {
    "Lottery_pools": ["--interpolate_method", "Lottery_pools", *LIST],
    "average": ["--interpolate_method", "Lottery_pools", "--interpolation_value_list", "0.5", "--search_num", "1"],
    "interpolate_swa": ["--interpolate_method", "interpolate_swa"],
    "interpolate_ema": ["--interpolate_method", "interpolate_ema", "--EMA_value", "0.6"],
    "uniform_soup": ["--interpolate_method", "uniform_soup"],
    "greedy_soup": ["--interpolate_method", "greedy_soup"],
    "average_or_soup": ["--interpolate_method", "average_or_soup"],
    "learned": ["--interpolate_method", "learned", "--learned_steps", "2"],
    "recalibrated": ["--interpolate_method", "recalibrated"],
}
ENSEMBLE = ["--interpolate_method", "ensemble"]
RESULTS = ["accuracy.pdf", "accuracy.png", "pools.csv", "pools.json"]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of a batch norm
LABELLED = {"SWA": "interpolate_swa", "EMA 0.95": "interpolate_ema"}
TEST_FIELDS = ("ticket_test_accuracy", "pool_test_accuracy")


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def pools_json(folder: Path) -> dict:
    return json.loads((folder / "pools.json").read_text())


def entries(folder: Path) -> list[dict]:
    return pools_json(folder)["pools"]


def searches(*levels: int) -> list[str]:
    """The pictures of the searches from these levels."""
    return [f"search_level{level}.{kind}" for level in levels for kind in ("pdf", "png")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return {*first} == {*second} and all(torch.equal(first[name], second[name]) for name in first)


def assert_same_pools(first: Path, second: Path) -> None:
    assert pools_json(first)["pools"] == pools_json(second)["pools"]
    assert names(first) == names(second)
    for path in first.glob("*pool.pth.tar"):
        assert same_tensors(load(path)["state_dict"], load(second / path.name)["state_dict"])


def table_of(output: str) -> list[str]:
    """The last lines that a script printed: from the table's header on."""
    lines = output.splitlines()
    (start,) = (number for number, line in enumerate(lines) if re.fullmatch("-+", line))
    return lines[start - 1 :]


def assert_shows_something(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        pixels = np.asarray(image.convert("L"))
    assert 0.005 < (pixels < 200).mean() < 0.8, "neither blank nor black"


def published_file(folder: Path, level: int) -> dict:
    return load(folder / f"{level}model_SA_best.pth.tar")


def change_network(path: Path, amount: float = 1.0) -> None:
    """Another network of the same shape, in the file of the old one."""
    record = load(path)
    record["state_dict"]["fc.bias"] += amount * torch.arange(10.0)
    torch.save(record, path)


def stop_after(monkeypatch, owner: type, name: str, calls: int) -> None:
    """Let method `name` of `owner` work `calls` times; the next call is a Ctrl-C."""
    method, left = getattr(owner, name), itertools.count(calls, -1)

    def stopping(self, *args, **kwargs):
        if next(left) <= 0:
            raise KeyboardInterrupt
        return method(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, stopping)


def write_pools(folder: Path, label: str, accuracies: dict, seed: int = 1, digests: bool = True, **flags) -> Path:
    """A pools.json: `accuracies` maps levels to those of ticket and pool; seeds have tickets of their own."""
    settings = {
        "interpolate_method": LABELLED.get(label, "Lottery_pools"),
        "interpolation_value_list": [0.5] if label == "average" else PAPER_LIST,
        "EMA_value": 0.95,
        "seed": seed,
        "search_num": 19,
        **flags,
    }
    pools = [
        {
            "level": level,
            "density": 0.8**level,
            "ticket_val_accuracy": ticket - seed,
            "ticket_test_accuracy": ticket,
            "pool_test_accuracy": pool,
        }
        for level, (ticket, pool) in accuracies.items()
    ]
    content = {"settings": settings, "versions": {}, "pools": pools}
    if digests:
        content["tickets"] = [[level, f"{seed} {level}"] for level in accuracies]
    folder.mkdir(parents=True)
    (folder / "pools.json").write_text(json.dumps(content))
    return folder


def assert_refused(dataset: str, data: Path | None, *words: str, **options) -> None:
    """Loading ends in a UserError, on one line, that has all of `words`."""
    with pytest.raises(UserError) as caught:
        load_data(dataset, data, "cpu", **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def npz_arrays(train: int = 20, test: int = 6, side: int = 16, channels: int | None = 3) -> dict[str, np.ndarray]:
    shape = (side, side) if channels is None else (side, side, channels)
    numbers = np.random.default_rng(0)
    return {
        "x_train": numbers.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train) % 4,
        "x_test": numbers.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % 4,
    }


def write_npz(folder: Path, arrays: dict) -> Path:
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"
