"""Corrupted CIFAR images as CIFAR-10-C and CIFAR-100-C come: one array a corruption, `labels.npy` for all of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from CIFAR.dataset import ImageData, Split
from utils import tickets
from utils.checkpoint import open_array
from utils.corruptions import SEVERITIES, in_order
from utils.errors import UserError
from utils.images import Batch


class CorruptedArrays:
    """The folder of a corrupted test set (Hendrycks and Dietterich 2019) for the networks of `data`.

    `<corruption>.npy` holds 5·N×S×S×3 uint8, severity 1 first (N is 10,000 as published), `labels.npy` 5·N integers. A
    severity at a time is read into memory, the first `limit` images of it (0: all). Raises UserError for a folder that
    holds something else.
    """

    def __init__(self, folder: Path, data: ImageData, limit: int = 0):
        self.device, self.limit = data.device, limit
        labels = open_array(folder / tickets.CORRUPTED_LABELS)
        _check_labels(folder / tickets.CORRUPTED_LABELS, labels, len(data.classes))
        self._labels = torch.from_numpy(labels.astype(np.int64))
        self._refuse_other_images(folder / tickets.CORRUPTED_LABELS, data.test.labels.cpu())
        files = {path.stem: path for path in folder.glob("*.npy") if path.name != tickets.CORRUPTED_LABELS}
        if not files:
            raise UserError(f"--corruptions {folder}: holds no <corruption>.npy beside {tickets.CORRUPTED_LABELS}")
        self.names = in_order(files)
        self._images = {name: open_array(files[name]) for name in self.names}
        for name, images in self._images.items():
            _check_images(files[name], images, (len(labels), data.side, data.side, 3))

    def _part(self, severity: int) -> slice:
        """Where the images of a severity lie."""
        count = len(self._labels) // len(SEVERITIES)
        begin = (severity - 1) * count
        return slice(begin, begin + min(count, self.limit or count))

    def _refuse_other_images(self, path: Path, test: Tensor) -> None:
        """UserError unless each severity has the test images in their order, as far as labels tell, or the first."""
        for severity in SEVERITIES:
            labels = self._labels[self._part(severity)]
            if not torch.equal(labels, test[: len(labels)]):
                raise UserError(
                    f"{path} has other labels than the test images of --dataset and --data: are they these?"
                )

    def batches(self, corruption: str, severity: int, batch_size: int) -> Iterator[Batch]:
        """Images N×3×S×S in 0..1 and labels, on the device."""
        part = self._part(severity)
        images = torch.from_numpy(np.array(self._images[corruption][part]))  # a copy: the file must stay as it is
        return Split(images, self._labels[part]).to(self.device).batches(batch_size)


def _check_labels(path: Path, labels: np.ndarray, classes: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0 or len(labels) % len(SEVERITIES):
        raise UserError(
            f"{path} is {labels.dtype} of shape {labels.shape}; it must hold integers, as many for each of 5 severities"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{path} has labels from {labels.min()} to {labels.max()}; the {classes} classes of --dataset count from 0"
        )


def _check_images(path: Path, images: np.ndarray, wanted: tuple[int, ...]) -> None:
    if images.dtype != np.uint8 or images.shape != wanted:
        raise UserError(
            f"{path} is {images.dtype} of shape {images.shape}; by {tickets.CORRUPTED_LABELS} and --dataset it must be "
            f"uint8 of shape {wanted}"
        )
