"""Where photographs come from: a folder of `train`, `val` and, if there is one, `test`, each with a folder a class."""

from pathlib import Path

import torch
from torchvision.datasets import ImageFolder

from utils.errors import UserError
from utils.randomness import generator

Sample = tuple[str, int]  # file and label


def read_folders(root: Path, val_images: int | None, data_limit: int) -> tuple[dict[str, list[Sample]], list[str]]:
    """The samples of train, val and test, and the class names. docs/imagenet.md tells what no `test` folder means."""
    folders = {split: _read_split(root / split) for split in ("train", "val", "test") if (root / split).is_dir()}
    for split in ("train", "val"):
        if split not in folders:
            raise UserError(f"{root} has no folder {split}: it needs train/CLASS/*.JPEG and val/CLASS/*.JPEG")
    classes = folders["train"].classes
    for split, folder in folders.items():
        if odd := sorted(set(classes) ^ set(folder.classes)):
            raise UserError(f"{root}: class {odd[0]} is in only one of train and {split}{_advice(split)}")
    samples = {split: folder.samples for split, folder in folders.items()}
    if "test" not in samples:
        samples["test"] = samples["val"]
        samples["train"], samples["val"] = _hold_out(samples["train"], val_images)
    return {split: evenly(part, data_limit) for split, part in samples.items()}, classes


def _read_split(folder: Path) -> ImageFolder:
    try:
        return ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())}{_advice(folder.name)}") from error


def _advice(split: str) -> str:
    """What to do about a split with wrong classes: the `test` that ImageNet and Tiny ImageNet come with has none."""
    advice = "; if its images have no labels, move test away or rename it, and val is the test set"
    return advice if split == "test" else ""


def _hold_out(train: list[Sample], val_images: int | None) -> tuple[list[Sample], list[Sample]]:
    """The same random `val_images` (default: a tenth) of the training images in every run, kept for validation."""
    wanted = round(len(train) / 10) if val_images is None else val_images
    if not 0 < wanted < len(train):
        raise UserError(f"--val_images {wanted}: there are {len(train)} training images to keep them from")
    order = torch.randperm(len(train), generator=generator("validation")).tolist()
    return [train[index] for index in sorted(order[wanted:])], [train[index] for index in sorted(order[:wanted])]


def evenly(samples: list[Sample], limit: int) -> list[Sample]:
    """At most `limit` (0: all) of `samples`, evenly over them and so over their classes."""
    if not limit or limit >= len(samples):
        return samples
    return [samples[index * len(samples) // limit] for index in range(limit)]
