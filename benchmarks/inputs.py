"""The tickets and images that a benchmark works on: its flags, and what it tells the scripts of them."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import measure


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Runs of tickets, an .npz file of images, network, device, and where the table goes."""
    parser.add_argument("--tickets", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--val_images", type=int, required=True)
    parser.add_argument("--arch", default="resnet20s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "search", metavar="DIR")


def argv(args: argparse.Namespace, **more: Any) -> list[str]:
    """The images and the network of `args`, and `more`, as flags of a CIFAR script."""
    network = {"data": args.data, "val_images": args.val_images, "arch": args.arch, "device": args.device}
    return measure.argv({"dataset": "npz", **network, **more})
