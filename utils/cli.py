"""What the scripts share: their flags, the device, the network, and where their log goes."""

import argparse
import functools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

import models
from utils.allocator import keep_freed_memory
from utils.distributed import SINGLE, Processes, connect
from utils.errors import UserError
from utils.images import Images
from utils.launch_env import read_rank_info
from utils.method_names import METHODS
from utils.parser import Parser, PrintText, count, nonnegative, positive
from utils.randomness import derive_seed


def add_list_flag(parser: Parser, datasets: Mapping[str, str]) -> None:
    """--list: networks, methods and these data sets, each with a few words."""
    parts = {"--arch": models.described_archs(), "data sets": datasets, "--interpolate_method": METHODS}
    width = max(len(name) for names in parts.values() for name in names)
    lines = [
        line
        for title, names in parts.items()
        for line in (f"{title}:", *(f"  {name:<{width}}  {words}" for name, words in names.items()))
    ]
    text = "\n".join(lines)
    parser.add_argument("--list", action=PrintText, text=text, help="name networks, data sets and methods, and exit")


def add_network_flags(parser: Parser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--arch", default="resnet18", help=f"one of {', '.join(models.described_archs())}")
    group.add_argument("--imagenet_arch", action="store_true", help="the ImageNet stem: 7×7 convolution and max-pool")


def add_run_flags(parser: Parser) -> None:
    group = add_device_flags(parser)
    group.add_argument(
        "--seed", type=count, default=41, metavar="S", help="initialisation, order of images, augmentation"
    )
    group.add_argument(
        "--batch_size",
        type=positive,
        default=128,
        metavar="N",
        help="images a batch when training and recalibrating, and in `learned`",
    )
    group.add_argument(
        "--save_interval",
        type=nonnegative,
        default=30.0,
        metavar="S",
        help="seconds between saves of unfinished work, which a kill may cost; 0: every epoch and candidate is saved",
    )


def add_device_flags(parser: Parser) -> argparse._ArgumentGroup:
    """The flags that say where and how, not what; returns their group."""
    group = parser.add_argument_group("run")
    group.add_argument("--device", type=device_name, default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument(
        "--gpu", type=gpu_number, metavar="N", help="which GPU, as the published scripts spell it; of no use on a CPU"
    )
    group.add_argument("--amp", action="store_true", help="bfloat16 arithmetic; weights and statistics stay float32")
    group.add_argument("--channels_last", action="store_true", help="lay weights out channels last, as images are")
    group.add_argument("--compile", action="store_true", help="compile the network with torch.compile")
    group.add_argument(
        "--compile_mode",
        choices=("default", "reduce-overhead", "max-autotune"),
        help="--compile in this mode of torch's: reduce-overhead replays CUDA graphs, where a GPU waits for Python",
    )
    group.add_argument(
        "--deterministic", action="store_true", help="on a GPU, slower arithmetic that gives the same bits each time"
    )
    group.add_argument("--quiet", action="store_true", help="print results alone")
    group.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return group


def add_unused_flags(parser: Parser, workers: bool = True) -> None:
    """Flags of the published scripts and their launcher that are accepted without effect; their help says why."""
    group = parser.add_argument_group("of the published scripts, accepted with no use left")
    add = functools.partial(group.add_argument, type=int, metavar="N")
    add("--print_freq", "-p", help="every epoch and every candidate gets its line")
    add("--master_port", help="is multiproc.py's")
    add("--local_rank", "--local-rank", help="the environment says it")
    group.add_argument("--inference", action="store_true", help="a search never trains")
    if workers:
        add("--workers", "-j", help="images are in memory, nothing loads them")


def add_process_flags(parser: Parser) -> argparse._ArgumentGroup:
    """The flags of scripts for several processes; returns their group."""
    group = parser.add_argument_group("processes")
    group.add_argument(
        "--timeout", type=positive, default=600, metavar="S", help="seconds to wait for a silent process"
    )
    return group


def add_evaluation_flags(parser: Parser, corruptions: str) -> None:
    """What `evaluate.py` scores, on how many images at once; `corruptions` says what that folder holds."""
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="a folder of tickets, a folder of pools or its pools.json, or a single checkpoint",
    )
    group = parser.add_argument_group("scores")
    group.add_argument("--score", action="store_true", help="run the networks even if every PATH holds pools")
    group.add_argument("--corruptions", type=Path, metavar="DIR", help=corruptions)
    group.add_argument("--batch_size", type=positive, default=500, metavar="N", help="images scored at the same time")
    group.add_argument(
        "--save_dir",
        type=Path,
        metavar="DIR",
        help="folder of tables and pictures; default: beside the first PATH, of a folder of tickets in it, of a single "
        "pool beside its folder",
    )
    parser.set_defaults(seed=0)  # nothing is drawn


def add_jobs_flag(parser: Parser) -> None:
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="coefficients tried at the same time; default: one a CPU thread, on a GPU one",
    )


