"""Small images in: a whole data set as uint8 on the device, cropped, flipped and scaled there a batch at a time.

Augmentation is index arithmetic on whole batches, so neither worker processes nor an image library stand between the
data and the network, and what an epoch sees follows from its purpose (seed, level, epoch) alone.
"""

import hashlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from CIFAR.sources import read_source
from utils.errors import UserError
from utils.images import Batch
from utils.randomness import generator

CIFAR_STATISTICS = {
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762]),
}
CIFAR_VAL_IMAGES = 5000
# Images of 32×32 scored at once, of larger ones as many pixels. By arithmetic, not by measurement, a GPU is done with
# 500 before a small network's next are asked for.
EVAL_BATCH_SIZES = {"cpu": 500, "cuda": 2000}
Drawn = tuple[Tensor, Tensor, Tensor]
# The threads of a search ask for the same pass at the same time: what it takes is made once.
_LOCK = threading.Lock()


@dataclass
class Split:
    """One part of a data set.

    `images` is N x H x W x 3 uint8: with channels last, a gather moves whole pixels, and N x 3 x H x W views of it are
    `torch.channels_last`. `labels` is N int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Split":
        """The images and labels of `part`, which share memory with these."""
        return Split(self.images[part], self.labels[part])

    def to(self, device: torch.device | str) -> "Split":
        """The same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """The images in order, as they are: N x 3 x H x W float32 in 0..1, channels last in memory, and labels."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield _to_float(images), labels


@dataclass
class ImageData:
    """All that a run needs of its data set, on one device, as `utils.images.Images` says.

    `mean` and `std` hold one number a channel, for pixels in 0..1; `classes` holds the names in label order. Training
    images are cropped with `padding` pixels of zeros on every side and, if `flip`, mirrored half of the time.
    """

    train: Split
    val: Split
    test: Split
    mean: list[float]
    std: list[float]
    classes: list[str]
    padding: int
    flip: bool
    _drawn: tuple[tuple, Drawn] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def side(self) -> int:
        """Height and width of an image, in pixels."""
        return self.train.images.shape[1]

    @property
    def sizes(self) -> dict[str, int]:
        """How many images each split has."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}

    @cached_property
    def identity(self) -> dict[str, int | str]:
        """The sizes, and a digest of all images and labels: what tells this data set from any other."""
        return {**self.sizes, "digest": digest_of(self.train, self.val, self.test)}

    @property
    def device(self) -> torch.device:
        """Where the images are, and the batches made from them."""
        return self.train.images.device

    def train_batch_count(self, batch_size: int) -> int:
        """How many batches one whole pass of `train_batches` has."""
        return math.ceil(len(self.train) / batch_size)

    def train_batches(self, batch_size: int, *purpose: int | str, limit: int = 0, first: int = 0) -> Iterator[Batch]:
        """One pass over the training images: shuffled, augmented batches, the same for the same `purpose` anywhere.

        Yields images (N x 3 x H x W float32 in 0..1, channels last in memory) and labels (N int64); the last batch may
        be smaller. With `limit` above 0 the pass ends after that many images, which are a random subset then; they are
        augmented as in the whole pass. The pass begins with its 0-based batch `first`.
        """
        with _LOCK:
            order, corners, mirrored = self._augmentation(purpose, limit)
            pixels = self._padded.view(-1, 3)
        batches = zip(*(t.split(batch_size)[first:] for t in (order, corners, mirrored)), strict=True)
        for index, corner, mirror in batches:
            positions = corner[:, None] + self._window[mirror]
            images = pixels.index_select(0, positions.flatten()).view(-1, self.side, self.side, 3)
            yield _to_float(images), self.train.labels[index]

    # Recalibration sees what training would: the published scripts use one loader for both.
    bn_batches = train_batches

    def eval_batches(self, split: str, batch_size: int | None = None) -> Iterator[Batch]:
        """The images of `split` ("train", "val" or "test") in order, as they are; yields what `train_batches` does.

        As many at once as suit the device and their size, unless `batch_size` is given.
        """
        part = {"train": self.train, "val": self.val, "test": self.test}[split]
        fitting = EVAL_BATCH_SIZES[self.device.type] * 32**2 // max(32, self.side) ** 2
        return part.batches(batch_size or max(1, fitting))

    def _augmentation(self, purpose: tuple[int | str, ...], limit: int) -> Drawn:
        """What `_draw_augmentation` gives; the last is kept, for all coefficients of a candidate ask for the same."""
        if self._drawn is None or self._drawn[0] != (purpose, limit):
            self._drawn = (purpose, limit), self._draw_augmentation(purpose, limit)
        return self._drawn[1]

    def _draw_augmentation(self, purpose: tuple[int | str, ...], limit: int) -> Drawn:
        """For the first `limit` images (0: all) of the shuffled order, each N int64 on the device.

        These are the image, the position in `_padded` of its crop's upper left pixel, and 1 if it is mirrored, else 0.
        """
        draws, count = generator(*purpose), len(self.train)
        order = torch.randperm(count, generator=draws)
        top, left = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=draws).T
        coins = torch.randint(0, 2, (count,), generator=draws)
        padded_side = self.side + 2 * self.padding
        corners = (order * padded_side + top) * padded_side + left
        mirrored = coins if self.flip else torch.zeros_like(coins)
        return tuple(drawn[: limit or None].to(self.device) for drawn in (order, corners, mirrored))

    @cached_property
    def _padded(self) -> Tensor:
        """The training images with their border of zeros: N x (H+2·padding) x (W+2·padding) x 3 uint8."""
        return torch.nn.functional.pad(self.train.images, (0, 0, *(4 * (self.padding,)))).contiguous()

    @cached_property
    def _window(self) -> Tensor:
        """Where the pixels of a crop lie in a padded image, counted from its corner: 2 x (H·W), as is and mirrored."""
        across = torch.arange(self.side, device=self.device)
        window = across[:, None] * (self.side + 2 * self.padding) + across
        return torch.stack([window, window.flip(1)]).flatten(1)


