"""main_imp.py --tensorboard: what is written, after an interruption too, and without the package."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import IMP, SMALL, snapshot

from CIFAR import main_imp
from utils import imp
from utils.tickets import RunFiles

LEVELS = ["--pruning_times", "2", "--epochs", "3"]


class Writer:
    """Keeps what the package's writer would write: a list of (tag, value, step) for each folder."""

    written: dict[str, list[tuple[str, float, int]]]

    def __init__(self, folder: str, purge_step: int):
        self.rows = self.written.setdefault(Path(folder).name, [])
        self.rows[:] = [row for row in self.rows if row[2] < purge_step]

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert type(value) is float and type(step) is int
        self.rows.append((tag, value, step))

    def flush(self) -> None:
        pass

    close = flush


@pytest.fixture
def written(monkeypatch) -> dict[str, list[tuple[str, float, int]]]:
    monkeypatch.setattr(Writer, "written", {}, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    return Writer.written


def run(folder: Path, *flags: str) -> Path:
    main_imp.main([*SMALL, *IMP, *LEVELS, "--save_dir", str(folder), "--tensorboard", *flags])
    return folder


def curve(rows: list[tuple[str, float, int]], tag: str) -> list[tuple[int, float]]:
    return [(step, value) for name, value, step in rows if name == tag]


def test_every_epoch_of_every_level_is_there_as_in_its_checkpoint(written, tmp_path):
    run(tmp_path, "--lr", "0.05", "--decreasing_lr", "2")
    for level, epochs in ((0, [1, 2, 3]), (1, [2, 3])):
        rows = written[f"level_{level}"]
        result = torch.load(RunFiles(tmp_path).checkpoint(level), weights_only=True)["result"]
        for split in ("train", "val", "test"):
            assert curve(rows, f"accuracy/{split}") == [*zip(epochs, result[f"{split}_ta"], strict=True)]
            assert all(loss > 0 for _, loss in curve(rows, f"loss/{split}"))
        rates = {1: 0.05, 2: 0.05, 3: 0.005}
        assert dict(curve(rows, "learning_rate")) == pytest.approx({epoch: rates[epoch] for epoch in epochs})
        assert dict(curve(rows, "density")) == pytest.approx(dict.fromkeys(epochs, 0.8**level), abs=1e-3)


def test_epochs_without_a_score_have_none(written, tmp_path):
    run(tmp_path, "--eval_freq", "10")
    rows = written["level_0"]
    assert [step for step, _ in curve(rows, "accuracy/val")] == [1, 3]
    assert [step for step, _ in curve(rows, "accuracy/train")] == [1, 2, 3]


@pytest.mark.parametrize("calls", [2, 4])
def test_a_resumed_run_writes_what_one_that_never_stopped_does(written, tmp_path, monkeypatch, calls):
    run(tmp_path / "whole")
    whole = {level: [*rows] for level, rows in written.items()}
    written.clear()
    save, saved = RunFiles.save_checkpoint, []

    def die(*arguments) -> None:
        """Killed when the events of an epoch are written and its checkpoint is not."""
        saved.append(arguments)
        if len(saved) == calls:
            raise KeyboardInterrupt
        save(*arguments)

    monkeypatch.setattr(imp.RunFiles, "save_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    assert sum(len({step for _, _, step in rows}) for rows in written.values()) == calls
    monkeypatch.setattr(imp.RunFiles, "save_checkpoint", save)
    run(tmp_path / "killed")
    assert written == whole


def test_it_may_be_asked_for_later(written, small_tickets):
    main_imp.main([*SMALL, *IMP, "--pruning_times", "4", "--save_dir", str(small_tickets), "--tensorboard"])
    assert [*written] == ["level_3"]


def test_without_the_package_one_line_says_what_to_install(fails, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    before = snapshot(tmp_path)
    line = fails(main_imp, *SMALL, *IMP, "--save_dir", tmp_path / "run", "--tensorboard")
    assert "--tensorboard" in line and "pip install tensorboard" in line
    assert snapshot(tmp_path) == before


def test_tensorboard_reads_it(tmp_path):
    pytest.importorskip("tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, "--pruning_times", "1", "--epochs", "2")
    run(tmp_path, "--pruning_times", "2", "--epochs", "2")
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard/level_1"))
    found.Reload()
    result = torch.load(RunFiles(tmp_path).checkpoint(1), weights_only=True)["result"]
    scalars = found.Scalars("accuracy/test")
    assert [scalar.step for scalar in scalars] == [2]
    assert [scalar.value for scalar in scalars] == pytest.approx(result["test_ta"])
