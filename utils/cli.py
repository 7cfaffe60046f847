"""What the scripts share: their flags, the device, the network, and where their log goes."""

import argparse
import functools
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from utils.coefficients import SEARCHES
from utils.connectivity import PAIRS
from utils.distributed import SINGLE, Processes, connect, find_place
from utils.errors import UserError
from utils.evaluation import SELECTIONS
from utils.imp import PRUNE_TYPES
from utils.learned import GROUPS
from utils.methods import METHODS, method_name, most_at_once
from utils.parser import Page, Parser, Preset, count, epochs_list, nonnegative, positive, share
from utils.pool_runs import ORDERS
from utils.pools import PAPER_COEFFICIENTS
from utils.provenance import OLDER
from utils.randomness import derive_seed

# The fastest search whose pools are as good as those of the published one; README has the figures.
FAST = {"bn_images": 256, "final_bn_images": 2048, "coefficient_search": "hump", "amp": True}


def _as_flags(settings: Mapping[str, Any]) -> str:
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in settings.items())


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
    parser.add_argument("--list", action=Page, text=text, help="name networks, data sets and methods, and exit")


def add_network_flags(parser: Parser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--arch", default="resnet18", help=f"one of {', '.join(models.arch_names())}")
    group.add_argument("--imagenet_arch", action="store_true", help="the ImageNet stem: 7×7 convolution and max-pool")


def add_run_flags(parser: Parser) -> None:
    group = add_device_flags(parser)
    group.add_argument(
        "--seed", type=count, default=41, metavar="S", help="initialisation, order of images, augmentation"
    )
    group.add_argument(
        "--batch_size", type=positive, default=128, metavar="N", help="images a batch in training and recalibration"
    )


def add_device_flags(parser: Parser) -> argparse._ArgumentGroup:
    """The flags that say where and how, not what; returns their group."""
    group = parser.add_argument_group("run")
    group.add_argument("--device", type=device_name, default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument(
        "--gpu", type=count, metavar="N", help="the same as --device cuda:N, as the published scripts spell it"
    )
    group.add_argument("--amp", action="store_true", help="bfloat16 arithmetic; weights and statistics stay float32")
    group.add_argument("--channels_last", action="store_true", help="lay weights out channels last, as images are")
    group.add_argument("--compile", action="store_true", help="compile the network with torch.compile")
    group.add_argument(
        "--deterministic", action="store_true", help="on a GPU, slower arithmetic that gives the same bits each time"
    )
    group.add_argument("--quiet", action="store_true", help="print results alone")
    group.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return group


def add_unused_flags(parser: Parser, workers: bool = True) -> None:
    """Flags of the published scripts and their launcher that ask for nothing that could be done otherwise."""
    group = parser.add_argument_group("of the published scripts, accepted with no use left")
    add = functools.partial(group.add_argument, type=int, metavar="N")
    add("--print_freq", "-p", help="every epoch and every candidate gets its line")
    add("--master_port", help="is multiproc.py's")
    add("--local_rank", "--local-rank", help="the environment says it")
    group.add_argument("--inference", action="store_true", help="a search never trains")
    if workers:
        add("--workers", "-j", help="images are in memory, nothing loads them")


def add_process_flags(parser: Parser) -> None:
    group = parser.add_argument_group("processes")
    group.add_argument(
        "--timeout", type=positive, default=600, metavar="S", help="seconds to wait for a silent process"
    )


def add_imp_flags(parser: Parser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive, default=182, metavar="N", help="epochs that each level trains to")
    group.add_argument("--lr", type=nonnegative, default=0.1, metavar="R", help="learning rate of SGD")
    group.add_argument("--momentum", type=share, default=0.9, metavar="M", help="momentum of SGD")
    group.add_argument("--weight_decay", type=nonnegative, default=1e-4, metavar="W", help="weight decay of SGD")
    group.add_argument("--warmup", type=count, default=0, metavar="N", help="epochs over which the learning rate rises")
    group.add_argument(
        "--decreasing_lr", type=epochs_list, default="91,136", metavar="N,N", help="epochs at which it falls tenfold"
    )
    group.add_argument(
        "--eval_freq",
        type=positive,
        default=1,
        metavar="N",
        help="score validation and test every N epochs and in a level's first and last; tickets are of scored epochs",
    )
    group.add_argument(
        "--replicas",
        type=positive,
        default=1,
        metavar="M",
        help="train each level M times, on other orders of images, and take the mean, at M times the cost",
    )
    group = parser.add_argument_group("pruning")
    group.add_argument("--pruning_times", type=positive, default=19, metavar="N", help="levels, the dense one included")
    group.add_argument(
        "--rate", type=share, default=0.2, metavar="R", help="share of the remaining weights pruned at each level"
    )
    group.add_argument(
        "--prune_type",
        choices=PRUNE_TYPES,
        default="rewind_lt",
        help="where weights go back to: initialisation (lt), --rewind_epoch (rewind_lt), best dense weights (pt)",
    )
    group.add_argument(
        "--rewind_epoch", type=count, default=9, metavar="N", help="epoch of level 0 that rewind_lt goes back to"
    )
    group.add_argument("--random_prune", action="store_true", help="prune a random share, not the smallest weights")
    group = parser.add_argument_group("files")
    group.add_argument(
        "--save_dir", type=Path, metavar="DIR", help="folder of the tickets; default: checkpoints/… by the flags"
    )
    group.add_argument(
        "--slim", action="store_true", help="smaller files: masks in a byte a weight, tickets without initial weights"
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="write curves for TensorBoard, if it is installed, into tensorboard/"
    )
    group.add_argument("--resume", action="store_true", help="accepted: a run always goes on where it stopped")
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR|FILE",
        help="go on with the run in this folder, or of this checkpoint file",
    )


def add_pool_flags(
    parser: Parser, tickets_flags: tuple[str, ...] = ("--checkpoint",), pools_flag: str = "--save_dir"
) -> None:
    """The flags of a search; the published scripts call the folders of tickets and pools by different names."""
    group = parser.add_argument_group("pools")
    group.add_argument(
        "--interpolate_method",
        type=method_name,
        choices=METHODS,
        metavar="METHOD",
        default="Lottery_pools",
        help=f"how tickets are combined: {', '.join(METHODS)}; --list says more",
    )
    group.add_argument(
        "--interpolation_value_list",
        type=share,
        nargs="+",
        default=list(PAPER_COEFFICIENTS),
        metavar="C",
        help="coefficients tried: the share (0 to 1) that the pool keeps; 0.5 alone is averaging",
    )
    group.add_argument(
        "--search_num", type=count, default=19, metavar="N", help="candidates tried for each start, nearest first"
    )
    group.add_argument("--EMA_value", type=share, default=0.95, metavar="C", help="share that the moving average keeps")
    group.add_argument(
        "--learned_steps",
        type=count,
        default=50,
        metavar="N",
        help="steps of gradient, on all validation images each, that learned takes: its own validation accuracy "
        "is of images that it was fitted to",
    )
    group.add_argument("--learned_lr", type=nonnegative, default=0.1, metavar="R", help="learning rate of learned")
    group.add_argument("--levels", type=count, nargs="+", metavar="L", help="tickets to start from; default: all")
    group.add_argument(
        "--pairs",
        choices=PAIRS,
        default="neighbours",
        help="of linear_inter: lines between neighbouring levels, or between all pairs of --levels (many)",
    )
    group.add_argument(
        "--ticket_tolerance",
        type=nonnegative,
        default=1.0,
        metavar="P",
        help="report tickets whose validation accuracy is not the one in their file by more than P points",
    )
    _add_cost_flags(group)
    _add_recipe_flags(parser)
    _add_pool_folders(parser, tickets_flags, pools_flag)


def _add_cost_flags(group: argparse._ArgumentGroup) -> None:
    """How many images and coefficients a search takes."""
    group.add_argument(
        "--bn_images", type=count, default=0, metavar="N", help="training images a recalibration sees; 0: all"
    )
    group.add_argument(
        "--final_bn_images",
        type=count,
        metavar="N",
        help="training images that a finished pool is recalibrated on once more; 0: all; default: none",
    )
    group.add_argument(
        "--coefficient_search",
        choices=SEARCHES,
        default="grid",
        help="score every coefficient (grid), or about half of them, towards the best one (hump)",
    )
    group.add_argument(
        "--fast",
        action=Preset,
        settings=FAST,
        help=f"the same as {_as_flags(FAST)}: see README for what it changes; flags after it win",
    )


def _add_recipe_flags(parser: Parser) -> None:
    group = parser.add_argument_group("departures from the paper's search, all off by default")
    group.add_argument(
        "--select_by",
        choices=SELECTIONS,
        default=OLDER["select_by"],
        help="which network is better, on validation images: the one of higher accuracy, or of lower loss",
    )
    group.add_argument(
        "--accept_margin",
        type=nonnegative,
        default=OLDER["accept_margin"],
        metavar="P",
        help="a candidate must raise the pool's accuracy by P points (with --select_by loss: lower its loss by P nats)",
    )
    group.add_argument(
        "--order",
        choices=ORDERS,
        default=OLDER["order"],
        help="try the nearest candidates first, or of these the best ones on validation images",
    )
    group.add_argument(
        "--passes", type=positive, default=OLDER["passes"], metavar="N", help="try all candidates N times in turn"
    )
    group.add_argument(
        "--even_out",
        action="store_true",
        help="at the end, try the plain mean of the tickets in the pool, and take it if it is no worse",
    )
    group.add_argument(
        "--learned_per",
        choices=GROUPS,
        default=OLDER["learned_per"],
        help="learned has weights for the network, or for each block or layer",
    )


def _add_pool_folders(parser: Parser, tickets_flags: tuple[str, ...], pools_flag: str) -> None:
    group = parser.add_argument_group("files")
    group.add_argument(
        *tickets_flags,
        dest="checkpoint",
        type=Path,
        metavar="DIR",
        help="folder of the tickets; default: by the next two",
    )
    group.add_argument("--prune_type", choices=PRUNE_TYPES, default="rewind_lt", help="of the tickets' run")
    group.add_argument("--rewind_epoch", type=count, default=9, metavar="N", help="of the tickets' run")
    group.add_argument(
        pools_flag,
        dest="save_dir",
        type=Path,
        metavar="DIR",
        help="folder of the pools; default: pools/… in the tickets' folder",
    )


def add_evaluation_flags(parser: Parser, corruptions: str) -> None:
    """What `evaluate.py` scores, on how many images at once; `corruptions` says what that folder holds."""
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="a folder of tickets, a folder of pools, or a single checkpoint of either",
    )
    group = parser.add_argument_group("scores")
    group.add_argument("--score", action="store_true", help="run the networks even if every PATH holds pools")
    group.add_argument("--corruptions", type=Path, metavar="DIR", help=corruptions)
    group.add_argument("--batch_size", type=positive, default=500, metavar="N", help="images scored at the same time")
    group.add_argument(
        "--save_dir",
        type=Path,
        metavar="DIR",
        help="folder of tables and pictures; default: beside the first PATH, of a folder of tickets in it",
    )
    parser.set_defaults(seed=0)  # nothing is drawn


