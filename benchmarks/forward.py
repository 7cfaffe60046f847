"""Ways to run the trials of one candidate, some networks that differ in their weights alone, over the same images.

    python benchmarks/forward.py --arch resnet20s --amp
    python benchmarks/forward.py --arch resnet18 --amp --device cuda --ways plain stacked graph graph-folded

    plain     one after another, as the search runs them
    stacked   all in one pass: torch.func.vmap makes grouped convolutions of their weights
    folded    validation with batch norm folded into the convolutions; recalibration as plain
    compiled  through torch.compile; compiled-stacked and compiled-folded likewise
    graph     through torch.compile and CUDA graphs (a GPU alone); graph-stacked and graph-folded likewise

Images and weights are random: neither matters to time. All ways take turns, and are held against the first by time and
by what the networks say ("off": the largest difference, as a share of the largest logit). Writes forward.json and
forward.md.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

import models
from benchmarks import measure
from utils.evaluation import autocast

Run = Callable[[Tensor], Tensor]  # images (N, 3, H, W) to the logits (networks, N, classes)
COMPILERS = {"compiled": {}, "graph": {"mode": "reduce-overhead"}}
LAYOUTS = ("plain", "stacked", "folded")
WAYS = [*LAYOUTS, *COMPILERS, *(f"{compiler}-{layout}" for compiler in COMPILERS for layout in LAYOUTS[1:])]
PHASES = ("recalibration", "validation")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet20s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16")
    parser.add_argument("--networks", type=int, default=4, metavar="K", help="networks that are run (default: 4)")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--side", type=int, default=32, metavar="PX", help="of the images (default: 32)")
    ways = [way for way in WAYS if not way.startswith("graph")]
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=ways, metavar="WAY", help=f"default: {' '.join(ways)}"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "forward", metavar="DIR")
    return parser


def set_phase(net: nn.Module, phase: str) -> nn.Module:
    """Batch norm in train mode to recalibrate, all else in evaluation mode."""
    net.eval()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.train(phase == "recalibration")
    return net


def stacked(nets: Sequence[nn.Module]) -> Run:
    """All networks in one pass; batch norm's running statistics are a stack too, and are updated in place."""
    parameters, buffers = stack_module_state([*nets])
    skeleton = copy.deepcopy(nets[0]).to("meta")

    def one(parameters: dict, buffers: dict, images: Tensor) -> Tensor:
        return functional_call(skeleton, (parameters, buffers), (images,))

    run = vmap(one, in_dims=(0, 0, None))
    return lambda images: run(parameters, buffers, images)


def folded(net: nn.Module) -> nn.Module:
    """Batch norm as part of the convolutions; tracing loses the normalisation, which is done before forward()."""
    return nn.Sequential(net.normalize, fuse(net))


def make(way: str, nets: Sequence[nn.Module], phase: str) -> Run:
    """The networks run in this `way`; they are copied, since recalibration changes them."""
    compiler, _, layout = way.rpartition("-") if way not in COMPILERS else (way, "", "plain")
    nets = [set_phase(copy.deepcopy(net), phase) for net in nets]
    if layout == "stacked":
        run = stacked(nets)
        return torch.compile(run, **COMPILERS[compiler]) if compiler else run
    if layout == "folded" and phase == "validation":
        nets = [folded(net) for net in nets]
    if not compiler:
        return lambda images: torch.stack([net(images) for net in nets])
    # One compiled network for all, as their weights come and go in a search.
    shared = copy.deepcopy(nets[0])
    compiled = torch.compile(shared, **COMPILERS[compiler])
    states = [net.state_dict() for net in nets]

    def each(state: dict, images: Tensor) -> Tensor:
        shared.load_state_dict(state)
        return compiled(images).clone()  # CUDA graphs answer in the same memory every time

    return lambda images: torch.stack([each(state, images) for state in states])


def seconds(run: Run, images: Tensor) -> float:
    begun = time.perf_counter()
    float(run(images)[0, 0, 0])  # waits for the device
    return time.perf_counter() - begun


def measure_phase(args: argparse.Namespace, nets: Sequence[nn.Module], images: Tensor, phase: str) -> dict[str, dict]:
    """For every way: seconds of each round, of the first pass (compiling), and how far off it is."""
    runs = {way: make(way, nets, phase) for way in args.ways}
    found = {}
    with torch.no_grad(), autocast(images.device, args.amp):
        for way, run in runs.items():
            first = seconds(run, images)
            found[way] = {"first": first, "logits": run(images).float().clone(), "seconds": []}
        for _ in range(args.rounds):
            for way, run in runs.items():
                found[way]["seconds"].append(seconds(run, images))
    expected = found[args.ways[0]]["logits"]
    for one in found.values():
        one["off"] = float((one.pop("logits") - expected).abs().max() / expected.abs().max())
    return found


def row(args: argparse.Namespace, way: str, found: dict[str, dict[str, dict]]) -> list[str]:
    cells = [way]
    for phase in PHASES:
        mine, plain = found[phase][way], found[phase][args.ways[0]]
        rate = args.networks * args.batch_size / statistics.median(mine["seconds"])
        faster = statistics.median(a / b for a, b in zip(plain["seconds"], mine["seconds"], strict=True))
        cells += [f"{rate:,.0f}", f"{faster:.2f}×", f"{mine['off']:.0e}", f"{mine['first']:.1f}"]
    return cells


def main() -> None:
    args = build_parser().parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    nets = [models.build(args.arch, 100, [0.5] * 3, [0.25] * 3).to(device) for _ in range(args.networks)]
    images = torch.rand(args.batch_size, 3, args.side, args.side, device=device)
    images = images.to(memory_format=torch.channels_last)
    found = {phase: measure_phase(args, nets, images, phase) for phase in PHASES}
    columns = [f"{phase}: {name}" for phase in PHASES for name in ("images/s", "faster", "off", "first pass s")]
    title = f"Forward passes of {args.networks} × {args.arch}, batches of {args.batch_size}"
    rows = [row(args, way, found) for way in args.ways]
    measure.save(args, "forward", title, ["way", *columns], rows, found=found)


if __name__ == "__main__":
    main()
