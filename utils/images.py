"""The images of a run, as `CIFAR.dataset` and `ImageNet.dataset` give them to everything else."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]  # images, N×3×H×W float32 in 0..1, channels last in memory; labels, N int64


class Images(Protocol):
    """Training, validation and test images, in batches on `device`; of several processes each has its own part.

    `mean` and `std` hold one number a channel, for pixels in 0..1; `classes` the names in label order; `side` is the
    height and width in pixels. `sizes` says how many images each split has, and `identity` tells this data set from any
    other. What a `purpose` (seed, level, epoch, …) sees follows from it alone.
    """

    device: torch.device
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[str]
    side: int

    @property
    def sizes(self) -> dict[str, int]: ...

    @property
    def identity(self) -> dict[str, int | str]: ...

    def train_batch_count(self, batch_size: int) -> int:
        """How many batches one pass over the training images has."""

    def train_batches(self, batch_size: int, *purpose: int | str, first: int = 0) -> Iterator[Batch]:
        """One pass over the training images, shuffled and augmented, from its 0-based batch `first` on."""

    def bn_batches(self, batch_size: int, *purpose: int | str, limit: int = 0) -> Iterator[Batch]:
        """Augmented training images to recalibrate batch norm on: `limit` of them, or all (0)."""

    def eval_batches(self, split: str, batch_size: int = ...) -> Iterator[Batch]:
        """The images of "train", "val" or "test" in order, as they are."""
