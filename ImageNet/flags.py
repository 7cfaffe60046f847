"""The flags that say which images a script of this folder works on, and the defaults of the paper's ImageNet runs."""

import argparse
from pathlib import Path

from ImageNet.dataset import ImageFolders
from utils.cli import add_list_flag
from utils.distributed import Processes
from utils.errors import UserError, warn
from utils.launch_env import cores_each
from utils.parser import Parser, count, nonnegative, positive

MOST_WORKERS = 16  # by default; each holds a few batches
PAPER = {"arch": "imagenet_resnet_18", "seed": 17, "rewind_epoch": 5}


def add_data_flags(parser: Parser, data_flag: str = "data") -> None:
    add_list_flag(parser, {"DIR": "photographs: train, val and, if any, test, and in each of them a folder a class"})
    group = parser.add_argument_group("images")
    group.add_argument(data_flag, type=Path, nargs="?", metavar="DIR", help="folder with train, val and, if any, test")
    group.add_argument("--image_size", type=positive, default=224, metavar="N", help="side of the crops, pixels")
    group.add_argument(
        "--resize",
        type=positive,
        metavar="N",
        help="shorter side before cropping, --image_size or more; default: 8/7 of that",
    )
    group.add_argument(
        "--val_images",
        type=positive,
        metavar="N",
        help="without test: training images for validation; default: a tenth",
    )
    group.add_argument("--data_limit", type=count, default=0, metavar="N", help="use N images of each split; 0: all")
    group.add_argument(
        "--workers",
        "-j",
        type=count,
        metavar="N",
        help=f"processes that decode, for each rank; default: one a core, at most {MOST_WORKERS}",
    )
    group.add_argument(
        "--cache_gb", type=nonnegative, default=16.0, metavar="GB", help="memory on each host for images kept decoded"
    )
    parser.set_defaults(dataset="imagenet")


def data_from_flags(args: argparse.Namespace, processes: Processes, split_work: bool = True) -> ImageFolders:
    """The photographs that the flags ask for, `split_work` as for `ImageFolders`; UserError where there are none."""
    if args.data is None or not args.data.is_dir():
        raise UserError(f"there is no folder {args.data or 'of images named'}: give the one with train/ and val/")
    resize = args.resize or round(args.image_size * 8 / 7)
    if resize < args.image_size:  # or what is scored would have black borders, and what is trained on none
        raise UserError(f"--resize {resize}: images would be smaller than their crops, --image_size {args.image_size}")
    val_images = args.val_images
    if val_images is not None and (args.data / "test").is_dir():
        if processes.is_main:
            warn("warning: --val_images has no use where there is a test folder")
        val_images = None
    workers = min(cores_each(processes.local_world_size), MOST_WORKERS) if args.workers is None else args.workers
    return ImageFolders(
        args.data,
        processes,
        image_size=args.image_size,
        resize=resize,
        workers=workers,
        cache_gb=args.cache_gb,
        val_images=val_images,
        data_limit=args.data_limit,
        seed=args.seed,
        split_work=split_work,
    )
