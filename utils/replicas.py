"""IMP whose levels are means of several trainings: sparse networks with one mask, averaged, stay as sparse as it.

Sparse model soups (Zimmer, Spiegel and Pokutta, ICLR 2024, https://arxiv.org/abs/2306.16788), in the manner of SWAMP
(Choi et al., ICLR 2024, https://arxiv.org/abs/2305.14852): each level is trained several times from the same weights on
other orders of images, the mean of these *replicas* is the level's ticket, and the next mask comes from it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NoReturn

import torch
from torch import Tensor

from utils.batchnorm import recalibrate
from utils.errors import UserError
from utils.evaluation import Score, autocast
from utils.images import Batch
from utils.imp import ImpRun
from utils.interpolation import mean
from utils.preemption import Preempted
from utils.pruning import Mask, State
from utils.tickets import Snapshot, alike


class ReplicasRun(ImpRun):
    """A run that trains each level `settings.replicas` times; each replica's files are in `files.replica(number)`.

    The first replica draws what a run without replicas draws, so its level 0 is that run's, and under `rewind_lt` its
    weights after the rewind epoch are the rewind point of all. The other replicas of level 0 start there, with fresh
    momentum like every sparse level, or at the initialisation (`lt`, `pt`), from where they may end in basins whose
    mean is worth nothing.

    The run's own files hold one network a level: the mean of the replicas' last epochs, with batch norm recalibrated on
    all training images. Nobody has chosen among epochs, so ticket and checkpoint are the same network, and `best_sa` is
    its validation accuracy. Readers of the curves expect a value for each epoch that the level trained, and the ticket
    at the best one of "val". A mean has no earlier epochs: each curve repeats one number, the mean network's validation
    and test accuracy, and as "train" the replicas' mean training accuracy in their last epoch. There is no picture of
    that; the replicas have theirs.

    `note` gets the numbers of the replicas' epochs and those of the means, each with the folder of its own events.
    """

    def _levels_left(self, progress: Snapshot) -> int:
        """Those of the replicas count too: they have files of the same size."""
        newest = [self.files.replica(number).newest_level() for number in range(self.settings.replicas)]
        done = [0 if level is None else level + 1 for level in newest]
        own = super()._levels_left(progress)
        return max(0, own) + sum(max(0, self.settings.pruning_times - levels) for levels in done)

    def _train_level(self, progress: Snapshot) -> None:
        """Train every replica; what `progress` was, the beginning of a level, becomes their mean."""
        if progress.epoch >= self.settings.epochs:
            return
        ends: list[dict[str, float]] = []
        self.net.load_state_dict(mean(self._last_weights(progress, ends)))
        self._recalibrate(progress)
        scores = {split: self._score(split, progress) for split in ("val", "test")}
        self._refuse_divergence(progress, scores)
        self._end_epoch(progress, self.settings.epochs)
        self._save_mean(progress, scores, ends)
        accuracies = (
            f"  {split} {score.accuracy:.2f}% ({', '.join(f'{end[split]:.2f}' for end in ends)})"
            for split, score in scores.items()
        )
        self.say(f"level {progress.level} mean of {len(ends)} replicas{''.join(accuracies)}")

    def _last_weights(self, progress: Snapshot, ends: list[dict[str, float]]) -> Iterator[State]:
        """Train one replica after the other, and give their weights.

        `ends` gets the accuracies of each in its last epoch, `progress` the rewind point that the first one finds.
        """
        for number in range(self.settings.replicas):
            done = self._replica(number).train(progress.level, progress.mask, progress.rewind)
            progress.rewind = done.rewind
            ends.append({split: curve[-1] for split, curve in done.curves.items()})
            yield done.state

    def _replica(self, number: int) -> "Replica":
        """A new one for each level, so that no replica's momentum is in memory while another trains."""
        settings, files = replace(self.settings, replica=number), self.files.replica(number)
        return Replica(
            self.net, self.data, settings, files, self.say, self.processes, self.stop, self.note, self.forward
        )

    def _recalibrate(self, progress: Snapshot) -> None:
        """Give the network batch-norm statistics of its own, on augmented training images."""
        try:
            batches = self.data.bn_batches(self.settings.batch_size, self.settings.seed, "recalibrate", progress.level)
        except Preempted:
            self._leave(progress)
        with autocast(self.device, self.settings.amp):
            recalibrate(self.net, self._images_until_stopped(batches), self.processes)
        if self.processes.any(self.stop()):
            self._leave(progress)

    def _images_until_stopped(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """At least one batch: statistics of none are an error."""
        for images, _ in batches:
            yield images
            if self.stop():
                return

    def _leave(self, progress: Snapshot) -> NoReturn:
        """End within the making of a mean, of which nothing is kept: it takes no longer than scoring an epoch."""
        self.say(f"stopped before the mean of level {progress.level}; its replicas are saved")
        self.processes.barrier()
        raise Preempted

    def _refuse_divergence(self, progress: Snapshot, scores: dict[str, Score]) -> None:
        if not math.isfinite(scores["val"].loss):
            raise UserError(
                f"validation loss of the mean of level {progress.level} is {scores['val'].loss}: lower --lr; the "
                f"replicas are in {self.files.replica(0).folder} and beside it"
            )

    def _save_mean(self, progress: Snapshot, scores: dict[str, Score], ends: Sequence[dict[str, float]]) -> None:
        """Write the files of the level. Its checkpoint comes last: with it the level is done."""
        settings, level = self.settings, progress.level
        train = sum(end["train"] for end in ends) / len(ends)
        accuracies = {"train": train, **{split: score.accuracy for split, score in scores.items()}}
        epochs = settings.epochs - settings.first_epoch(level)
        progress.curves = {split: [accuracy] * epochs for split, accuracy in accuracies.items()}
        progress.best = accuracies["val"]
        if level == 0 and settings.prune_type == "rewind_lt":
            self._write(self.files.save_rewind, progress.rewind, settings.rewind_epoch)
        self._write(self.note, self.files.events(level), progress.epoch, self._numbers(progress, scores))
        self._write(self.files.save_ticket, progress)
        self._write(self.files.save_checkpoint, progress, True)


class Replica(ImpRun):
    """One of several trainings; `settings.replica` says which."""

    def train(self, level: int, mask: Mask, rewind: State) -> Snapshot:
        """Train a level, from what `mask` leaves of `rewind` or from its checkpoint, and return its last epoch.

        UserError where the checkpoint has another mask.
        """
        is_begun = self.processes.from_main(self.files.checkpoint(level).exists)
        progress = self._load(level) if is_begun else self._start(level, mask, rewind)
        if not (alike(progress.mask, mask) and all(torch.equal(progress.mask[name], mask[name]) for name in mask)):
            raise UserError(f"{self.files.checkpoint(level)} is no checkpoint of this run: its mask is another")
        self._train_level(progress)
        return progress