def load_data(
    dataset: str,
    data: str | Path | None,
    device: torch.device | str,
    val_images: int | None = None,
    data_limit: int = 0,
    data_url: str | None = None,
    flip: bool = True,
) -> ImageData:
    """Read `dataset` (see `CIFAR.sources`) and put it on `device`.

    `data` is the folder (CIFAR) or file (npz) to read; digits need none. `data_limit` above 0 keeps the first so many
    training and test images. Of the training images, the last `val_images` become the validation set: by default 5,000
    for a whole CIFAR set and a tenth of anything else. `data_url` is the address to fetch a CIFAR archive from instead
    of the usual one. Digits are never mirrored, since a mirrored digit is another sign.

    Raises UserError for data that cannot be had or read, and for counts that do not fit it.
    """
    *parts, classes = read_source(dataset, data, data_url)
    train, test = (Split(*part) for part in parts)
    if data_limit:
        train, test = train[:data_limit], test[:data_limit]
    whole_cifar = dataset in CIFAR_STATISTICS and not data_limit
    kept = len(train) - _val_count(len(train), val_images, whole_cifar)
    train = train.to(device)
    mean, std = CIFAR_STATISTICS.get(dataset) or channel_statistics(train.images[:kept])
    return ImageData(
        train=train[:kept],
        val=train[kept:],
        test=test.to(device),
        mean=list(mean),
        std=list(std),
        classes=classes,
        padding=train.images.shape[1] // 8,
        flip=flip and dataset != "digits",
    )


def digest_of(*splits: Split) -> str:
    """A hash (BLAKE2b, 32 hex digits) of all images and labels in `splits`, which tells them from any others."""
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        digest.update(split.images.cpu().numpy())
        digest.update(split.labels.cpu().numpy())
    return digest.hexdigest()


def doubt_about_classes(data: ImageData, validates: bool = True) -> str | None:
    """What is odd about the classes in the splits of `data`, in a line; None if nothing is.

    Validation images are the last of the training images: where these are sorted, they are of few classes, and all
    choices would be made by those alone. That is nothing to a script that does not choose (`validates`).
    """
    trained, validated, tested = ({*part.labels.tolist()} for part in (data.train, data.val, data.test))
    is_one = len(validated) == 1 < len(trained | validated) and len(data.val) >= 10
    if validates and (is_one or len(validated) < min(len(trained), len(data.val)) / 2):
        return (
            f"the {len(data.val)} validation images, which are the last training images, are of {len(validated)} of "
            f"{len(trained | validated)} classes: are the images sorted by class? Shuffle them"
        )
    if unknown := sorted((validated | tested) - trained):
        names = ", ".join([*(data.classes[label] for label in unknown[:5]), *(["…"] if len(unknown) > 5 else [])])
        return f"no training image is of {names}: accuracies count such validation and test images as wrong"
    return None


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of `images` (N x H x W x 3 uint8), for pixels in 0..1.

    The sums are whole numbers, so that every device gives the same result. A constant channel has deviation 1, since
    images are divided by it.
    """
    totals = torch.zeros(2, 3, dtype=torch.int64, device=images.device)
    for chunk in images.split(256):
        values = chunk.reshape(-1, 3).long()
        totals += torch.stack([values.sum(0), values.square().sum(0)])
    count = images.numel() // 3
    sums, squares = totals.tolist()
    mean = [total / count / 255 for total in sums]
    variances = [(count * square - total * total) / count**2 for total, square in zip(sums, squares, strict=True)]
    return mean, [math.sqrt(variance) / 255 or 1.0 for variance in variances]


def _to_float(images: Tensor) -> Tensor:
    """N x H x W x 3 uint8 → N x 3 x H x W float32 in 0..1, channels last in memory."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def _val_count(total: int, wanted: int | None, whole_cifar: bool) -> int:
    """How many of `total` training images are for validation; UserError unless both parts have an image."""
    if total < 2:
        raise UserError(f"--data_limit: training and validation need at least 2 training images; there is {total}")
    if wanted is None:
        wanted = CIFAR_VAL_IMAGES if whole_cifar else max(1, round(total / 10))
    if not 1 <= wanted < total:
        raise UserError(f"--val_images {wanted}: of {total} training images, validation can have 1 to {total - 1}")
    return wanted
