"""A run of 252 prunable weights and 24 images: levels of 252, 202, 162 and 130 weights at a rate of 0.2."""

import contextlib
import math
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import torch
from torch import nn

from utils import checkpoint
from utils.imp import ImpRun, ImpSettings
from utils.randomness import generator
from utils.tickets import RunFiles
from utils.training import Schedule

CONVOLUTIONS = ("0", "3")
BATCH = 8
SELDOM = {"save_interval": math.inf}  # seconds: at the end of a level alone


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


class Data:
    """Random images of three classes; a pass shuffles and disturbs them as its purpose says."""

    def __init__(self):
        draws = generator("data")
        self.images = torch.randn(48, 3, 6, 6, generator=draws)
        self.labels = torch.arange(48) % 3
        self.images += self.labels[:, None, None, None]

    def train_batch_count(self, batch_size):
        return math.ceil(24 / batch_size)

    def train_batches(self, batch_size, *purpose, first=0):
        draws = generator(*purpose)
        order = torch.randperm(24, generator=draws)
        images = self.images[order] + 0.1 * torch.randn(24, 3, 6, 6, generator=draws)
        batches = zip(images.split(batch_size), self.labels[order].split(batch_size), strict=True)
        yield from islice(batches, first, None)

    def eval_batches(self, split):
        part = {"val": slice(24, 36), "test": slice(36, 48)}[split]
        yield self.images[part], self.labels[part]


class WatchedData(Data):
    """Notes the network at the start of every pass (with the pass's purpose) and when it is validated.

    `right` sets how many of the 12 validation images each epoch in turn gets right, whatever the network has learnt.
    """

    def __init__(self, net: nn.Module, right: tuple[int, ...] = ()):
        super().__init__()
        self.net, self.right = net, right
        self.starts, self.ends = [], []

    def train_batches(self, batch_size, *purpose, first=0):
        self.starts.append((purpose, state_of(self.net)))
        yield from super().train_batches(batch_size, *purpose, first=first)

    def eval_batches(self, split):
        for images, labels in super().eval_batches(split):
            if split == "val":
                self.ends.append(state_of(self.net))
                if self.right:
                    is_wrong = torch.arange(12) >= self.right[len(self.ends) - 1]
                    labels = (self.net(images).argmax(1) + is_wrong) % 3
            yield images, labels

    def start(self, level: int, epoch: int) -> dict[str, torch.Tensor]:
        return next(state for purpose, state in self.starts if purpose[-2:] == (level, epoch))


def make_settings(**changes) -> ImpSettings:
    defaults = {
        "prune_type": "rewind_lt",
        "pruning_times": 3,
        "rate": 0.2,
        "random_prune": False,
        "rewind_epoch": 1,
        "epochs": 3,
        "batch_size": BATCH,
        "schedule": Schedule(0.1, (2,)),
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "seed": 41,
    }
    return ImpSettings(**{**defaults, **changes})


def run_imp(folder: Path, data=None, say=lambda line: None, layout=RunFiles, **changes) -> None:
    """A run from the start, or what the same command given again does."""
    ImpRun(make_net(), data or Data(), make_settings(**changes), layout(folder), say).run()


def watch_imp(folder: Path, right: tuple[int, ...] = (), **changes) -> WatchedData:
    net = make_net()
    data = WatchedData(net, right)
    ImpRun(net, data, make_settings(**changes), RunFiles(folder), lambda line: None).run()
    return data


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def ticket(folder: Path, level: int) -> dict:
    return torch.load(folder / f"{level}model_SA_best.pth.tar", weights_only=True)


def last(folder: Path, level: int) -> dict:
    return torch.load(folder / f"{level}checkpoint.pth.tar", weights_only=True)


def mask_of(record: dict) -> dict[str, torch.Tensor]:
    return {name: record["state_dict"][f"{name}.weight_mask"].bool() for name in CONVOLUTIONS}


def kept(record: dict) -> int:
    return sum(int(part.sum()) for part in mask_of(record).values())


def plain(record: dict) -> dict[str, torch.Tensor]:
    """The weights of a file under their plain names."""
    state = record["state_dict"]
    return {name.removesuffix("_orig"): value for name, value in state.items() if not name.endswith("_mask")}


def masked(state: dict[str, torch.Tensor], mask: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**state, **{f"{name}.weight": state[f"{name}.weight"] * part for name, part in mask.items()}}


def assert_equal(found, expected, where="") -> None:
    """The same structure of dicts and lists with the same tensors and numbers in it."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_equal(found[key], value, f"{where} {key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_equal(found[number], value, f"{where} {number}")
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where


def contents(folder: Path) -> dict:
    """What every file of a run holds."""
    return {path.name: torch.load(path, weights_only=True) for path in sorted(folder.iterdir())}


class PowerCutError(Exception):
    pass


@contextlib.contextmanager
def dying(cut: int | None, monkeypatch, saves: bool = True) -> Iterator[tuple[Callable[..., None], Iterator[int]]]:
    """Gives a function that dies at its `cut`-th call (None: never), and what counts the calls.

    With `saves`, it is called before and after each file that is saved.
    """
    events = count()

    def event(*_) -> None:
        if next(events) == cut:
            raise PowerCutError

    def save(content, path, save=checkpoint.save):
        event()
        save(content, path)
        event()

    with monkeypatch.context() as patch:
        if saves:
            patch.setattr(checkpoint, "save", save)
        try:
            yield event, events
        except PowerCutError:
            assert cut is not None
