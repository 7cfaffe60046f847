"""Small images in: a whole data set as uint8 on the device, cropped, flipped and scaled there a batch at a time.

Augmentation is index arithmetic on whole batches, so neither worker processes nor an image library stand between the
data and the network, and what an epoch sees follows from its purpose (seed, level, epoch) alone.
"""

import hashlib
import math
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import checkpoint
from utils.errors import UserError, one_line
from utils.folders import LOCK, in_turn
from utils.randomness import generator

DATASETS = {
    "cifar10": "60,000 photographs of 32×32 pixels in 10 classes; --data names the folder to download to",
    "cifar100": "the same in 100 classes",
    "digits": "scikit-learn's 1,797 handwritten digits of 8×8 pixels, without --data",
    "npz": "images of your own in the file that --data names: x_train, y_train, x_test, y_test",
}
CIFAR_CLASS_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # as torchvision.datasets names them
CIFAR_STATISTICS = {
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762]),
}
CIFAR_VAL_IMAGES = 5000
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
# Classes say how many outputs the network gets; one stray label, or names that take no room, must not ask for millions.
MAX_CLASSES = 100_000


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

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The images in order, as they are: N x 3 x H x W float32 in 0..1, channels last in memory, and labels."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield _to_float(images), labels


@dataclass
class ImageData:
    """All that a run needs of its data set, on one device.

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
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.val, self.test):
            digest.update(part.images.cpu().numpy())
            digest.update(part.labels.cpu().numpy())
        return {**self.sizes, "digest": digest.hexdigest()}

    @property
    def device(self) -> torch.device:
        """Where the images are, and the batches made from them."""
        return self.train.images.device

    def train_batch_count(self, batch_size: int, limit: int = 0) -> int:
        """How many batches one pass of `train_batches` has."""
        return math.ceil(self._pass_length(limit) / batch_size)

    def train_batches(
        self, batch_size: int, *purpose: int | str, limit: int = 0, first: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the training images: shuffled, augmented batches, the same for the same `purpose` anywhere.

        Yields images (N x 3 x H x W float32 in 0..1, channels last in memory) and labels (N int64); the last batch may
        be smaller. With `limit` above 0 the pass ends after that many images, which are a random subset then; they are
        augmented as in the whole pass. The pass begins with its 0-based batch `first`.
        """
        order, corners, mirrored = self._draw_augmentation(purpose, self._pass_length(limit))
        pixels = self._padded.view(-1, 3)
        batches = zip(*(t.split(batch_size)[first:] for t in (order, corners, mirrored)), strict=True)
        for index, corner, mirror in batches:
            positions = corner[:, None] + self._window[mirror]
            images = pixels.index_select(0, positions.flatten()).view(-1, self.side, self.side, 3)
            yield _to_float(images), self.train.labels[index]

    # Recalibration sees what training would: the published scripts use one loader for both.
    bn_batches = train_batches

    def eval_batches(self, split: str, batch_size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of `split` ("train", "val" or "test") in order, as they are; yields what `train_batches` does."""
        return {"train": self.train, "val": self.val, "test": self.test}[split].batches(batch_size)

    def _pass_length(self, limit: int) -> int:
        return min(limit, len(self.train)) if limit > 0 else len(self.train)

    def _draw_augmentation(self, purpose: tuple[int | str, ...], length: int) -> tuple[Tensor, Tensor, Tensor]:
        """For the first `length` images of the shuffled order, each N int64 on the device.

        These are the image, the position in `_padded` of its crop's upper left pixel, and 1 if it is mirrored, else 0.
        """
        draws, count = generator(*purpose), len(self.train)
        order = torch.randperm(count, generator=draws)
        top, left = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=draws).T
        coins = torch.randint(0, 2, (count,), generator=draws)
        padded_side = self.side + 2 * self.padding
        corners = (order * padded_side + top) * padded_side + left
        mirrored = coins if self.flip else torch.zeros_like(coins)
        return tuple(drawn[:length].to(self.device) for drawn in (order, corners, mirrored))

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
    """Read `dataset` (one of DATASETS) and put it on `device`.

    `data` is the folder (CIFAR) or file (npz) to read; digits need none. `data_limit` above 0 keeps the first so many
    training and test images. Of the training images, the last `val_images` become the validation set: by default 5,000
    for a whole CIFAR set and a tenth of anything else. `data_url` is the address to fetch a CIFAR archive from instead
    of the usual one. Digits are never mirrored, since a mirrored digit is another sign.

    Raises UserError for data that cannot be had or read, and for counts that do not fit it.
    """
    if data_limit < 0:
        raise UserError(f"--data_limit {data_limit}: give a number of images, or 0 for all of them")
    train, test, classes = _read(dataset, data, data_url)
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


def _read(dataset: str, data: str | Path | None, data_url: str | None) -> tuple[Split, Split, list[str]]:
    """Training images, test images (both on the CPU) and class names of `dataset`."""
    if dataset not in DATASETS:
        raise UserError(f"--dataset {dataset}: choose one of {', '.join(DATASETS)}")
    if dataset == "digits":
        return _read_digits()
    if data is None:
        raise UserError(f"--data: name the {'.npz file' if dataset == 'npz' else 'folder'} to read {dataset} from")
    path = Path(data).expanduser()
    return _read_npz(path) if dataset == "npz" else _read_cifar(dataset, path, data_url)


def _read_cifar(dataset: str, folder: Path, data_url: str | None) -> tuple[Split, Split, list[str]]:
    """CIFAR from `folder` through torchvision, which fetches what is missing and checks every file's checksum."""
    from torchvision import datasets  # here, since it takes seconds to import and the other data sets do without it

    if folder.exists() and not folder.is_dir():
        raise UserError(f"--data {folder}: is a file; name the folder that {dataset} is in, or is to be put in")
    if data_url and not data_url.startswith(("http://", "https://")):
        raise UserError(f"--data_url {data_url}: give an address that begins with http:// or https://")
    source = getattr(datasets, CIFAR_CLASS_NAMES[dataset])
    if data_url:
        source = type(source.__name__, (source,), {"url": data_url})
    if folder.name == source.base_folder and (folder / source.meta["filename"]).is_file():
        folder = folder.parent  # the unpacked folder itself was named
    try:
        train, test = _open_or_fetch(source, folder)
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException, tarfile.TarError, zlib.error) as error:
        raise UserError(_cifar_advice(source, folder, error)) from error
    splits = [Split(torch.from_numpy(part.data).contiguous(), torch.tensor(part.targets)) for part in (train, test)]
    return *splits, list(train.classes)


