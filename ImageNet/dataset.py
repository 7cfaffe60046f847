"""ImageNet-sized photographs in: folders of JPEG files, decoded once where they are needed again and again.

A folder holds `train`, `val` and, if there is one, `test`, each with one folder a class. Every process works on its own
part: of each training batch, of the batches that recalibrate batch norm, of the images that are scored. Which images
those are, and how each is cropped, follows from the seed alone, whatever the number of processes and workers.
"""

import hashlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from utils.distributed import SINGLE, Processes
from utils.errors import UserError
from utils.preemption import end_with_parent, held_back
from utils.randomness import derive_seed, generator

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
UNREADABLE = -1  # the label of an image that cannot be decoded
Sample = tuple[str, int]


class Photographs(Dataset):
    """`samples` (file, label) as 3×S×S uint8; with a `purpose`, augmented by a crop and flip derived from it.

    A file that cannot be decoded is named on standard error and becomes a black image with the label UNREADABLE.
    """

    def __init__(self, samples: Sequence[Sample], side: int, transform: Callable, purpose: tuple[int | str, ...] = ()):
        self.samples, self.side, self.transform, self.purpose = samples, side, transform, purpose

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(f"left out, cannot be read: {path} ({error})", file=sys.stderr, flush=True)
            return torch.zeros(3, self.side, self.side, dtype=torch.uint8), UNREADABLE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(*self.purpose, index))
            return pil_to_tensor(self.transform(image)), label


class Loader(DataLoader):
    """A DataLoader whose workers outlive a SIGTERM to all processes: what they decode is needed until all is saved."""

    def __iter__(self):
        with held_back():
            return super().__iter__()


