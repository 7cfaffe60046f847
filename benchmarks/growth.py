"""How time and memory grow: of a search with its tickets and coefficients, of an IMP epoch with batch size and model.

    python benchmarks/growth.py --arch resnet18
    python benchmarks/growth.py --arch resnet18 --device cuda

Works on digits, with tickets of untrained networks: neither matters to time. Writes growth.json and growth.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import models
from benchmarks import measure
from CIFAR import Lottery_pools, main_imp
from utils import checkpoint, tickets

IMAGES = ["--dataset", "digits", "--data_limit", "400"]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18", help="network of the search")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tickets", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--coefficients", type=int, nargs="+", default=[1, 3, 6, 11])
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--archs", nargs="+", default=["resnet20s", "resnet44s", "resnet18", "resnet50"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "growth", metavar="DIR")
    parser.add_argument("--run", nargs=3, metavar=("WHAT", "A", "B"), help=argparse.SUPPRESS)  # one, in its process
    return parser


def search(args: argparse.Namespace, count: str, coefficients: str) -> None:
    """Search from one of `count` tickets over all others."""
    with tempfile.TemporaryDirectory() as folder:
        for level in range(int(count)):
            torch.manual_seed(level)
            state = models.build(args.arch, 10, [0.5] * 3, [0.25] * 3).state_dict()
            checkpoint.save({"state_dict": state}, tickets.RunFiles(Path(folder)).ticket(level).path)
        values = [str((place + 1) / (int(coefficients) + 1)) for place in range(int(coefficients))]
        command = ["--arch", args.arch, "--device", args.device, "--checkpoint", folder, "--levels", "0", "--quiet"]
        command += ["--search_num", count]
        Lottery_pools.main([*IMAGES, *command, "--bn_images", "128", "--interpolation_value_list", *values])


def epoch(args: argparse.Namespace, arch: str, batch_size: str) -> None:
    """Two epochs of IMP's first level."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["--arch", arch, "--device", args.device, "--batch_size", batch_size, "--save_dir", folder, "--quiet"]
        main_imp.main([*IMAGES, *command, "--epochs", "2", "--prune_type", "lt", "--pruning_times", "1"])


def main() -> None:
    args = build_parser().parse_args()
    device = torch.device(args.device)
    if args.run:
        what, first, second = args.run
        work = {"search": search, "epoch": epoch}[what]
        return measure.one_run(lambda: work(args, first, second), device)
    most, many = max(args.coefficients), max(args.tickets)
    names = [f"search {count} {most}" for count in args.tickets]
    names += [f"search {many} {count}" for count in args.coefficients if count != most]
    names += [f"epoch {args.archs[0]} {size}" for size in args.batch_sizes]
    names += [f"epoch {arch} {args.batch_sizes[-1]}" for arch in args.archs[1:]]
    results = measure.interleaved(
        lambda name, _: [sys.executable, *sys.argv, "--run", *name.split()], names, args.rounds
    )
    rows = [
        [*name.split(), f"{measure.median(runs):.2f}", f"{measure.median(runs, 'memory_mb'):.0f}"]
        for name, runs in results.items()
    ]
    header = ["what", "tickets or network", "coefficients or batch", "seconds", "memory MB"]
    title = f"Growth: search of {args.arch}, epochs of IMP"
    measure.save(args, "growth", title, header, rows, runs=results)


if __name__ == "__main__":
    main()
