"""Iterative magnitude pruning (Frankle and Carbin 2019) with rewinding (Frankle et al. 2020).

Each level trains the network that its mask leaves, keeps the best epoch on validation images as its ticket, prunes the
last epoch's weights further and goes back to earlier weights. All randomness is derived from (seed, level, epoch) and
every epoch ends in a checkpoint, so a run that was stopped goes on to the same weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from utils import checkpoint, report, tickets
from utils.errors import UserError
from utils.evaluation import autocast, evaluate
from utils.pruning import (
    Mask,
    State,
    apply_mask,
    count_kept,
    count_prunable,
    dense_mask,
    prunable_names,
    prune_random,
    prune_smallest,
)
from utils.randomness import generator
from utils.training import Schedule, make_optimizer, train_epoch

PRUNE_TYPES = ("lt", "rewind_lt", "pt")


@dataclass(frozen=True)
class ImpSettings:
    """What decides the tickets of a run: see the flags of `main_imp.py` for each."""

    prune_type: str
    pruning_times: int
    rate: float
    random_prune: bool
    rewind_epoch: int
    epochs: int
    batch_size: int
    schedule: Schedule
    momentum: float
    weight_decay: float
    seed: int
    amp: bool = False

    def first_epoch(self, level: int) -> int:
        """Where a level's training starts: rewinding takes the learning-rate schedule back with the weights."""
        return self.rewind_epoch if level > 0 and self.prune_type == "rewind_lt" else 0


@dataclass
class Level:
    """How far one level has come. Weights are in the network, momentum is in the optimizer."""

    level: int
    epoch: int  # epochs done
    mask: Mask  # on the CPU; all True at level 0
    rewind: State  # the weights that the next level goes back to
    curves: dict[str, list[float]] = field(default_factory=lambda: {"train_ta": [], "val_ta": [], "test_ta": []})
    best: float = -1.0  # best validation accuracy so far, percent


