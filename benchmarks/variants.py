"""Searches from the same tickets in several manners, each in a folder of its own, compared start by start."""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks import inputs, measure
from CIFAR import Lottery_pools
from utils import checkpoint
from utils.pool_tables import gain
from utils.tickets import POOLS_JSON

T = TypeVar("T")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which tickets, images and searches; all searches go to --work and can be stopped and gone on with."""
    inputs.add_flags(parser)
    parser.add_argument("--search_num", type=int, default=2)
    parser.add_argument("--levels", type=int, nargs="+", metavar="L", help="tickets to start from; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[41], help="of the search: other images recalibrate")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")


def pools(args: argparse.Namespace, name: str, manner: Sequence[str]) -> list[list[dict]]:
    """The entries of the pools by the search of this name and these flags, for each folder and seed.

    They are searched now where they are not there yet.
    """
    if len({tickets.name for tickets in args.tickets}) < len(args.tickets):
        sys.exit("--tickets: folders need different names, since those in --work are called by them")
    found = []
    for tickets in args.tickets:
        for seed in args.seeds:
            folder = args.work / f"{tickets.name} {seed} {name}".replace(" ", "_").replace(",", "")
            flags = inputs.argv(args, search_num=args.search_num, seed=seed, checkpoint=tickets, save_dir=folder)
            levels = ["--levels", *map(str, args.levels)] if args.levels else []
            Lottery_pools.main([*flags, *levels, *manner])
            entries = checkpoint.load_json(folder / POOLS_JSON)["pools"]
            found.append([entry for entry in entries if not args.levels or entry["level"] in args.levels])
    return found


def scored(step: dict) -> int:
    """How many coefficients of a step have a score: networks that were run for it."""
    return len(step["scores"]) - step["scores"].count(None)


def flat(runs: Sequence[list[T]]) -> list[T]:
    """What all runs have, one after another."""
    return [one for run in runs for one in run]


def mean_gain(entries: Sequence[dict]) -> float:
    """Points of test accuracy that pools have over their tickets, mean."""
    return statistics.mean(map(gain, entries))


def differences(found: Sequence[dict], reference: Sequence[dict]) -> list[float]:
    """Points of test accuracy that each pool has over that of the reference."""
    return [
        mine["pool_test_accuracy"] - theirs["pool_test_accuracy"] for mine, theirs in zip(found, reference, strict=True)
    ]


def paired(differences: Sequence[float]) -> dict:
    """Two or more differences, start by start, with their mean and standard error."""
    mean, error = measure.mean_and_error(differences)
    return {"differences": differences, "difference": mean, "difference_error": error}
