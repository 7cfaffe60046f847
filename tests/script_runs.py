"""What tests of the CIFAR scripts share: commands, and what is in the folders that these leave."""

import itertools
import json
import re
from pathlib import Path

import torch
from conftest import LIST
from PIL import Image
from torch import Tensor

from utils.tickets import RunFiles

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
TEST_FIELDS = ("ticket_test_accuracy", "pool_test_accuracy")


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def pools_json(folder: Path) -> dict:
    return json.loads((folder / "pools.json").read_text())


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


def assert_is_picture(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(2**24)) > 10, "blank"


def published_file(folder: Path, level: int) -> dict:
    return load(folder / f"{level}model_SA_best.pth.tar")


def change_ticket(folder: Path, level: int) -> None:
    path = RunFiles(folder).ticket(level).path
    record = load(path)
    record["state_dict"]["fc.bias"] += torch.arange(10.0)
    torch.save(record, path)


def stop_after(monkeypatch, owner: type, name: str, calls: int) -> None:
    """Let method `name` of `owner` work `calls` times; the next call is a Ctrl-C."""
    method, left = getattr(owner, name), itertools.count(calls, -1)

    def stopping(self, *args, **kwargs):
        if next(left) <= 0:
            raise KeyboardInterrupt
        return method(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, stopping)
