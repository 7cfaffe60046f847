"""Corrupted photographs as ImageNet-C comes: DIR/<corruption>/<severity>/<class>/*.JPEG."""

from collections.abc import Iterator
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from ImageNet.dataset import ImageFolders
from ImageNet.sources import evenly
from utils.corruptions import SEVERITIES, in_order
from utils.errors import UserError
from utils.images import Batch


class CorruptedFolders:
    """The folder of a corrupted test set (Hendrycks and Dietterich 2019) for the networks of `data`.

    Of each corruption and severity it takes the classes of `data`, and at most `limit` images (0: all) evenly over
    them. Raises UserError for a folder that lacks a severity or a class.
    """

    def __init__(self, folder: Path, data: ImageFolders, limit: int = 0):
        self.folder, self.data, self.limit = folder, data, limit
        if not folder.is_dir():
            raise UserError(f"--corruptions {folder}: there is no such folder")
        self.names = in_order(path.name for path in folder.iterdir() if path.is_dir())
        if not self.names:
            raise UserError(f"--corruptions {folder}: holds no folders <corruption>/<severity>/<class>")
        for name in self.names:
            for severity in SEVERITIES:
                _check_classes(folder / name / str(severity), data.classes)

    def batches(self, corruption: str, severity: int, batch_size: int) -> Iterator[Batch]:
        """This process's part: images N×3×S×S in 0..1 and labels, on the device."""
        numbers = {name: number for number, name in enumerate(self.data.classes)}
        folder = self.folder / corruption / str(severity)
        try:
            samples = make_dataset(str(folder), numbers, IMG_EXTENSIONS)
        except FileNotFoundError as error:
            raise UserError(f"--corruptions {folder}: {' '.join(str(error).split())}") from error
        return self.data.other_batches(str(folder), evenly(samples, self.limit), batch_size)


def _check_classes(folder: Path, classes: list[str]) -> None:
    if not folder.is_dir():
        raise UserError(f"--corruptions: there is no folder {folder}; it must hold <corruption>/<1 to 5>/<class>")
    missing = sorted(set(classes) - {path.name for path in folder.iterdir()})
    if missing:
        raise UserError(f"--corruptions {folder}: holds no class {missing[0]}, which the images of --data have")