class ImpRun:
    """One run: `net` (on the data's device) trained on `data` level by level, its files in `folder`.

    `data` has `train_batches`, `train_batch_count` and `eval_batches` as `CIFAR.dataset.ImageData` does; `say` takes
    each line of the log.
    """

    def __init__(self, net: nn.Module, data, settings: ImpSettings, folder: Path, say: Callable[[str], None]):
        self.net, self.data, self.settings, self.folder, self.say = net, data, settings, folder, say
        self.device = next(net.parameters()).device
        self.optimizer = self._new_optimizer()

    def run(self) -> None:
        """Find the tickets of all levels that are still missing."""
        progress = self._resume() or self._first_level()
        while progress.level < self.settings.pruning_times:
            self._train_level(progress)
            if progress.level + 1 == self.settings.pruning_times:
                return
            progress = self._next_level(progress)

    def _first_level(self) -> Level:
        state = self._state()
        if self.settings.prune_type == "rewind_lt" and self.settings.rewind_epoch == 0:
            checkpoint.save(state, tickets.rewind_path(self.folder, 0))
        return Level(0, 0, dense_mask(state, prunable_names(self.net)), state)

    def _next_level(self, done: Level) -> Level:
        """Prune what `done` ended with, and take the weights that remain back."""
        level, settings = done.level + 1, self.settings
        if settings.random_prune:
            mask = prune_random(done.mask, settings.rate, generator(settings.seed, "prune", level))
        else:
            mask = prune_smallest(self._state(), done.mask, settings.rate)
        rewind = done.rewind
        if settings.prune_type == "pt" and done.level == 0:
            rewind = tickets.read_ticket(tickets.TicketFile(0, tickets.ticket_path(self.folder, 0))).state
        self.net.load_state_dict(apply_mask(rewind, mask))
        self.optimizer = self._new_optimizer()
        return Level(level, settings.first_epoch(level), mask, rewind)

    def _train_level(self, progress: Level) -> None:
        self.say(_density_lines(progress))
        while progress.epoch < self.settings.epochs:
            self._train_epoch(progress)
        report.plot_curves(
            progress.curves, tickets.curve_path(self.folder, progress.level), self.settings.first_epoch(progress.level)
        )

    def _train_epoch(self, progress: Level) -> None:
        """Train, score and save one epoch. The ticket is written before the checkpoint that says that it is there."""
        settings, level = self.settings, progress.level
        train = self._train_pass(progress)
        if not math.isfinite(train.loss):
            raise UserError(
                f"training loss is {train.loss} in epoch {progress.epoch + 1} of level {level}: lower --lr or raise "
                f"--warmup; the last good checkpoints are in {self.folder}"
            )
        validation, test = self._score("val"), self._score("test")
        progress.epoch += 1
        for name, score in zip(("train_ta", "val_ta", "test_ta"), (train, validation, test), strict=True):
            progress.curves[name].append(score.accuracy)
        is_best = validation.accuracy > progress.best
        if level == 0 and settings.prune_type == "rewind_lt" and progress.epoch == settings.rewind_epoch:
            progress.rewind = self._state()
            checkpoint.save(progress.rewind, tickets.rewind_path(self.folder, progress.epoch))
        if is_best:
            progress.best = validation.accuracy
            checkpoint.save(self._record(progress), tickets.ticket_path(self.folder, level))
        checkpoint.save(self._record(progress), tickets.checkpoint_path(self.folder, level))
        self.say(
            f"level {level} epoch {progress.epoch:3d}/{settings.epochs}  loss {train.loss:.4f}  "
            f"train {train.accuracy:6.2f}%  val {validation.accuracy:6.2f}%  test {test.accuracy:6.2f}%"
            f"{'  best' if is_best else ''}"
        )

    def _train_pass(self, progress: Level):
        settings, level, epoch = self.settings, progress.level, progress.epoch
        steps = self.data.train_batch_count(settings.batch_size)
        rates = (settings.schedule.learning_rate(epoch, step, steps) for step in range(steps))
        batches = self.data.train_batches(settings.batch_size, settings.seed, "train", level, epoch)
        bar = tqdm(batches, f"level {level} epoch {epoch + 1}", steps, leave=False, disable=None, unit="batch")
        return train_epoch(self.net, self.optimizer, bar, rates, self._mask_if_sparse(progress), settings.amp)

    def _score(self, split: str):
        with autocast(self.device, self.settings.amp):
            return evaluate(self.net, self.data.eval_batches(split))

    def _new_optimizer(self) -> torch.optim.SGD:
        settings = self.settings
        return make_optimizer(self.net, settings.schedule.base, settings.momentum, settings.weight_decay)

    def _state(self) -> State:
        return {name: value.detach().cpu().clone() for name, value in self.net.state_dict().items()}

    def _mask_if_sparse(self, progress: Level) -> Mask | None:
        return progress.mask if progress.level > 0 else None

    def _record(self, progress: Level) -> dict:
        """A ticket or checkpoint file with the keys of the published scripts."""
        mask = self._mask_if_sparse(progress)
        return {
            "state": progress.level,
            "result": progress.curves,
            "epoch": progress.epoch,
            "state_dict": tickets.published_state(apply_mask(self._state(), mask or {}), mask),
            "best_sa": progress.best,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.settings.schedule.state(progress.epoch),
            "init_weight": progress.rewind,
        }

    def _resume(self) -> Level | None:
        """What the newest checkpoint in the folder holds, loaded into the network and the optimizer."""
        level = tickets.newest_level(self.folder)
        if level is None:
            return None
        path = tickets.checkpoint_path(self.folder, level)
        record = checkpoint.load(path)
        try:
            state, mask = tickets.plain_state(record["state_dict"], path)
            self.net.load_state_dict(state)
            self.optimizer.load_state_dict(record["optimizer"])
            progress = Level(
                level,
                record["epoch"],
                mask or dense_mask(state, prunable_names(self.net)),
                record["init_weight"],
                record["result"],
                record["best_sa"],
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is no checkpoint of this run (--arch, --dataset): {reason}") from error
        self.say(f"going on after epoch {progress.epoch} of level {level}, from {path}")
        return progress


def _density_lines(progress: Level) -> str:
    """The density overall and, from level 1 on, of each layer."""
    kept, total = count_kept(progress.mask), count_prunable(progress.mask)
    share = f"{100 * kept / total:.2f}% of {total:,} prunable weights remain ({kept:,})"
    lines = [f"level {progress.level}: {share}"]
    if kept < total:
        lines += [
            f"  {name.removesuffix('.weight'):<28} {100 * float(part.float().mean()):6.2f}% of {part.numel():,}"
            for name, part in progress.mask.items()
        ]
    return "\n".join(lines)
