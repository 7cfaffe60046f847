"""Doing what --interpolate_method names with the tickets of one run."""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from utils import tickets
from utils.coefficients import SEARCHES
from utils.connectivity import ConnectivityRun, barrier_table
from utils.distributed import SINGLE, Processes
from utils.ensembles import EnsembleRun
from utils.errors import UserError, warn
from utils.evaluation import Evaluator, precision_name
from utils.images import Images
from utils.learned import GROUPS, learned
from utils.method_names import CONNECTIVITY, DEPARTURES, EMA, ENSEMBLE, LATER_FLAGS, LEARNED, SEARCH, SWA, folder_name
from utils.pool_runs import PoolRun
from utils.pool_tables import format_results
from utils.pools import PoolFunction, SearchRule, ema, greedy, swa
from utils.provenance import describe_run
from utils.recalibrated import recalibrated
from utils.soups import average_or_soup, greedy_soup, uniform_soup
from utils.studies import Study
from utils.tickets import TicketFile

# Methods without settings of their own, which are called by the names of their functions.
PLAIN_METHODS = {method.__name__: method for method in (uniform_soup, greedy_soup, average_or_soup, recalibrated)}


def heeded(args: argparse.Namespace, speaks: bool = True) -> argparse.Namespace:
    """`args` without departures that the method has no use for, so that its pools are those of the plain command."""
    plain = argparse.Namespace(**vars(args))
    useless = [
        name
        for name, methods in DEPARTURES.items()
        if args.interpolate_method not in methods and getattr(args, name) != LATER_FLAGS[name]
    ]
    for name in useless:
        setattr(plain, name, LATER_FLAGS[name])
    if getattr(args, "parallel", "data") == "starts" and splits_images(args):
        useless.append("parallel starts")
    for name in useless if speaks else ():
        warn(f"warning: {args.interpolate_method} has no use for --{name}")
    return plain


def most_at_once(args: argparse.Namespace) -> int:
    """How many networks the method that the flags ask for can work on at the same time."""
    return len(args.interpolation_value_list) if args.interpolate_method == SEARCH else 1


def splits_images(args: argparse.Namespace) -> bool:
    """Whether several processes share the images of every network (else each has starting tickets of its own)."""
    return getattr(args, "parallel", "data") == "data" or args.interpolate_method in (CONNECTIVITY, ENSEMBLE)


def run_method(
    args: argparse.Namespace,
    nets: Sequence[nn.Module],
    data: Images,
    say: Callable[[str], None],
    processes: Processes = SINGLE,
) -> None:
    """Do what --interpolate_method asks with the tickets of --checkpoint, and print its table.

    `args` are `heeded` already; `nets` are as many networks as shall be scored at the same time.
    """
    source = args.checkpoint or tickets.run_folder(
        args.prune_type, args.dataset, args.arch, args.rewind_epoch, args.seed
    )
    files = tickets.find_tickets(source)
    levels = _chosen_levels(args.levels, files)
    study = _study(args, source, files, nets, data, say, processes)
    if args.interpolate_method == CONNECTIVITY:
        table = barrier_table(ConnectivityRun(study, args.pairs).run(args.interpolation_value_list, levels))
    elif args.interpolate_method == ENSEMBLE:
        table = format_results(EnsembleRun(study).run(levels))
    else:
        run = PoolRun(study, _method(args), args.select_by, args.order, args.final_bn_images, args.save_interval)
        table = format_results(run.run(levels))
    if processes.is_main:
        print(table, flush=True)


def _study(
    args: argparse.Namespace,
    source: Path,
    files: Sequence[TicketFile],
    nets: Sequence[nn.Module],
    data: Images,
    say: Callable[[str], None],
    processes: Processes,
) -> Study:
    """The tickets `files` of the folder `source`, what scores them, and where results go."""
    folder = args.save_dir or tickets.pools_folder(source, folder_name(vars(args)))
    sharing = processes if splits_images(args) else SINGLE
    evaluator = Evaluator(
        args.arch, nets, data, args.batch_size, args.bn_images, args.amp, sharing, update_bn=not args.no_update_bn
    )
    where = f"{evaluator.device} in {precision_name(evaluator.device, args.amp)}"
    say(f"{args.interpolate_method} on {len(files)} tickets of {source}, {data.sizes}, {where}: {folder}")
    return Study(
        files,
        evaluator,
        args.search_num,
        args.seed,
        folder,
        describe_run(vars(args), evaluator.device, data.identity, processes.world_size),
        say,
        ticket_tolerance=args.ticket_tolerance,
        processes=processes,
        denser_num=args.denser_num,
    )


def _method(args: argparse.Namespace) -> SearchRule | PoolFunction:
    if args.interpolate_method in PLAIN_METHODS:
        return PLAIN_METHODS[args.interpolate_method]
    if args.interpolate_method == LEARNED:
        return functools.partial(
            learned, steps=args.learned_steps, learning_rate=args.learned_lr, groups=GROUPS[args.learned_per]
        )
    if args.interpolate_method == SWA:
        return swa()
    if args.interpolate_method == EMA:
        return ema(args.EMA_value)
    others = {"margin": args.accept_margin, "passes": args.passes, "even_out": args.even_out}
    return greedy(args.interpolation_value_list, SEARCHES[args.coefficient_search], **others)


def _chosen_levels(wanted: Sequence[int] | None, files: Sequence[TicketFile]) -> list[int]:
    there = [file.level for file in files]
    for level in wanted or ():
        if level not in there:
            raise UserError(f"--levels {level}: there are tickets of levels {' '.join(map(str, there))}")
    return list(wanted or there)
