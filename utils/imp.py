"""Iterative magnitude pruning (Frankle and Carbin 2019) with rewinding (Frankle et al. 2020).

Each level trains the network that its mask leaves, keeps the best epoch on validation images as its ticket, prunes the
last epoch's weights further and goes back to earlier weights. All randomness is derived from (seed, level, epoch), so a
run that was stopped goes on from its last checkpoint to the same weights.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from utils import report
from utils.distributed import SINGLE, Processes
from utils.errors import UserError
from utils.evaluation import Score, autocast, evaluate
from utils.folders import check_space
from utils.images import Batch, Images
from utils.plain_data import is_state
from utils.preemption import Preempted
from utils.progress import progress_bar
from utils.pruning import (
    Mask,
    State,
    apply_mask,
    count_kept,
    count_prunable,
    dense_mask,
    density,
    prunable_names,
    prune_random,
    prune_smallest,
)
from utils.randomness import generator
from utils.tickets import RunFiles, Snapshot, alike, read_ticket
from utils.training import EpochSums, Schedule, make_optimizer, restore_momentum, train_epoch

Note = Callable[[Path, int, Mapping[str, float]], None]


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
    eval_freq: int = 1
    replicas: int = 1
    save_interval: float = 0.0  # seconds: the one of them that decides nothing
    replica: int | None = None  # which of several this training is; None: the run itself

    def first_epoch(self, level: int) -> int:
        """Where a level's training starts: rewinding takes the learning-rate schedule back with the weights.

        Replicas other than the first start from the rewind point at level 0 too, and so does their schedule.
        """
        return self.rewind_epoch if (level > 0 or self.replica) and self.prune_type == "rewind_lt" else 0

    def is_scored(self, level: int, epoch: int) -> bool:
        """Whether validation and test are scored after the 1-based `epoch`: every so many, a level's first and last."""
        return epoch % self.eval_freq == 0 or epoch in (self.first_epoch(level) + 1, self.epochs)


