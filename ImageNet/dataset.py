"""ImageNet-sized photographs in: JPEG files, decoded once where they are needed again and again.

Every process works on its own part: of each training batch, of the batches that recalibrate batch norm, of the images
that are scored. Which images those are, and how each is cropped, follows from the seed alone, whatever the number of
processes and workers.
"""

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from ImageNet.sources import Sample, read_folders
from models.normalize import IMAGENET_MEAN, IMAGENET_STD
from utils.distributed import SINGLE, Processes
from utils.errors import UserError, warn
from utils.images import Batch
from utils.preemption import Preempted, block_sigterm, end_with_parent, stop_requested
from utils.randomness import derive_seed, generator
from utils.shared_memory import shared_memory

# Those of the files that `ImageFolder` lists. Pillow knows many more by their content, and runs programs for some.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
LONGEST_RATIO = 100  # of an image's sides: the shorter one is resized to a fixed length
UNREADABLE = -1  # the label of an image that cannot be decoded


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
            image = _read_photograph(path)
        except Exception as error:  # damaged bytes fail wherever a decoder stumbles over them
            warn(f"left out, cannot be read: {path} ({error})")
            return torch.zeros(3, self.side, self.side, dtype=torch.uint8), UNREADABLE
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(*self.purpose, index))  # not those of GPUs, too
            return pil_to_tensor(self.transform(image)), label


class Loader(DataLoader):
    """A DataLoader whose workers outlive a SIGTERM to all processes: what they decode is needed until all is saved."""

    def __iter__(self):
        with block_sigterm():
            return super().__iter__()


