"""Time the search against the published protocol: same tickets, images, machine and number of threads, in turn.

    python benchmarks/search.py --tickets DIR --data FILE.npz --arch resnet20s
    python benchmarks/search.py --tickets DIR --data FILE.npz --arch resnet18 --device cuda --levels 3 --rounds 3

Writes search.json and search.md. Seconds are those of a whole run in a process of its own (images and tickets read,
pools searched, tested and written), without Python's start and imports; ratios are taken round by round.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import inputs, measure, published, variants
from CIFAR import Lottery_pools
from utils import checkpoint, evaluation, pools, tickets
from utils.evaluation import Evaluator
from utils.pools import PAPER_COEFFICIENTS

VARIANTS = {
    "defaults": [],
    "one-job": ["--jobs", "1"],
    "compile": ["--compile"],
    "amp": ["--amp"],
    "amp-compile": ["--amp", "--compile"],
    "hump": ["--coefficient_search", "hump"],
    "bn256": ["--bn_images", "256"],
    "fast": ["--fast"],
    "fast-compile": ["--fast", "--compile"],
    "fast-graphs": ["--fast", "--channels_last", "--compile_mode", "reduce-overhead"],
}
STEPS = {
    "load": (Evaluator, "read_ticket"),
    "interpolate": (pools, "interpolate"),
    "prune": (evaluation, "largest_magnitudes"),
    "recalibrate": (Evaluator, "recalibrate"),
    "validate": (Evaluator, "validate"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_timing_flags(parser, "search", VARIANTS, images=10_000, val_images=1_000, rounds=2)
    parser.add_argument("--tickets", type=Path, required=True, metavar="DIR")
    parser.add_argument("--levels", type=int, nargs="+", default=[2], help="tickets to start from")
    parser.add_argument("--search_num", type=int, default=1, help="candidates for each start")
    parser.add_argument("--coefficients", type=float, nargs="+", default=list(PAPER_COEFFICIENTS))
    return parser


def run_published(args: argparse.Namespace) -> list[tuple[float, float]]:
    data = published.loaders(args.data, args.images - args.val_images, args.val_images, args.batch_size)
    search = published.Search(
        args.tickets, args.arch, published.class_count(args.data), data, torch.device(args.device)
    )
    return [search.pool(level, args.search_num, args.coefficients) for level in args.levels]


def run_ours(args: argparse.Namespace) -> dict:
    """A run of `Lottery_pools.py` with the flags of one variant: its results, and seconds by step over all workers."""
    clock = dict.fromkeys(STEPS, 0.0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as patches:
        for name, (owner, function) in STEPS.items():
            patches.enter_context(_stopwatch(clock, name, owner, function, args.device))
        Lottery_pools.main(_command(args, folder) + VARIANTS[args.run])
        entries = checkpoint.load_json(Path(folder, tickets.POOLS_JSON))["pools"]
    trials = sum(variants.scored(step) for entry in entries for step in entry["steps"])
    return {"clock": clock, "trials": trials, "accuracy": [entry["pool_test_accuracy"] for entry in entries]}


def _command(args: argparse.Namespace, folder: str) -> list[str]:
    flags = {"data_limit": args.images, "batch_size": args.batch_size, "search_num": args.search_num}
    return [
        *inputs.argv(args, **flags, checkpoint=args.tickets, save_dir=folder),
        *("--interpolation_value_list", *map(str, args.coefficients)),
        *("--levels", *map(str, args.levels)),
        "--quiet",
    ]


@contextlib.contextmanager
def _stopwatch(clock: dict[str, float], name: str, owner, function: str, device: str):
    """Adds up what the calls of a function take. On a GPU each call is waited for, which costs a little."""
    original, lock = getattr(owner, function), threading.Lock()

    @functools.wraps(original)
    def watched(*args, **kwargs):
        begun = time.perf_counter()
        result = original(*args, **kwargs)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        with lock:
            clock[name] += time.perf_counter() - begun
        return result

    setattr(owner, function, watched)
    try:
        yield
    finally:
        setattr(owner, function, original)


def images_forwarded(args: argparse.Namespace, flags: argparse.Namespace | None, run: dict) -> int:
    """Images of the trials and, in the published protocol (no `flags`), of the scores before each candidate."""
    train, val = args.images - args.val_images, args.val_images
    if flags is None:
        candidates = len(args.levels) * args.search_num
        return candidates * (len(args.coefficients) * (train + val) + 2 * val)
    return run["result"]["trials"] * (min(flags.bn_images or train, train) + val)


def table(args: argparse.Namespace, results: dict, about: dict) -> list[list]:
    flops, rows = measure.forward_flops(args.arch), []
    for name, runs in results.items():
        flags = None if name == "published" else Lottery_pools.build_parser().parse_args(VARIANTS[name])
        rate = images_forwarded(args, flags, runs[0]) / measure.median(runs)
        amp = flags is not None and flags.amp
        cells = measure.cells(runs, results["published"], rate, flops, amp, about["peak_gflops"])
        rows.append([" ".join(VARIANTS.get(name, ())) or name, *cells, _shares(runs[-1]["result"]) if flags else ""])
    return rows


def _shares(result: dict) -> str:
    total = sum(result["clock"].values())
    return ", ".join(f"{name} {100 * seconds / total:.0f}" for name, seconds in result["clock"].items())


def main() -> None:
    args = build_parser().parse_args()
    device = torch.device(args.device)
    if args.run:
        work = run_published if args.run == "published" else run_ours
        return measure.one_run(lambda: work(args), device)
    results, about = measure.against_published(args), measure.machine(device)
    header = ["search", *measure.CELLS, "time goes to (%)"]
    title = f"Search: {args.arch}, starts: {len(args.levels)}, candidates for each: {args.search_num}"
    measure.save(args, "search", title, header, table(args, results, about), about, runs=results)


if __name__ == "__main__":
    main()
