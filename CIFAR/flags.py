"""The flags that say which images a script of this folder works on."""

import argparse

import torch

from CIFAR.dataset import ImageData, doubt_about_classes, load_data
from CIFAR.sources import DATASETS
from utils.cli import add_list_flag
from utils.errors import warn
from utils.parser import Parser, count, positive


def add_data_flags(parser: Parser) -> None:
    add_list_flag(parser, DATASETS)
    group = parser.add_argument_group("images")
    group.add_argument("--dataset", choices=DATASETS, default="cifar100", help="digits needs no --data")
    group.add_argument(
        "--data", default="../data", metavar="PATH", help="folder of CIFAR's files, or an .npz file; see README"
    )
    group.add_argument("--data_url", metavar="URL", help="mirror to download CIFAR's archive from; still checked")
    group.add_argument(
        "--val_images",
        type=positive,
        metavar="N",
        help="last training images kept for validation; default: 5,000 of CIFAR, else a tenth",
    )
    group.add_argument(
        "--data_limit", type=count, default=0, metavar="N", help="use the first N training and N test images; 0: all"
    )
    group.add_argument("--no_flip", action="store_true", help="never mirror training images")


def data_from_flags(args: argparse.Namespace, device: torch.device, validates: bool = True) -> ImageData:
    """The images that the flags ask for; warns on standard error of odd ones, of validation ones if it `validates`."""
    data = load_data(
        args.dataset, args.data, device, args.val_images, args.data_limit, args.data_url, flip=not args.no_flip
    )
    if doubt := doubt_about_classes(data, validates):
        warn(f"warning: {doubt}")
    return data