def add_export_flags(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a ticket or a pool")
    parser.add_argument("out", type=Path, metavar="OUT", help="what to write: dense .pt or .safetensors, sparse .npz")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")


def add_jobs_flag(parser: Parser) -> None:
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="coefficients tried at the same time; default: one a CPU thread, on a GPU one",
    )


def select_device(args: argparse.Namespace) -> torch.device:
    """The device of a script for one process that --device or --gpu names; `auto` is CUDA where there is one."""
    if find_place(os.environ).world > 1:
        raise UserError("this script is for one process: start it without multiproc.py, torchrun or srun's --ntasks")
    _set_up(args)
    name = _wanted_device(args)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return _tried(torch.device(name))


def join_processes(args: argparse.Namespace) -> Processes:
    """The processes that this one was started with, if any; each has a device of those that --device names."""
    _set_up(args)
    processes = connect(_wanted_device(args), args.timeout)
    _tried(processes.device)
    return processes


def _set_up(args: argparse.Namespace) -> None:
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        # An operation that has no deterministic form is warned of: better than no run at all.
        torch.use_deterministic_algorithms(True, warn_only=True)
        warnings.filterwarnings("ignore", "kthvalue CUDA")  # of its results we use the value, which is always the same


def _wanted_device(args: argparse.Namespace) -> str:
    if args.gpu is None or args.device != "auto":
        return args.device
    return f"cuda:{args.gpu}" if torch.cuda.is_available() else "cpu"