class ImageFolders:
    """All that a run needs of its images; has the methods of `CIFAR.dataset.ImageData`.

    Images are resized to `resize` pixels on the shorter side and cropped to `image_size` in the middle; training images
    are cropped at random as OpenLTH does. `processes` share the work where `split_work` says so, and the memory of what
    is kept decoded, at most `cache_gb` GB a host, in any case. `seed` selects the images of recalibration.
    """

    mean, std = MEAN, STD

    def __init__(
        self,
        root: Path,
        processes: Processes,
        image_size: int = 224,
        resize: int = 256,
        val_images: int | None = None,
        data_limit: int = 0,
        workers: int = 4,
        cache_gb: float = 16.0,
        seed: int = 0,
        split_work: bool = True,
    ):
        self.device, self.side, self.workers, self.seed = processes.device, image_size, workers, seed
        self.processes, self.part = processes, processes if split_work else SINGLE
        self.samples, self.classes = _read_folders(root, val_images, data_limit)
        self._room = cache_gb * 1e9
        self._memory: dict[str, tuple[Tensor, Tensor]] = {}
        self._augment = transforms.Compose(
            [
                transforms.RandomResizedCrop(image_size, scale=(0.1, 1.0), ratio=(0.8, 1.25)),
                transforms.RandomHorizontalFlip(),
            ]
        )
        self._plain = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(image_size)])

    @property
    def sizes(self) -> dict[str, int]:
        return {split: len(samples) for split, samples in self.samples.items()}

    @property
    def identity(self) -> dict[str, int | str]:
        """The sizes, and a digest of all file names and labels: what tells this data set from any other."""
        names = {
            split: [(*Path(path).parts[-2:], label) for path, label in part] for split, part in self.samples.items()
        }
        return {**self.sizes, "digest": hashlib.blake2b(repr(names).encode(), digest_size=16).hexdigest()}

    def train_batch_count(self, batch_size: int) -> int:
        """A last batch too small to give every process two images (batch norm needs them) is left out."""
        images, world = len(self.samples["train"]), self.part.world
        if min(images, batch_size) < 2 * world:
            raise UserError(
                f"{images} training images in batches of {batch_size} (--batch_size) are too few for {world} ranks"
            )
        whole, rest = divmod(images, batch_size)
        return whole + (rest >= 2 * world)

    def train_batches(self, batch_size: int, *purpose: int | str, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of every shuffled, augmented batch of `batch_size` images over all processes.

        The pass begins with its 0-based batch `first`.
        """
        samples = self.samples["train"]
        order = torch.randperm(len(samples), generator=generator(*purpose))
        batches = order.split(batch_size)[: self.train_batch_count(batch_size)]
        batches = [batch[_slice(self.part.shard(len(batch)))] for batch in batches[first:]]
        return self._readable(self._decode(Photographs(samples, self.side, self._augment, purpose), batches))

    def bn_batches(self, batch_size: int, *purpose: int | str, limit: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's batches (whole ones, every so many) of the training images that recalibrate batch norm.

        They are `limit` images (0: all), each with one crop, the same for every `purpose`: so they are decoded once.
        """
        purpose = (self.seed, "recalibrate")
        chosen = torch.randperm(len(self.samples["train"]), generator=generator(*purpose)).tolist()
        samples = [self.samples["train"][index] for index in chosen[: limit or None]]
        batches = torch.arange(len(samples)).split(batch_size)[self.part.rank :: self.part.world]
        return self._kept(f"recalibration {limit}", Photographs(samples, self.side, self._augment, purpose), batches)

    def eval_batches(self, split: str, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of "train", "val" or "test", in order, not augmented."""
        photographs = Photographs(self.samples[split], self.side, self._plain)
        mine = torch.arange(len(photographs))[_slice(self.part.shard(len(photographs)))]
        return self._kept(split, photographs, mine.split(batch_size) if len(mine) else ())

    def decode_ahead(self, *bn_images: int | None) -> None:
        """Fill the memory that processes share while they are in step: with starts of their own they no longer are.

        `bn_images` are the limits with which `bn_batches` will be asked; None for a recalibration that will not be.
        """
        for limit in bn_images:
            if limit is not None:
                self.bn_batches(1, limit=limit)
        for split in ("val", "test"):
            self.eval_batches(split)

    def _kept(self, name: str, photographs: Photographs, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `photographs` by their indices, from memory where there is room for all, else decoded again."""
        size = len(photographs) * 3 * self.side**2
        if name not in self._memory and size <= self._room:
            self._room -= size
            self._memory[name] = self._decode_once(photographs)
        if name not in self._memory:
            return self._readable(self._decode(photographs, batches))
        images, labels = self._memory[name]
        return self._readable((images[batch], labels[batch]) for batch in batches)

    def _decode(self, photographs: Photographs, batches: Sequence[Tensor]) -> DataLoader:
        return Loader(
            photographs,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=self.workers,
            worker_init_fn=end_with_parent,
            pin_memory=self.device.type == "cuda",
        )

    def _readable(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches on the device, float N×3×S×S in 0..1, channels last, without the images that cannot be read."""
        left_out = 0
        for images, labels in batches:
            readable = labels != UNREADABLE
            if not readable.all():  # else no copy, which would leave the pinned memory
                left_out += int((~readable).sum())
                images, labels = images[readable], labels[readable]
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            yield images.to(memory_format=torch.channels_last).float().div_(255), labels
        if left_out:
            print(f"{left_out} images left out of this pass", file=sys.stderr, flush=True)

    def _decode_once(self, photographs: Photographs) -> tuple[Tensor, Tensor]:
        """All `photographs`, N×3×S×S uint8, and labels, in memory that the processes of this host share and fill."""
        count, rank, world = len(photographs), self.processes.local_rank, self.processes.local_world
        memory = self._shared_memory(count * (8 + 3 * self.side**2))
        labels = memory[: 8 * count].view(torch.int64)
        images = memory[8 * count :].view(count, 3, self.side, self.side)
        mine = torch.arange(rank, count, world).split(64) if rank < count else ()
        for batch, decoded in zip(mine, self._decode(photographs, mine), strict=True):
            images[batch], labels[batch] = decoded
        self.processes.barrier()
        return images, labels

    def _shared_memory(self, size: int) -> Tensor:
        """`size` bytes that the processes of this host share. The file behind them is unlinked before it is used."""
        # The first process of each machine chooses for it: free space changes from one look to the next.
        folders = self.processes.gather_objects(str(_memory_folder(size)))
        name = self.processes.broadcast_object(f"lottery_pools_{secrets.token_hex(8)}")
        path = Path(folders[self.processes.rank - self.processes.local_rank], name)
        if self.processes.local_rank == 0:
            with path.open("xb") as file:
                file.truncate(size)
        self.processes.barrier()
        memory = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
        self.processes.barrier()
        if self.processes.local_rank == 0:
            path.unlink()
        return memory


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _memory_folder(size: int) -> Path:
    """Where a file of `size` bytes lies in memory: shared memory if it has the room, else among temporary files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 1.1 * size
    return memory if roomy else Path(tempfile.gettempdir())


def _read_folders(root: Path, val_images: int | None, data_limit: int) -> tuple[dict[str, list[Sample]], list[str]]:
    """The samples of train, val and test, and the class names. Without `test`, val is taken from train; see README."""
    folders = {split: _read_split(root / split) for split in ("train", "val", "test") if (root / split).is_dir()}
    for split in ("train", "val"):
        if split not in folders:
            raise UserError(f"{root} has no folder {split}: it needs train/CLASS/*.JPEG and val/CLASS/*.JPEG")
    classes = folders["train"].classes
    for split, folder in folders.items():
        for name in sorted(set(classes) ^ set(folder.classes)):
            raise UserError(f"{root}: class {name} is in only one of train and {split}")
    samples = {split: folder.samples for split, folder in folders.items()}
    if "test" not in samples:
        samples["test"] = samples["val"]
        samples["train"], samples["val"] = _hold_out(samples["train"], val_images)
    return {split: _spread(part, data_limit) for split, part in samples.items()}, classes


def _read_split(folder: Path) -> ImageFolder:
    try:
        return ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())}") from error


def _hold_out(train: list[Sample], val_images: int | None) -> tuple[list[Sample], list[Sample]]:
    """The same random `val_images` (default: a tenth) of the training images in every run, kept for validation."""
    wanted = round(len(train) / 10) if val_images is None else val_images
    if not 0 < wanted < len(train):
        raise UserError(f"--val_images {wanted}: there are {len(train)} training images to keep them from")
    order = torch.randperm(len(train), generator=generator("validation")).tolist()
    return [train[index] for index in sorted(order[wanted:])], [train[index] for index in sorted(order[:wanted])]


def _spread(samples: list[Sample], limit: int) -> list[Sample]:
    """At most `limit` (0: all) of `samples`, evenly over them and so over their classes."""
    if not limit or limit >= len(samples):
        return samples
    return [samples[index * len(samples) // limit] for index in range(limit)]
