"""Corrupt the test images of a data set that has no published corruptions, in the layout of CIFAR-10-C.

    python corrupt.py --dataset digits --save_dir ../data/digits-corrupted
    python corrupt.py --dataset npz --data images.npz --save_dir ../data/images-corrupted

The corruptions are torchvision's, with severities of our own: they are not those of CIFAR-10-C and CIFAR-100-C, and
accuracies on them cannot be compared with published ones. `evaluate.py --corruptions DIR` reads what this writes:
<corruption>.npy (five severities after one another) and labels.npy. Beside them corrupted.json notes the flags; other
files in the folder, tickets for one, are left as they are.
"""

import argparse
import io
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CIFAR.dataset import Split, digest_of
from CIFAR.flags import add_data_flags, data_from_flags
from utils import checkpoint, cli, tickets
from utils.claims import claimed_folder
from utils.corruptions import SEVERITIES, in_order
from utils.distributed import SINGLE
from utils.errors import UserError
from utils.parser import Parser, count, run_script
from utils.provenance import describe_run
from utils.randomness import derive_seed


def gaussian_noise(images: Tensor, deviation: float) -> Tensor:
    """`images` (N×3×S×S uint8) with noise of this standard deviation; white is 1."""
    noisy = functional.gaussian_noise(images.float() / 255, sigma=deviation)
    return (noisy * 255).round().to(torch.uint8)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """`sigma` is the standard deviation of the blur, in sides of an image."""
    side = images.shape[-1]
    radius = min(math.ceil(3 * sigma * side), side - 1)  # what is mirrored at the border must be there
    return functional.gaussian_blur(images, 2 * radius + 1, sigma * side)


def elastic_transform(images: Tensor, shift: float) -> Tensor:
    """Every image bent in its own way; `shift` is the deviation of what a pixel moves by, in sides of an image."""
    side = images.shape[-1]
    smoothness = 0.12 * side
    # The transform blurs uniform noise, which leaves it a deviation of 0.163 / smoothness, and halves alpha.
    bend = v2.ElasticTransform(alpha=2 * shift * side * smoothness / 0.163, sigma=smoothness)
    mirrored = functional.pad(images, [side // 4] * 4, padding_mode="reflect")  # what a bend may draw in from outside
    return functional.center_crop(torch.stack([bend(image) for image in mirrored]), [side, side])


def pixelate(images: Tensor, share: float) -> Tensor:
    """`share` of the pixels of a side remain."""
    side = images.shape[-1]
    small = functional.resize(images, [max(1, round(share * side))] * 2, antialias=True)
    return functional.resize(small, [side, side], interpolation=v2.InterpolationMode.NEAREST_EXACT)


def jpeg_compression(images: Tensor, quality: float) -> Tensor:
    """By Pillow, image for image: torchvision is about to lose its own JPEG."""
    return torch.stack([_through_jpeg(image, int(quality)) for image in images])


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    functional.to_pil_image(image).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=["JPEG"]) as decoded:
        return functional.pil_to_tensor(decoded)


# What each does to N×3×S×S uint8 images, and its strength at the severities 1 to 5.
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.05, 0.1, 0.15, 0.2, 0.3)),  # deviation; white is 1
    "gaussian_blur": (gaussian_blur, (0.025, 0.035, 0.05, 0.065, 0.085)),
    "brightness": (functional.adjust_brightness, (1.2, 1.4, 1.7, 2.0, 2.5)),  # factor
    "contrast": (functional.adjust_contrast, (0.75, 0.6, 0.45, 0.3, 0.2)),  # factor
    "saturate": (functional.adjust_saturation, (0.5, 0.2, 2.0, 4.0, 8.0)),  # factor
    "elastic_transform": (elastic_transform, (0.01, 0.02, 0.03, 0.04, 0.05)),
    "pixelate": (pixelate, (0.75, 0.6, 0.5, 0.4, 0.25)),
    "jpeg_compression": (jpeg_compression, (50, 30, 20, 12, 7)),  # quality
    "posterize": (functional.posterize, (5, 4, 3, 2, 1)),  # bits a channel
}


def corrupt(images: Tensor, name: str, seed: int) -> np.ndarray:
    """`images` (N×S×S×3 uint8) under corruption `name` at the five severities, severity 1 first: 5·N×S×S×3 uint8."""
    function, strengths = CORRUPTIONS[name]
    images = images.permute(0, 3, 1, 2)
    parts = []
    for severity, strength in zip(SEVERITIES, strengths, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, name, severity))
            parts.append(function(images, strength).permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def possible(images: Tensor) -> list[str]:
    """The corruptions that change `images` (N×S×S×3): grey ones have no colours to saturate."""
    grey = bool((images == images[..., :1]).all())
    return in_order(name for name in CORRUPTIONS if name != "saturate" or not grey)


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add_data_flags(parser)
    group = parser.add_argument_group("corrupted images")
    group.add_argument("--seed", type=count, default=41, metavar="S", help="noise and bends")
    group.add_argument("--save_dir", type=Path, required=True, metavar="DIR", help="folder to write")
    group.add_argument("--quiet", action="store_true", help="print results alone")
    group.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    data = data_from_flags(args, torch.device("cpu"), validates=False)
    names = possible(data.test.images)
    with _claimed(args, data.test):
        write_corrupted(data.test, names, args.seed, args.save_dir, cli.announcer(args))
    print(f"{len(data.test)} images under {len(names)} corruptions at {len(SEVERITIES)} severities: {args.save_dir}")


def _claimed(args: argparse.Namespace, test: Split) -> AbstractContextManager:
    """Note which images the folder holds; UserError where it holds those of other flags, or published ones.

    Flags of training and validation images make no difference to these.
    """
    settings = args.save_dir / tickets.CORRUPTED_SETTINGS
    if (args.save_dir / tickets.CORRUPTED_LABELS).exists() and not settings.exists():
        raise UserError(f"--save_dir {args.save_dir} holds corrupted images of another kind: name another folder")
    heeded = {name: value for name, value in vars(args).items() if name not in ("val_images", "no_flip")}
    images = {"test": len(test), "digest": digest_of(test)}
    return claimed_folder(settings, describe_run(heeded, torch.device("cpu"), images), SINGLE)


def write_corrupted(test: Split, names: list[str], seed: int, folder: Path, say: Callable[[str], None]) -> None:
    """Write <corruption>.npy for each of `names` (5·N×S×S×3 uint8) and labels.npy (5·N int64) into `folder`."""
    for name in names:
        corrupted = corrupt(test.images, name, seed)
        path = tickets.corrupted_path(folder, name)
        checkpoint.write_atomically(path, lambda file, array=corrupted: np.save(file, array, allow_pickle=False))
        say(f"  {path}")
    labels = test.labels.repeat(len(SEVERITIES)).numpy()
    path = folder / tickets.CORRUPTED_LABELS
    checkpoint.write_atomically(path, lambda file: np.save(file, labels, allow_pickle=False))


if __name__ == "__main__":
    run_script(main)