def _tried(device: torch.device) -> torch.device:
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device} cannot be used: {reason} (auto, cpu, cuda or cuda:N)") from error
    return device


def device_name(text: str) -> str:
    """`auto`, or what torch knows as a device."""
    try:
        return text if text == "auto" else str(torch.device(text))
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"--device {text} is none of auto, cpu, cuda and cuda:N") from error


def make_network(args: argparse.Namespace, data, device: torch.device) -> nn.Module:
    """The network that --arch names, initialised from --seed, for the classes and channels of `data`, on `device`."""
    torch.manual_seed(derive_seed(args.seed, "initialisation"))
    net = models.build(args.arch, len(data.classes), data.mean, data.std, args.imagenet_arch)
    smallest = getattr(net, "smallest_image", 1)
    if data.side < smallest:
        raise UserError(
            f"--arch {args.arch} needs images of {smallest}×{smallest} or more; these are {data.side}×{data.side}"
        )
    net.to(device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    if args.compile:
        net.compile()
    return net


def make_networks(args: argparse.Namespace, data, device: torch.device) -> list[nn.Module]:
    """As many networks as --jobs says, by default as a CPU has threads to share among the coefficients of a search."""
    cpu = min(torch.get_num_threads(), most_at_once(args))
    jobs = args.jobs or (cpu if device.type == "cpu" else 1)
    return [make_network(args, data, device) for _ in range(jobs)]


def announcer(args: argparse.Namespace, processes: Processes = SINGLE) -> Callable[[str], None]:
    """What takes the lines of the log: standard output, or nothing with --quiet. Ranks but 0 say which they are."""
    if args.quiet:
        return lambda line: None
    prefix = "" if processes.is_main else f"[rank {processes.rank}] "
    return lambda line: print(f"{prefix}{line}", flush=True)
