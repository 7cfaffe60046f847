"""Time training against the classic loop: same network, images, machine and number of threads, in turn.

    python benchmarks/train.py --data FILE.npz --arch resnet20s --images 4000
    python benchmarks/train.py --data FILE.npz --arch resnet18 --device cuda --images 50000 --val_images 5000

Writes train.json and train.md. Seconds are those of whole epochs (training, validation, test, checkpoints) of a dense
network in a process of its own, without Python's start and imports; ratios are taken round by round.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch._dynamo  # torch's optimizers import it where they are made, a second that is not training

from benchmarks import inputs, measure, published
from CIFAR import main_imp
from utils import tickets
from utils.checkpoint import load
from utils.spread import format_spread, spread

VARIANTS = {
    "defaults": [],
    "channels-last": ["--channels_last"],
    "compile": ["--compile"],
    "amp": ["--amp"],
    "amp-channels-last": ["--amp", "--channels_last"],
    "amp-compile": ["--amp", "--compile"],
    "amp-graphs": ["--amp", "--channels_last", "--compile_mode", "reduce-overhead"],
    "amp-eval-freq": ["--amp", "--eval_freq", "6"],
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_timing_flags(parser, "train", VARIANTS, images=5_000, val_images=500, rounds=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=41, help="of the first round; each round has its own")
    return parser


def run_published(args: argparse.Namespace) -> list[float]:
    data = published.loaders(args.data, args.images - args.val_images, args.val_images, args.batch_size)
    classes = published.class_count(args.data)
    torch.manual_seed(args.seed)
    return published.train(args.arch, classes, data, torch.device(args.device), args.epochs)


def run_ours(args: argparse.Namespace) -> list[float]:
    """A run of `main_imp.py` over one level; returns validation and test accuracy of the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "data_limit": args.images,
            "batch_size": args.batch_size,
            "epochs": args.epochs,
            "pruning_times": 1,
            "prune_type": "lt",
            "decreasing_lr": ",".join(map(str, published.milestones(args.epochs))),
            "seed": args.seed,
            "save_dir": folder,
        }
        main_imp.main([*inputs.argv(args, **flags), "--quiet", *VARIANTS[args.run]])
        curves = load(tickets.RunFiles(Path(folder)).checkpoint(0))["result"]
    return [curves[name][-1] for name in ("val_ta", "test_ta")]


def table(args: argparse.Namespace, results: dict, about: dict) -> list[list]:
    rows, flops = [], 3 * measure.forward_flops(args.arch)  # backward is two forwards
    for name, runs in results.items():
        # Images that were scored after each epoch are left out, so these are a little below the rate of training alone.
        rate = args.epochs * (args.images - args.val_images) / measure.median(runs)
        amp = name != "published" and main_imp.build_parser().parse_args(VARIANTS[name]).amp
        cells = measure.cells(runs, results["published"], rate, flops, amp, about["peak_gflops"])
        accuracy = format_spread(spread(run["result"][1] for run in runs), ".2f")
        rows.append([" ".join(VARIANTS.get(name, ())) or name, *cells, accuracy])
    return rows


def main() -> None:
    args = build_parser().parse_args()
    device = torch.device(args.device)
    if args.run:
        work = run_published if args.run == "published" else run_ours
        return measure.one_run(lambda: work(args), device)
    results = measure.against_published(args, lambda number: ("--seed", str(args.seed + number)))
    about = measure.machine(device)
    header = ["training", *measure.CELLS, "test % ± deviation over seeds"]
    title = f"Training: {args.arch}, {args.epochs} epochs of {args.images - args.val_images:,} images"
    measure.save(args, "train", title, header, table(args, results, about), about, runs=results)


if __name__ == "__main__":
    main()
