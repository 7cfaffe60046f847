"""One run of `evaluate.py`: from the folders and files that it is given to a table, files and pictures."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from utils import checkpoint, report, score_tables, tickets
from utils.comparison import compare
from utils.corruptions import CorruptedImages, counted
from utils.distributed import SINGLE, Processes
from utils.evaluation import Evaluator, precision_name
from utils.folders import check_folder
from utils.networks import NetworkFile, holds_pools
from utils.provenance import describe_run
from utils.recorded import read_all
from utils.scoring import Scored, read_networks, score_networks


def only_compares(args: argparse.Namespace) -> bool:
    """Whether recorded results are asked for: of folders of pools alone, and no flag that takes images to answer."""
    return not args.score and args.corruptions is None and all(map(holds_pools, args.paths))


def compare_recorded(args: argparse.Namespace) -> None:
    """Print and write what the `pools.json` of each folder says."""
    folder = _results_folder(args)
    print(report.format_table(*compare(read_all(args.paths), folder)))
    print(f"tables and pictures are in {folder}")


def evaluate_networks(
    args: argparse.Namespace,
    networks: Sequence[NetworkFile],
    net: nn.Module,
    data,
    corrupted: CorruptedImages | None,
    say: Callable[[str], None],
    processes: Processes = SINGLE,
) -> None:
    """Score all `networks` through `net`, print the table and write the rest. `data` is as for `Evaluator`."""
    folder = _results_folder(args)
    evaluator = Evaluator(args.arch, [net], data, args.batch_size, amp=args.amp, processes=processes)
    where = f"{evaluator.device} in {precision_name(evaluator.device, args.amp)}"
    say(f"{len(networks)} networks on {data.sizes['test']} test images, {where}")
    scores = read_networks(networks, evaluator)
    if processes.is_main:
        check_folder(folder)
    score_networks(scores, evaluator, args.batch_size, corrupted, say)
    if not processes.is_main:
        return
    description = describe_run(vars(args), evaluator.device, data.identity, processes.world)
    print(_write_results(scores, description, folder))
    for note in _notes(scores, corrupted):
        print(note)
    print(f"tables and pictures are in {folder}", flush=True)


def _results_folder(args: argparse.Namespace) -> Path:
    """Beside what was named first; of a folder of tickets, in it."""
    first = args.paths[0]
    return args.save_dir or (first if first.is_dir() and not holds_pools(first) else first.parent)


def _write_results(scores: Sequence[Scored], description: dict[str, Any], folder: Path) -> str:
    """Write every file of an evaluation into `folder` and return the table."""
    entries = [score_tables.describe_network(scored) for scored in scores]
    groups = score_tables.summarise(entries)
    checkpoint.save_json({**description, "networks": entries, "summary": groups}, folder / tickets.EVALUATION_JSON)
    score_tables.write_networks(entries, folder / tickets.EVALUATION_CSV)
    report.plot_accuracy(score_tables.accuracy_series(entries), folder / tickets.COMPARISON_PLOT)
    if gains := score_tables.gain_series(entries):
        report.plot_gain(gains, folder / tickets.GAIN_PLOT)
    report.plot_reliability(score_tables.reliability_series(entries), folder / tickets.RELIABILITY_PLOT)
    if entries[0]["corruptions"]:
        score_tables.write_corruptions(entries, folder / tickets.CORRUPTIONS_CSV)
        report.plot_corruptions(score_tables.corruption_series(entries), folder / tickets.CORRUPTIONS_PLOT)
    return score_tables.results_table(groups)


def _notes(scores: Sequence[Scored], corrupted: CorruptedImages | None) -> list[str]:
    """What one must know to read the table."""
    notes = []
    if any(scored.paired for scored in scores):
        notes.append(
            "gain and p: each pool against its own ticket, by McNemar's exact test, not corrected for their number"
        )
    alone = [str(scored.network.file.path) for scored in scores if scored.network.start and not scored.ticket]
    if alone:
        shown = ", ".join([*alone[:3], *(["…"] if len(alone) > 3 else [])])
        notes.append(f"no gain for {len(alone)} pools whose tickets are not among the networks given: {shown}")
    if corrupted:
        notes.append(f"corrupted: mean over five severities of {counted(corrupted.names)}")
    return notes
