"""An IMP run in its folder: which folder, whether a command may go on with it, and what it says."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from utils import tickets
from utils.claims import claimed_folder
from utils.distributed import SINGLE, Processes
from utils.errors import UserError
from utils.evaluation import precision_name
from utils.events import Events
from utils.images import Images
from utils.imp import ImpRun, ImpSettings
from utils.preemption import defer_sigterm
from utils.provenance import changed_versions, describe_run
from utils.replicas import ReplicasRun
from utils.tickets import RunFiles
from utils.training import Schedule


def run_imp(
    args: argparse.Namespace,
    net: nn.Module,
    data: Images,
    layout: type[RunFiles],
    say: Callable[[str], None],
    processes: Processes = SINGLE,
) -> None:
    """Find the tickets that the flags ask for, or those of them that an earlier run of the same command did not."""
    settings = imp_settings(args)
    files = _run_files(args, layout)
    # Before the folder is claimed, since TensorBoard may not be installed.
    note = Events().write if args.tensorboard else lambda *_: None
    device = next(net.parameters()).device
    description = describe_run(vars(args), device, data.identity, processes.world_size)
    where = f"{device} in {precision_name(device, args.amp)}"
    say(f"{args.prune_type} tickets of {args.arch} on {args.dataset} {data.sizes}, {where}: {files.folder}")
    done = processes.is_main and (files.epochs_done(settings.pruning_times - 1) or 0) >= settings.epochs
    with _claimed(files, description, processes, renews=not done) as found:
        before = found["settings"].get("processes", processes.world_size)
        if before != processes.world_size:
            say(f"{processes.world_size} processes where there were {before}: it goes on, but not bit for bit")
        if changes := changed_versions(found.get("versions"), description["versions"]):
            say(f"what is there already was made with {changes}")
        if processes.is_main:
            for part in files.parts():
                part.remove_leftovers()
        with defer_sigterm() as stop:
            kind = ReplicasRun if settings.replicas > 1 else ImpRun
            kind(net, data, settings, files, say, processes, stop, note).run()
    if processes.is_main:
        print(f"tickets of {args.pruning_times} levels are in {files.folder}", flush=True)


def imp_settings(args: argparse.Namespace) -> ImpSettings:
    """The settings of an IMP run, or UserError where flags contradict each other."""
    if not 0 < args.rate < 1:
        raise UserError(f"--rate {args.rate} must lie between 0 and 1")
    if args.prune_type == "rewind_lt" and args.rewind_epoch >= args.epochs:
        raise UserError(f"--rewind_epoch {args.rewind_epoch} leaves nothing to train of --epochs {args.epochs}")
    flags = {field.name: vars(args)[field.name] for field in fields(ImpSettings) if field.name in args}
    return ImpSettings(schedule=Schedule(args.lr, args.decreasing_lr, args.warmup), **flags)


def _claimed(
    files: RunFiles, description: dict[str, Any], processes: Processes, renews: bool
) -> AbstractContextManager[dict[str, Any]]:
    """Lock the run's folder and note its settings there if it `renews` them.

    UserError where the folder holds another run, or tickets of nobody knows which.
    """
    path = files.folder / tickets.SETTINGS
    started, has_tickets = _is_started(files), tickets.holds_tickets(files.folder)
    if has_tickets and not started and not path.exists():
        raise UserError(f"{files.folder} holds tickets that are not this run's: name another folder with --save_dir")
    # Checkpoints may have been deleted, and tickets of other flags must not be replaced by this run's.
    return claimed_folder(path, description, processes, started or has_tickets, renews)


def _is_started(files: RunFiles) -> bool:
    return any(part.newest_level() is not None for part in files.parts())


def _run_files(args: argparse.Namespace, layout: type[RunFiles]) -> RunFiles:
    """In --save_dir, in the folder of the run that --checkpoint names, or in a place by the flags.

    UserError where --checkpoint names nothing to go on from, or --save_dir another folder.
    """
    if args.checkpoint is None:
        by_flags = tickets.run_folder(args.prune_type, args.dataset, args.arch, args.rewind_epoch, args.seed)
        return layout(_no_replica(args.save_dir or by_flags), args.slim)
    if not args.checkpoint.exists():
        raise UserError(f"--checkpoint {args.checkpoint} does not exist")
    folder = _no_replica(args.checkpoint if args.checkpoint.is_dir() else layout.folder_of(args.checkpoint))
    if args.save_dir is not None and args.save_dir.resolve() != folder.resolve():
        raise UserError(f"--checkpoint goes on in its own folder: leave --save_dir {args.save_dir} out")
    files = layout(folder, args.slim)
    if not _is_started(files):
        raise UserError(f"--checkpoint {args.checkpoint}: there is nothing to go on from in {folder}")
    newest = files.checkpoint(files.newest_level() or 0)
    if args.checkpoint.is_file() and args.checkpoint.resolve() != newest.resolve():
        raise UserError(f"--checkpoint {args.checkpoint} is not the newest: name {newest}, or move that away first")
    return files


def _no_replica(folder: Path) -> Path:
    if tickets.is_replica(folder.resolve()):
        raise UserError(f"{folder} is a part of the run in {folder.resolve().parent}: name that")
    return folder
