"""Where small images come from: CIFAR, scikit-learn's digits, .npz files, each checked as it is read."""

import tarfile
import zlib
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import checkpoint
from utils.errors import UserError, one_line
from utils.folders import LOCK, hold_lock

DATASETS = {
    "cifar10": "60,000 photographs of 32×32 pixels in 10 classes; --data names the folder to download to",
    "cifar100": "the same in 100 classes",
    "digits": "scikit-learn's 1,797 handwritten digits of 8×8 pixels, without --data",
    "npz": "images of your own in the file that --data names: x_train, y_train, x_test, y_test",
}
CIFAR_CLASS_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # as torchvision.datasets names them
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
# Classes say how many outputs the network gets; one stray label, or names that take no room, must not ask for millions.
MAX_CLASSES = 100_000

Part = tuple[Tensor, Tensor]  # images N x H x W x 3 uint8 and labels N int64, on the CPU
Source = tuple[Part, Part, list[str]]  # for training, for testing, and the classes' names in label order


def read_source(dataset: str, data: str | Path | None, data_url: str | None) -> Source:
    """Read `dataset`, one of DATASETS, from the folder (CIFAR) or file (npz) `data`; digits need none.

    `data_url` is the address to fetch a CIFAR archive from instead of the usual one. UserError for data that cannot be
    had or read.
    """
    if dataset == "digits":
        return _read_digits()
    try:
        path = Path(data).expanduser()  # shells leave `--data=~/images` as it is
    except RuntimeError as error:
        raise UserError(f"--data {data}: there is no such home directory") from error
    return _read_npz(path) if dataset == "npz" else _read_cifar(dataset, path, data_url)


def _read_cifar(dataset: str, folder: Path, data_url: str | None) -> Source:
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
    parts = [(torch.from_numpy(part.data).contiguous(), torch.tensor(part.targets)) for part in (train, test)]
    return *parts, list(train.classes)


def _open_or_fetch(source: type, folder: Path) -> tuple:
    """torchvision's training and test set; of several processes that miss them, one fetches and the others wait."""
    try:  # first without a lock: a folder that has all may be read-only
        return source(folder, train=True), source(folder, train=False)
    except RuntimeError:  # something is missing, or is just being unpacked
        with hold_lock(folder / f".{source.base_folder}{LOCK}"):
            return source(folder, train=True, download=True), source(folder, train=False)


def _cifar_advice(source: type, folder: Path, error: Exception) -> str:
    # A plain RuntimeError is torchvision's word on checksums, and advises on an argument that users do not have.
    reason = "a file is missing or its checksum is wrong" if type(error) is RuntimeError else one_line(error)
    return (
        f"--data {folder}: no usable {source.__name__} there or at {source.url} ({reason}); put {source.filename}, or "
        f"the folder {source.base_folder} unpacked from it, into {folder}, or name another address of "
        f"{source.filename} with --data_url"
    )


def _read_digits() -> Source:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; the last fifth of a fixed shuffle (359) is for testing."""
    from sklearn.datasets import load_digits  # here, since it takes a second to import and only digits need it

    digits = load_digits()
    # NumPy promises that this stream never changes, so neither does the split.
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)
    pixels, labels = _rgb_tensor(images), torch.from_numpy(digits.target[order].astype(np.int64))
    kept = len(order) - int(0.2 * len(order))
    classes = [str(name) for name in digits.target_names]
    return (pixels[:kept], labels[:kept]), (pixels[kept:], labels[kept:]), classes


def _read_npz(path: Path) -> Source:
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
        (_rgb_tensor(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"].astype(np.int64)))
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