def select_device(args: argparse.Namespace) -> torch.device:
    """The device of a script for one process that --device or --gpu names."""
    if read_rank_info(os.environ).world_size > 1:
        raise UserError("this script is for one process: start it without multiproc.py, torchrun or srun's --ntasks")
    _set_up(args)
    return _tried(torch.device(_wanted_device(args)))


def join_processes(args: argparse.Namespace) -> Processes:
    """The processes that this one was started with, if any; each has a device of those that --device names."""
    _set_up(args)
    processes = connect(_wanted_device(args), args.timeout)
    _tried(processes.device)
    return processes


def _set_up(args: argparse.Namespace) -> None:
    keep_freed_memory()
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        # An operation that has no deterministic form is warned of: better than no run at all.
        torch.use_deterministic_algorithms(True, warn_only=True)


def _wanted_device(args: argparse.Namespace) -> str:
    """`cpu`, `cuda` or `cuda:N`, as --device and --gpu have it; `auto` is CUDA where there is one."""
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{args.gpu}" if device == "cuda" and args.gpu is not None else device


def _tried(device: torch.device) -> torch.device:
    try:
        torch.zeros(1, device=device).cpu()
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # else threads that pin memory would take up the first GPU too
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device} cannot be used: {reason} (auto, cpu, cuda or cuda:N)") from error
    return device


def device_name(text: str) -> str:
    """`auto`, or a device that scripts know. Torch knows more, and takes `cuda:256` for `cuda:0`."""
    if not re.fullmatch("auto|cpu|cuda(:[1-9]?[0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text} is none of auto, cpu, cuda and cuda:N")
    return text


def gpu_number(text: str) -> int:
    """The N of a `cuda:N`."""
    device_name(f"cuda:{text}")
    return int(text)


def make_network(args: argparse.Namespace, data: Images, device: torch.device) -> nn.Module:
    """The network that --arch names, initialised from --seed, for the classes and channels of `data`, on `device`."""
    torch.manual_seed(derive_seed(args.seed, "initialisation"))
    net = models.build(args.arch, len(data.classes), data.mean, data.std, args.imagenet_arch)
    smallest = getattr(net, "smallest_image", 1)
    if data.side < smallest:
        raise UserError(
            f"--arch {args.arch} needs images of {smallest}×{smallest} or more; these are {data.side}×{data.side}"
        )
    net.to(device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    if args.compile or args.compile_mode:
        net.compile(mode=args.compile_mode)
    return net


def make_networks(args: argparse.Namespace, data: Images, device: torch.device, at_once: int) -> list[nn.Module]:
    """As many networks as --jobs says, by default one on a GPU, on a CPU one a thread; no more than `at_once`."""
    jobs = args.jobs or (torch.get_num_threads() if device.type == "cpu" else 1)
    return [make_network(args, data, device) for _ in range(min(jobs, at_once))]


def announcer(args: argparse.Namespace, processes: Processes = SINGLE) -> Callable[[str], None]:
    """What takes the lines of the log: standard output, or nothing with --quiet. Ranks but 0 say which they are."""
    if args.quiet:
        return lambda line: None
    prefix = "" if processes.is_main else f"[rank {processes.rank}] "
    return lambda line: print(f"{prefix}{line}", flush=True)