def _open_or_fetch(source: type, folder: Path) -> tuple:
    """torchvision's training and test set; of several processes that miss them, one fetches and the others wait."""
    try:  # first without a lock: a folder that has all may be read-only
        return source(folder, train=True), source(folder, train=False)
    except RuntimeError:  # something is missing, or is just being unpacked
        with in_turn(folder / f".{source.base_folder}{LOCK}"):
            return source(folder, train=True, download=True), source(folder, train=False)


def _cifar_advice(source: type, folder: Path, error: Exception) -> str:
    # A plain RuntimeError is torchvision's word on checksums, and advises on an argument that users do not have.
    reason = "a file is missing or its checksum is wrong" if type(error) is RuntimeError else one_line(error)
    return (
        f"--data {folder}: no usable {source.__name__} there or at {source.url} ({reason}); put {source.filename}, or "
        f"the folder {source.base_folder} unpacked from it, into {folder}, or name another address of "
        f"{source.filename} with --data_url"
    )


def _read_digits() -> tuple[Split, Split, list[str]]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; the last fifth of a fixed shuffle (359) is for testing."""
    from sklearn.datasets import load_digits  # here, since it takes a second to import and only digits need it

    digits = load_digits()
    # NumPy promises that this stream never changes, so neither does the split.
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)
    everything = Split(_rgb_tensor(images), torch.from_numpy(digits.target[order].astype(np.int64)))
    kept = len(order) - int(0.2 * len(order))
    return everything[:kept], everything[kept:], [str(name) for name in digits.target_names]


def _read_npz(path: Path) -> tuple[Split, Split, list[str]]:
    """The .npz file at `path`: x_train, y_train, x_test, y_test and optionally classes; UserError if malformed."""
    arrays = _load_arrays(path)
    for key in ("x_train", "x_test"):
        _check_images(f"{path}: {key}", arrays[key])
    if arrays["x_train"].shape[1] != arrays["x_test"].shape[1]:
        sides = " and ".join(str(arrays[key].shape[1]) for key in ("x_train", "x_test"))
        raise UserError(f"{path}: x_train and x_test have images of different sides ({sides} pixels); make them equal")
    names = _class_names(path, arrays["classes"]) if "classes" in arrays else None
    for part in ("train", "test"):
        _check_labels(f"{path}: y_{part}", arrays[f"y_{part}"], len(arrays[f"x_{part}"]), names)
    if names is None:
        names = [str(label) for label in range(1 + max(int(arrays[key].max()) for key in ("y_train", "y_test")))]
    train, test = (
        Split(_rgb_tensor(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"].astype(np.int64)))
        for part in ("train", "test")
    )
    return train, test, names


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return checkpoint.load_arrays(path, NPZ_KEYS, ("classes",))
    except UserError as error:
        raise UserError(f"{error}; check --data") from error


def _check_images(name: str, images: np.ndarray) -> None:
    """UserError unless `images`, called `name`, is uint8, N x S x S, with 1 or 3 channels if it has any, not empty."""
    if images.dtype != np.uint8:
        raise UserError(f"{name} is {images.dtype}; images are uint8, from 0 to 255")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise UserError(f"{name} has shape {images.shape}; images are N x H x W, N x H x W x 1 or N x H x W x 3")
    if images.size == 0:
        raise UserError(f"{name} has shape {images.shape}, which holds no image; give at least one")
    if images.shape[1] != images.shape[2]:
        raise UserError(f"{name} has images of {images.shape[1]} x {images.shape[2]} pixels; make them square")


def _check_labels(name: str, labels: np.ndarray, images: int, classes: list[str] | None) -> None:
    """UserError unless `labels`, called `name`, is one whole number an image, each of them the index of a class."""
    if labels.dtype.kind not in "iu":
        raise UserError(f"{name} is {labels.dtype}; labels are integers, from 0 on")
    if labels.shape != (images,):
        raise UserError(f"{name} has shape {labels.shape}; {images} images need shape ({images},), one label each")
    if labels.min() < 0:
        raise UserError(f"{name} has the label {labels.min()}; labels count from 0")
    if classes is not None and labels.max() >= len(classes):
        raise UserError(f"{name} has the label {labels.max()}, but classes names {len(classes)}, from 0 on")
    if classes is None and labels.max() >= MAX_CLASSES:
        raise UserError(f"{name} has the label {labels.max()}; labels as large as that need classes, their names")


def _class_names(path: Path, classes: np.ndarray) -> list[str]:
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise UserError(f"{path}: classes is {classes.dtype} of shape {classes.shape}; make it a list of strings")
    if len(classes) > MAX_CLASSES:
        raise UserError(f"{path}: classes has {len(classes)} names; at most {MAX_CLASSES} make sense")
    try:
        return classes.tolist()
    except (ValueError, SystemError) as error:  # numbers that are no letters
        raise UserError(f"{path}: classes is damaged ({error}); write the file again") from error


def _rgb_tensor(images: np.ndarray) -> Tensor:
    """N x H x W, N x H x W x 1 or N x H x W x 3 uint8 → N x H x W x 3; gray is repeated."""
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] == 1:
        images = np.repeat(images, 3, axis=3)
    return torch.from_numpy(np.ascontiguousarray(images))