def _read_photograph(path: str) -> Image.Image:
    """The image in RGB. Raises whatever Pillow does, and ValueError for one that resizing would make enormous."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on odd metadata, which says nothing about the pixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if not Path(path).is_file():
            raise ValueError("it is no regular file")
        with Image.open(path, formats=FORMATS) as file:
            if max(file.size) > LONGEST_RATIO * min(file.size):
                raise ValueError(f"it has {file.size[0]} × {file.size[1]} pixels")
            return file.convert("RGB")


class ImageFolders:
    """All that a run needs of its images, as `utils.images.Images` says.

    Images are resized to `resize` pixels on the shorter side and cropped to `image_size` in the middle; training images
    are cropped at random as OpenLTH does. `processes` share the work where `split_work` says so, and the memory of what
    is kept decoded, at most `cache_gb` GB a host, in any case. `seed` selects the images of recalibration.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        root: Path,
        processes: Processes,
        image_size: int,
        resize: int,
        workers: int,
        cache_gb: float,
        val_images: int | None = None,
        data_limit: int = 0,
        seed: int = 0,
        split_work: bool = True,
    ):
        self.root, self.device, self.side, self.workers = root, processes.device, image_size, workers
        self.processes, self.part, self.seed = processes, processes if split_work else SINGLE, seed
        self.samples, self.classes = read_folders(root, val_images, data_limit)
        self._cache_gb, self._room = cache_gb, cache_gb * 1e9
        self._memory: dict[str, tuple[Tensor, Tensor]] = {}
        self._unkept: set[str] = set()  # for which there was no room
        self._said: set[tuple[str, int]] = set()  # how many images of which name cannot be read
        self._other = ""
        self._recalibration: dict[int, Photographs] = {}
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
        names = {  # without Path, which takes seconds for a million
            split: [(*path.rsplit(os.sep, 2)[-2:], label) for path, label in part]
            for split, part in self.samples.items()
        }
        return {**self.sizes, "digest": hashlib.blake2b(repr(names).encode(), digest_size=16).hexdigest()}

    def train_batch_count(self, batch_size: int) -> int:
        """A last batch too small to give every process two images (batch norm needs them) is left out."""
        images, world_size = len(self.samples["train"]), self.part.world_size
        if min(images, batch_size) < 2 * world_size:
            raise UserError(
                f"{images} training images (--data_limit) in batches of {batch_size} (--batch_size) are too few: each "
                f"of {world_size} processes needs two"
            )
        whole, rest = divmod(images, batch_size)
        return whole + (rest >= 2 * world_size)

    def train_batches(self, batch_size: int, *purpose: int | str, first: int = 0) -> Iterator[Batch]:
        """This process's part of every shuffled, augmented batch of `batch_size` images over all processes.

        The pass begins with its 0-based batch `first`.
        """
        samples = self.samples["train"]
        order = torch.randperm(len(samples), generator=generator(*purpose))
        batches = order.split(batch_size)[: self.train_batch_count(batch_size)]
        batches = [batch[self.part.shard(len(batch))].tolist() for batch in batches[first:]]
        photographs = Photographs(samples, self.side, self._augment, purpose)
        return self._readable("train", self._decode(photographs, batches), fewest=2)

    def bn_batches(self, batch_size: int, *purpose: int | str, limit: int = 0) -> Iterator[Batch]:
        """This process's batches of the training images that recalibrate batch norm: every `world_size`-th one, whole.

        They are `limit` images (0: all), each with one crop, the same for every `purpose`: so they are decoded once.
        """
        if limit not in self._recalibration:  # every trial asks, and a list of a million takes half a second
            self._recalibration[limit] = self._draw_recalibration(limit)
        photographs = self._recalibration[limit]
        batches = _cut(range(len(photographs)), batch_size)[self.part.rank :: self.part.world_size]
        return self._kept(f"recalibration on {limit or 'all'} images", photographs, batches)

    def _draw_recalibration(self, limit: int) -> Photographs:
        samples, purpose = self.samples["train"], (self.seed, "recalibrate")
        chosen = torch.randperm(len(samples), generator=generator(*purpose))[: limit or None].tolist()
        return Photographs([samples[index] for index in chosen], self.side, self._augment, purpose)

    def eval_batches(self, split: str, batch_size: int = 250) -> Iterator[Batch]:
        """This process's part of "train", "val" or "test", in order, not augmented."""
        return self._in_order(split, Photographs(self.samples[split], self.side, self._plain), batch_size)

    def other_batches(self, name: str, samples: Sequence[Sample], batch_size: int) -> Iterator[Batch]:
        """This process's part of photographs from elsewhere, in order; kept decoded until those of another `name` are.

        Those that have the networks' size already are taken as they are.
        """
        if self._other != name and self._other in self._memory:
            images, _ = self._memory.pop(self._other)
            self._room += images.numel()
        self._other = name
        return self._in_order(name, Photographs(samples, self.side, self._fit), batch_size)

    def _fit(self, image: Image.Image) -> Image.Image:
        return image if image.size == (self.side, self.side) else self._plain(image)

    def _in_order(self, name: str, photographs: Photographs, batch_size: int) -> Iterator[Batch]:
        mine = range(len(photographs))[self.part.shard(len(photographs))]
        return self._kept(name, photographs, _cut(mine, batch_size))

    def decode_ahead(self, *bn_images: int | None) -> None:
        """Decode all that a search needs into shared memory, which takes all processes, before each goes its own way.

        `bn_images` are the limits with which `bn_batches` will be asked; None for a recalibration that will not be.
        """
        for limit in bn_images:
            if limit is not None:
                self.bn_batches(1, limit=limit)
        for split in ("val", "test"):
            self.eval_batches(split)

    def _kept(self, name: str, photographs: Photographs, batches: Sequence[range]) -> Iterator[Batch]:
        """Batches of `photographs` by their indices, from memory where there is room for all, else decoded again."""
        if name not in self._memory and name not in self._unkept:
            self._keep(name, photographs)
        if name in self._unkept:
            return self._readable(name, self._decode(photographs, batches))
        images, labels = self._memory[name]
        if (labels == UNREADABLE).all():
            raise self._nothing_readable()
        parts = (slice(batch.start, batch.stop) for batch in batches)  # a list of indices would copy the images
        return self._readable(name, ((images[part], labels[part]) for part in parts))

    def _keep(self, name: str, photographs: Photographs) -> None:
        """Decode all `photographs` into memory or, where there is no room for them, say so and note it."""
        size = len(photographs) * 3 * self.side**2
        memory, reason = None, f"do not fit into what --cache_gb {self._cache_gb:g} leaves"
        if size <= self._room:
            memory, reason = shared_memory(size + 8 * len(photographs), self.processes)
        if memory is not None:
            self._memory[name] = self._decode_into(memory, photographs)
            self._room -= size
            return
        self._unkept.add(name)
        if self.processes.is_main and self._cache_gb:  # who gives 0 knows
            warn(f"{name}: {size / 1e9:.1f} GB of decoded images {reason}, so that every pass decodes them again")

    def _decode(
        self, photographs: Photographs, batches: Sequence[Sequence[int]], for_device: bool = True
    ) -> DataLoader:
        return Loader(
            photographs,
            batch_sampler=batches,
            num_workers=self.workers,
            worker_init_fn=end_with_parent,
            # They have the list of images as it is, and this process as their parent. Python 3.14 does otherwise.
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
            pin_memory=for_device and self.device.type == "cuda",
        )

    def _readable(self, name: str, batches: Iterable[Batch], fewest: int = 0) -> Iterator[Batch]:
        """Batches on the device, float N×3×S×S in 0..1, channels last, without the images that cannot be read.

        How many those are is said once, not at every pass over the images of this `name`. UserError where a batch is
        left with less than `fewest`, or the pass of a process that works alone with none.
        """
        left_out, left_in = 0, 0
        for images, labels in batches:
            readable = labels != UNREADABLE
            if not readable.all():  # else no copy
                left_out += int((~readable).sum())
                images, labels = images[readable], labels[readable]
            if len(labels) < fewest:
                raise UserError(
                    f"{self.root}: a training batch has too few images that can be read: replace those above"
                )
            if len(labels) == 0:
                continue
            left_in += len(labels)
            if self.device.type == "cuda":  # other memory could not be copied from while the GPU is at work
                images, labels = images.pin_memory(), labels.pin_memory()
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            yield images.to(memory_format=torch.channels_last).float().div_(255), labels
        if left_out and not left_in and self.part.world_size == 1:
            raise self._nothing_readable()
        if left_out and (name, left_out) not in self._said:
            self._said.add((name, left_out))
            warn(f"{name}: {left_out} images left out of every pass")

    def _nothing_readable(self) -> UserError:
        return UserError(f"{self.root}: none of the images that are needed can be read: replace those above")

    def _decode_into(self, memory: Tensor, photographs: Photographs) -> tuple[Tensor, Tensor]:
        """All `photographs`, N×3×S×S uint8, and labels, in `memory`, which this host's processes share and fill.

        Where SIGTERM is deferred it ends this, which may take minutes, by Preempted in all processes.
        """
        count, rank, world_size = len(photographs), self.processes.local_rank, self.processes.local_world_size
        labels = memory[: 8 * count].view(torch.int64)
        images = memory[8 * count :].view(count, 3, self.side, self.side)
        mine = _cut(range(rank, count, world_size), 64)
        for batch, decoded in zip(mine, self._decode(photographs, mine, for_device=False), strict=True):
            part = slice(batch.start, batch.stop, batch.step)
            images[part], labels[part] = decoded
            if stop_requested():
                break
        if self.processes.any(stop_requested()):  # all meet here, and all stop or none
            raise Preempted
        return images, labels


def _cut(indices: range, size: int) -> list[range]:
    """Batches of `size` indices, in order; the last one may be smaller."""
    return [indices[first : first + size] for first in range(0, len(indices), size)]