class ImpRun:
    """One run: `net` (on the data's device) trained on `data` level by level, its files in `files`.

    `say` takes each line of the log. With several `processes` every one of them runs this on its part of the images,
    and the main one writes. `stop` is asked at every batch: once it returns True, the epoch is saved as far as it has
    come, and Preempted is raised. `note` is called for each epoch with the folder of its level's events, the epoch
    (from 1) and its numbers, before the epoch is saved: none is missed, but after an interruption some come again.
    `forward` is `net` as `processes.wrap` returned it, where a caller has done that already: it must be done once.
    """

    def __init__(
        self,
        net: nn.Module,
        data: Images,
        settings: ImpSettings,
        files: RunFiles,
        say: Callable[[str], None],
        processes: Processes = SINGLE,
        stop: Callable[[], bool] = lambda: False,
        note: Note = lambda *_: None,
        forward: nn.Module | None = None,
    ):
        self.net, self.data, self.settings, self.files, self.say = net, data, settings, files, say
        self.stop, self.note = stop, note
        self.prunable = prunable_names(net, files.prunable)
        self.processes = processes
        self.device = next(net.parameters()).device
        self.forward = forward or self.processes.wrap(net)
        self.optimizer = self._new_optimizer()
        self._unsaved_ticket: Snapshot | None = None
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Find the tickets of all levels that are still missing."""
        progress = self._resume() or self._first_level()
        self._check_space(progress)
        while progress.level < self.settings.pruning_times:
            self._train_level(progress)
            if progress.level + 1 == self.settings.pruning_times:
                return
            progress = self._next_level(progress)

    def _check_space(self, progress: Snapshot) -> None:
        if self.processes.is_main and (levels := self._levels_left(progress)) > 0:
            check_space(
                self.files.folder, levels * self.files.level_bytes(progress), f"tickets of {levels} more levels"
            )

    def _levels_left(self, progress: Snapshot) -> int:
        """Of how many levels the files are still to be written."""
        return self.settings.pruning_times - progress.level - progress.has_ticket

    def _first_level(self) -> Snapshot:
        state = self._state()
        if self.settings.prune_type == "rewind_lt" and self.settings.rewind_epoch == 0:
            self._write(self.files.save_rewind, state, 0)
        return self._start(0, dense_mask(state, self.prunable), state)

    def _next_level(self, done: Snapshot) -> Snapshot:
        """Prune what `done` ended with, and take the weights that remain back."""
        level, settings = done.level + 1, self.settings
        if settings.random_prune:
            mask = prune_random(done.mask, settings.rate, generator(settings.seed, "prune", level))
        else:
            mask = prune_smallest(done.state, done.mask, settings.rate)
        if not count_kept(mask):
            raise UserError(f"--rate {settings.rate} leaves no weight at level {level}: choose --pruning_times {level}")
        rewind = done.rewind
        if settings.prune_type == "pt" and done.level == 0:
            best = self.processes.from_main(lambda: read_ticket(self.files.ticket(0)).state)
            rewind = {**done.state, **best}
        return self._start(level, mask, rewind)

    def _start(self, level: int, mask: Mask, rewind: State) -> Snapshot:
        """A level before its first epoch, with what `mask` leaves of `rewind` in the network, and no momentum."""
        self.net.load_state_dict(apply_mask(rewind, mask))
        self.optimizer = self._new_optimizer()
        curves = {"train": [], "val": [], "test": []}
        epoch = self.settings.first_epoch(level)
        start = Snapshot(
            level, epoch, self._state(), mask, curves, best=-1.0, optimizer={}, scheduler={}, rewind=rewind
        )
        self._write(self.files.begin_level, start)
        return start

    def _train_level(self, progress: Snapshot) -> None:
        curve = self.files.curve(progress.level)
        if progress.epoch >= self.settings.epochs and curve.exists():
            return
        if not self.settings.replica:  # the first of several says it for all
            self.say(_density_lines(progress.level, progress.mask))
        while progress.epoch < self.settings.epochs:
            self._train_epoch(progress)
        self._write(report.plot_curves, progress.curves, curve, self.settings.first_epoch(progress.level))

    def _train_epoch(self, progress: Snapshot) -> None:
        """Train and score one epoch, and save it if the last save is long enough ago or the level is done."""
        settings, level = self.settings, progress.level
        scores = {"train": self._train_pass(progress)}
        if settings.is_scored(level, progress.epoch + 1):
            scores |= {split: self._score(split, progress) for split in ("val", "test")}
        self._refuse_divergence(progress, scores)
        self._end_epoch(progress, progress.epoch + 1)
        for split, curve in progress.curves.items():
            # Programs that read the curves expect a value for each epoch: one without a score keeps the last.
            curve.append(scores[split].accuracy if split in scores else curve[-1])
        if level == 0 and settings.prune_type == "rewind_lt" and progress.epoch == settings.rewind_epoch:
            progress.rewind = progress.state
            self._write(self.files.save_rewind, progress.rewind, progress.epoch)
        self._write(self.note, self.files.events(level), progress.epoch, self._numbers(progress, scores))
        is_best = "val" in scores and scores["val"].accuracy > progress.best
        if is_best:
            progress.best = scores["val"].accuracy
            curves = {split: [*curve] for split, curve in progress.curves.items()}
            self._unsaved_ticket = replace(progress, curves=curves)
        is_finished = progress.epoch == settings.epochs
        if is_finished or time.monotonic() - self._saved_at >= settings.save_interval:
            self._save(progress, is_finished)
        accuracies = (f"  {split} {score.accuracy:6.2f}%" for split, score in scores.items())
        self.say(
            f"{self._title(level)} epoch {progress.epoch:3d}/{settings.epochs}  loss {scores['train'].loss:.4f}"
            f"{''.join(accuracies)}{'  best' if is_best else ''}"
        )

    def _save(self, progress: Snapshot, is_finished: bool = False) -> None:
        """Write the ticket, if a better one has been found, and then the checkpoint that says that it is there."""
        self._save_ticket()
        self._write(self.files.save_checkpoint, progress, is_finished)
        self._saved_at = time.monotonic()

    def _save_ticket(self) -> None:
        if self._unsaved_ticket:
            self._write(self.files.save_ticket, self._unsaved_ticket)
            self._unsaved_ticket = None

    def _title(self, level: int) -> str:
        """What the log calls a level of this run."""
        return f"level {level}" if self.settings.replica is None else f"level {level} replica {self.settings.replica}"

    def _numbers(self, progress: Snapshot, scores: Mapping[str, Score]) -> dict[str, float]:
        """Of the epoch that has just ended, by TensorBoard's tags: losses in nats, accuracies in percent."""
        steps = self.data.train_batch_count(self.settings.batch_size)
        numbers = {
            "learning_rate": self.settings.schedule.learning_rate(progress.epoch - 1, steps - 1, steps),
            "density": density(progress.mask),
        }
        for split, score in scores.items():
            numbers |= {f"loss/{split}": score.loss, f"accuracy/{split}": score.accuracy}
        return numbers

    def _end_epoch(self, progress: Snapshot, epoch: int) -> None:
        progress.epoch, progress.underway = epoch, {}
        # Where torch's scheduler leaves it, for programs that go on with one.
        self.optimizer.param_groups[0]["lr"] = self.settings.schedule.decayed(epoch)
        self._record_state(progress)

    def _record_state(self, progress: Snapshot) -> None:
        """Have `progress` hold the weights and the optimizer as they are now."""
        progress.state = apply_mask(self._state(), progress.mask)
        progress.optimizer = self.optimizer.state_dict()
        progress.scheduler = self.settings.schedule.state(progress.epoch)

    def _refuse_divergence(self, progress: Snapshot, scores: Mapping[str, Score]) -> None:
        titles = {"train": "training", "val": "validation"}
        losses = {title: scores[split].loss for split, title in titles.items() if split in scores}
        wrong = [f"{title} loss is {loss}" for title, loss in losses.items() if not math.isfinite(loss)]
        # The last step of an epoch shows in no training loss, and not every epoch is validated.
        if not wrong and not is_state(self.net.state_dict()):
            wrong = ["a weight is NaN or infinity"]
        if wrong:
            self._save_ticket()
            good = progress.level if progress.has_ticket else progress.level - 1
            # Other processes may come here before the main one has written it.
            path = self.processes.from_main(lambda: str(self.files.ticket(good).path)) if good >= 0 else None
            ticket = f"the last good ticket is {path}" if path else "no ticket is lost"
            raise UserError(
                f"{wrong[0]} in epoch {progress.epoch + 1} of {self._title(progress.level)}: lower --lr or raise "
                f"--warmup; {ticket}"
            )

    def _train_pass(self, progress: Snapshot) -> Score:
        """Train on what is left of the epoch; `progress.underway` has the sums of all of it then."""
        settings, level, epoch = self.settings, progress.level, progress.epoch
        sums = EpochSums(**progress.underway)
        if not self.processes.is_main:
            sums = EpochSums(batches=sums.batches)
        first, steps = sums.batches, self.data.train_batch_count(settings.batch_size)
        rates = (settings.schedule.learning_rate(epoch, step, steps) for step in range(first, steps))
        purpose = (settings.seed, "train", level, epoch, *(("replica", settings.replica) if settings.replica else ()))
        batches = self.data.train_batches(settings.batch_size, *purpose, first=first)
        watched = self._until_stopped(batches, progress, sums)
        title = f"{self._title(level)} epoch {epoch + 1}"
        bar = progress_bar(self.processes, title, steps, "batch", watched, initial=first)
        mask = progress.mask if level > 0 else None
        train_epoch(self.net, self.optimizer, bar, rates, mask, settings.amp, self.forward, sums)
        return self._combine_processes(progress, sums)

    def _until_stopped(self, batches: Iterable[Batch], progress: Snapshot, sums: EpochSums) -> Iterator[Batch]:
        """`batches`, until any process has been told to stop: all of them are at the same batch."""
        for batch in batches:
            if self.processes.any(self.stop()):
                self._combine_processes(progress, sums)
                self._leave(progress)
            yield batch

    def _combine_processes(self, progress: Snapshot, sums: EpochSums) -> Score:
        """Sum the counts of this pass over all processes, so far as it has come, and average batch-norm statistics.

        `progress.underway` keeps the sums. A call in the middle of an epoch averages once more than an uninterrupted
        run does, which changes the rounding of the statistics.
        """
        score = sums.total(self.processes)
        self.processes.average_buffers_(self.net)
        progress.underway = {"batches": sums.batches, **vars(score)}
        return score

    def _leave(self, progress: Snapshot) -> NoReturn:
        """Save the epoch as far as it has come, unless it has diverged, and end."""
        self._record_state(progress)
        if math.isfinite(progress.underway["loss_sum"]) and is_state(progress.state):
            self._save(progress)
            batches = progress.underway["batches"]
            self.say(f"stopped in epoch {progress.epoch + 1} after {batches} batches, which are saved")
        self.processes.barrier()  # where one process has ended, the launcher soon ends the others
        raise Preempted

    def _score(self, split: str, progress: Snapshot) -> Score:
        # Processes may have different numbers of batches, so each breaks off by itself and all meet afterwards.
        try:
            images = self.data.eval_batches(split)  # which may decode all of them first
        except Preempted:
            self._leave(progress)
        batches = itertools.takewhile(lambda _: not self.stop(), images)
        with autocast(self.device, self.settings.amp):
            score = evaluate(self.net, batches, self.processes)
        if self.processes.any(self.stop()):
            self._leave(progress)
        return score

    def _new_optimizer(self) -> torch.optim.SGD:
        settings = self.settings
        return make_optimizer(self.net, settings.schedule.base, settings.momentum, settings.weight_decay)

    def _state(self) -> State:
        return {name: value.detach().to("cpu", copy=True) for name, value in self.net.state_dict().items()}

    def _write(self, save: Callable[..., None], *content) -> None:
        if self.processes.is_main:
            save(*content)

    def _resume(self) -> Snapshot | None:
        """What the newest checkpoint in the folder holds, loaded into the network and the optimizer."""
        level = self.processes.from_main(self.files.newest_level)
        return None if level is None else self._load(level)

    def _load(self, level: int) -> Snapshot:
        path = self.files.checkpoint(level)
        progress = Snapshot(**self.processes.from_main(lambda: vars(self.files.load_checkpoint(level))))
        try:
            self.net.load_state_dict(progress.state)
            self._restore_momentum(progress)
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is no checkpoint of this run (--arch, --dataset): {reason}") from error
        done = progress.epoch - self.settings.first_epoch(level)
        if not alike(progress.state, self.net.state_dict()) or any(len(c) != done for c in progress.curves.values()):
            raise UserError(f"{path} is no checkpoint of this run: its weights or its curves are of another kind")
        progress.mask = progress.mask or dense_mask(progress.state, self.prunable)
        batches = f" and {progress.underway['batches']} batches" if progress.underway else ""
        self.say(f"going on after epoch {progress.epoch}{batches} of level {level}, from {path}")
        return progress

    def _restore_momentum(self, progress: Snapshot) -> None:
        """Load the momentum that `progress` numbers by the order of its own weights, which may not be the network's.

        In files of `torch.nn.utils.prune`, for one, a layer's bias comes before its weight.
        """
        parameters = dict(self.net.named_parameters())
        order = [parameters[name] for name in progress.state if name in parameters]
        restore_momentum(self.optimizer, progress.optimizer, order)


def _density_lines(level: int, mask: Mask) -> str:
    """The density overall and, from level 1 on, of each layer."""
    kept, total = count_kept(mask), count_prunable(mask)
    lines = [f"level {level}: {100 * kept / total:.2f}% of {total:,} prunable weights remain ({kept:,})"]
    if kept < total:
        lines += [
            f"  {name.removesuffix('.weight'):<28} {100 * float(part.float().mean()):6.2f}% of {part.numel():,}"
            for name, part in mask.items()
        ]
    return "\n".join(lines)
