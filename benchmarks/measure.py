"""Whole runs in processes of their own, in turn (A B A B), and what they say of time, memory and machine."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from utils.evaluation import has_bfloat16
from utils.provenance import describe_run
from utils.report import format_table

RESULTS = Path("benchmarks/results")  # from the root of the repository, where its commands are given


def interleaved(
    command: Callable[[str, int], Sequence[str]], names: Sequence[str], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """What the command of each name prints as JSON on its last line, one after another in every round (from 0)."""
    results = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            done = subprocess.run(command(name, number), capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}  {name:<20} {results[name][-1]['seconds']:8.2f} s", flush=True)
    return results


def timed(work: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Seconds that `work` takes, the peak memory of this process (MB; on a GPU torch's own), and what it returns."""
    begun = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begun
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "memory_mb": memory, "result": result}


def median(runs: Sequence[Mapping[str, Any]], key: str = "seconds") -> float:
    return statistics.median(run[key] for run in runs)


def ratios(runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> list[float]:
    """How many times faster than the baseline of the same round each run was."""
    return [base["seconds"] / run["seconds"] for run, base in zip(runs, baseline, strict=True)]


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of several: what this machine can reach at most."""
    side = 8192 if device.type == "cuda" else 2048
    # Convolutions in float32 are rounded to TF32 on a GPU by default, and products are not.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    a = torch.rand(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(8):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def forward_flops(arch: str) -> int:
    """FLOP of one 32×32 image of 100 classes through the network, two for each multiply-add."""
    net = models.build(arch, 100, [0.5] * 3, [0.25] * 3).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops()


def machine(device: torch.device) -> dict[str, Any]:
    """What ran this: processor, threads, versions, and the measured peaks in GFLOP/s of what the device computes in."""
    about = describe_run({}, device, {})["versions"]
    # What only imitates bfloat16 would be at it for minutes.
    dtypes = (torch.float32, torch.bfloat16) if has_bfloat16(device) else (torch.float32,)
    peaks = {str(dtype).removeprefix("torch."): matmul_peak(device, dtype) for dtype in dtypes}
    return {
        **about,
        "cores": os.cpu_count(),
        "peak_gflops": {name: peak / 1e9 for name, peak in peaks.items()},
    }


def argv(flags: Mapping[str, Any]) -> list[str]:
    """Flags and their values as a command line has them."""
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


def one_run(work: Callable[[], Any], device: torch.device) -> None:
    """Do one run in this process and print what `interleaved` reads."""
    print(json.dumps(timed(work, device)))


def add_timing_flags(
    parser: argparse.ArgumentParser, name: str, variants: Iterable[str], images: int, val_images: int, rounds: int
) -> None:
    """The flags of `search.py` and `train.py`: images, network, device, and the `variants` that take turns."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FILE", help="an .npz file of 32×32 images")
    add("--arch", default="resnet20s")
    add("--device", default="cpu")
    add("--images", type=int, default=images, help="training and validation images together")
    add("--val_images", type=int, default=val_images)
    add("--batch_size", type=int, default=128)
    add("--variants", nargs="+", choices=variants, default=list(variants))
    add("--rounds", type=int, default=rounds)
    add("--out", type=Path, default=RESULTS / name, metavar="DIR")
    add("--run", choices=("published", *variants), help=argparse.SUPPRESS)  # one run, in its process


def against_published(
    args: argparse.Namespace, flags: Callable[[int], Sequence[str]] = lambda number: ()
) -> dict[str, list[dict[str, Any]]]:
    """The published protocol and each of `args.variants` by this script's --run, with the `flags` of their round."""
    names = ["published", *args.variants]
    command = [sys.executable, *sys.argv]
    return interleaved(lambda name, number: [*command, "--run", name, *flags(number)], names, args.rounds)


def cells(runs: Sequence[Mapping], published: Sequence[Mapping], rate: float, flops: float, amp: bool, peaks) -> list:
    """Seconds, ratio, images/s, share of the peak and memory of one variant, for a table."""
    dtype = "bfloat16" if amp and "bfloat16" in peaks else "float32"
    faster = sorted(ratios(runs, published))
    return [
        f"{median(runs):.2f}",
        f"{statistics.median(faster):.2f}× ({faster[0]:.2f}–{faster[-1]:.2f})",
        f"{rate:,.0f}",
        f"{100 * rate * flops / 1e9 / peaks[dtype]:.0f} % ({dtype})",
        f"{median(runs, 'memory_mb'):.0f}",
    ]


CELLS = ["seconds", "faster", "images/s", "of the peak", "memory MB"]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Of two or more values, their mean and its standard error."""
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5


def save(
    args: argparse.Namespace,
    name: str,
    title: str,
    header: Sequence[str],
    rows: list,
    about: dict | None = None,
    **content: Any,
) -> None:
    """Print the table, and write `name`.json and `name`.md into --out, with settings and machine.

    `about` is what `machine` says, where that is known already; else it is asked of --device.
    """
    print(format_table(header, rows))  # first: files may find no room
    about = about or machine(torch.device(args.device))
    args.out.mkdir(parents=True, exist_ok=True)
    content = {"settings": vars(args), "machine": about, **content}
    (args.out / f"{name}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    lines = [
        f"# {title}",
        "",
        f"`{about['command']}`",
        "",
        f"{about['device']}, {about['threads']} threads of "
        f"{about['cores']} cores; PyTorch {about['torch']}, Python {about['python']}, revision {about['revision']}. "
        + "Measured peak of a matrix product: "
        + ", ".join(f"{peak:,.0f} GFLOP/s in {dtype}" for dtype, peak in about["peak_gflops"].items())
        + ".",
        "",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
        "",
    ]
    (args.out / f"{name}.md").write_text("\n".join(lines))
