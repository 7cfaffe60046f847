"""The flags of the two Lottery_pools.py: method, search, departures from the paper's, folders."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.coefficients import SEARCHES
from utils.connectivity import PAIRS
from utils.evaluation import SELECTIONS
from utils.learned import GROUPS
from utils.method_names import LATER_FLAGS, METHODS, SEARCH, method_name
from utils.parser import Parser, Preset, count, nonnegative, positive, share
from utils.pool_runs import ORDERS
from utils.pools import PAPER_COEFFICIENTS
from utils.tickets import PAPER_PRUNE_TYPE, PAPER_REWIND_EPOCH, PRUNE_TYPES

# The fastest search whose pools are as good as those of the published one; README has the figures.
FAST = {"bn_images": 256, "final_bn_images": 2048, "coefficient_search": "hump", "amp": True}
# What --recipe names. Over all measured runs of about equally good tickets the best one gains more than the paper's
# search, on others as much; README has the figures, and where it has no lead.
RECIPES = {
    "paper": {"interpolate_method": SEARCH, "denser_num": LATER_FLAGS["denser_num"]},
    "best": {"interpolate_method": "average_or_soup", "denser_num": 1},
}


def _as_flags(settings: Mapping[str, Any]) -> str:
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in settings.items())


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
        default=SEARCH,
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
    group.add_argument("--levels", type=count, nargs="+", metavar="L", help="tickets to start from; default: all")
    group.add_argument(
        "--ticket_tolerance",
        type=nonnegative,
        default=1.0,
        metavar="P",
        help="report tickets whose validation accuracy is not the one in their file by more than P points",
    )
    _add_cost_flags(group)
    _add_method_flags(parser)
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
        nargs=0,
        const=FAST,
        default=argparse.SUPPRESS,
        help=f"the same as {_as_flags(FAST)}: see README for what it changes; flags after it win",
    )


def _add_method_flags(parser: Parser) -> None:
    group = parser.add_argument_group("single methods")
    group.add_argument("--EMA_value", type=share, default=0.95, metavar="C", help="share that interpolate_ema keeps")
    group.add_argument(
        "--learned_steps",
        type=count,
        default=50,
        metavar="N",
        help="steps of gradient, on all validation images each, that learned takes: its own validation accuracy "
        "is of images that it was fitted to",
    )
    group.add_argument("--learned_lr", type=nonnegative, default=0.1, metavar="R", help="learning rate of learned")
    group.add_argument(
        "--pairs",
        choices=PAIRS,
        default="neighbours",
        help="of linear_inter: lines between neighbouring levels, or between all pairs of --levels (many)",
    )


def _add_recipe_flags(parser: Parser) -> None:
    group = parser.add_argument_group("departures from the paper's search, all off by default")
    group.add_argument(
        "--recipe",
        action=Preset,
        choices=RECIPES,
        default=argparse.SUPPRESS,
        help=f"best: the same as {_as_flags(RECIPES['best'])}; see README for what it gains; flags after it win",
    )
    group.add_argument(
        "--select_by",
        choices=SELECTIONS,
        default=LATER_FLAGS["select_by"],
        help="which network is better, on validation images: the one of higher accuracy, or of lower loss",
    )
    group.add_argument(
        "--accept_margin",
        type=nonnegative,
        default=LATER_FLAGS["accept_margin"],
        metavar="P",
        help="a candidate must raise the pool's accuracy by P points (with --select_by loss: lower its loss by P nats)",
    )
    group.add_argument(
        "--order",
        choices=ORDERS,
        default=LATER_FLAGS["order"],
        help="try the nearest candidates first, or of these the best ones on validation images",
    )
    group.add_argument(
        "--passes", type=positive, default=LATER_FLAGS["passes"], metavar="N", help="try all candidates N times in turn"
    )
    group.add_argument(
        "--even_out",
        action="store_true",
        help="at the end, try the plain mean of the tickets in the pool, and take it if it is no worse",
    )
    group.add_argument(
        "--denser_num",
        type=count,
        default=LATER_FLAGS["denser_num"],
        metavar="N",
        help="of the tickets denser than the start, try the N nearest alone",
    )
    group.add_argument(
        "--no_update_bn",
        action="store_true",
        help="leave batch-norm statistics as they are interpolated, recalibrated nowhere but by --final_bn_images",
    )
    group.add_argument(
        "--learned_per",
        choices=GROUPS,
        default=LATER_FLAGS["learned_per"],
        help="learned has weights for the network, or for each block (of a VGG: layer) or layer",
    )


def _add_pool_folders(parser: Parser, tickets_flags: tuple[str, ...], pools_flag: str) -> None:
    group = parser.add_argument_group("files")
    group.add_argument(
        *tickets_flags,
        dest="checkpoint",
        type=Path,
        metavar="DIR",
        help="folder of the tickets; default: checkpoints/… by the flags",
    )
    its_run = "of the tickets' run"
    group.add_argument("--prune_type", choices=PRUNE_TYPES, default=PAPER_PRUNE_TYPE, help=its_run)
    group.add_argument("--rewind_epoch", type=count, default=PAPER_REWIND_EPOCH, metavar="N", help=its_run)
    group.add_argument(
        pools_flag,
        dest="save_dir",
        type=Path,
        metavar="DIR",
        help="folder of the pools; default: pools/… in the tickets' folder",
    )
