"""One run of `evaluate.py`: from the folders and files that it is given to a table, files and pictures."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils import checkpoint, report, score_tables, tickets
from utils.comparison import compare, notes_on
from utils.corruptions import CorruptedImages, counted
from utils.distributed import SINGLE, Processes
from utils.errors import UserError
from utils.evaluation import Evaluator, precision_name
from utils.folders import check_folder
from utils.images import Images
from utils.method_names import CONNECTIVITY
from utils.network_files import NetworkFile, holds_pools
from utils.pool_results import read_all
from utils.provenance import describe_run
from utils.report_page import Page, write_page
from utils.scoring import Scored, read_networks, score_networks
from utils.ticket_cache import TicketCache

CAPTIONS = {
    tickets.COMPARISON_PLOT: "Test accuracy against weights remaining; over several runs mean ± deviation",
    tickets.GAIN_PLOT: "Test accuracy of pools minus that of their tickets; over several runs mean ± deviation",
    tickets.RELIABILITY_PLOT: "Accuracy against confidence, and how many images there are at each",
    tickets.CORRUPTIONS_PLOT: "Accuracy by corruption, mean over severities and networks",
    tickets.CONNECTIVITY_PLOT: "Accuracy and loss on the line between neighbouring levels",
    tickets.BARRIERS_PLOT: "Barrier between each two levels",
}


# What an evaluation leaves behind, as `pools/*` brings it along the next time.
_PICTURES = (tickets.COMPARISON_PLOT, tickets.GAIN_PLOT, tickets.RELIABILITY_PLOT, tickets.CORRUPTIONS_PLOT)
RESULTS = {
    *(tickets.COMPARISON_JSON, tickets.COMPARISON_CSV, tickets.EVALUATION_JSON, tickets.EVALUATION_CSV),
    *(tickets.CORRUPTIONS_CSV, tickets.REPORT_PAGE),
    *_PICTURES,
    *(str(Path(name).with_suffix(".pdf")) for name in _PICTURES),
}


def without_results(paths: Sequence[Path]) -> list[Path]:
    """`paths` without the files of an earlier evaluation, unless there is nothing else."""
    return [path for path in paths if path.name not in RESULTS] or [*paths]


def only_compares(args: argparse.Namespace) -> bool:
    """Whether recorded results are asked for: of folders of pools alone, and no flag that takes images to answer."""
    return not args.score and args.corruptions is None and all(map(holds_pools, args.paths))


def compare_recorded(args: argparse.Namespace) -> None:
    """Print and write what the `pools.json` of each folder says."""
    folder, found = _results_folder(args), read_all(args.paths)
    table, notes = compare(found, folder), notes_on(found)
    heeded = {name: vars(args)[name] for name in ("paths", "save_dir")}  # the others are of networks and images
    page = Page(
        "Pools and their tickets, as recorded",
        describe_run(heeded, torch.device("cpu"), {}),
        table,
        notes,
        pictures=[(CAPTIONS[name], folder / name) for name in (tickets.COMPARISON_PLOT, tickets.GAIN_PLOT)],
        details=_searches([(one.label, one.path.parent, level) for one in found for level in one.entries]),
        sources={f"of {one.label}, {one.path}": one.described for one in found},
    )
    write_page(page, folder / tickets.REPORT_PAGE)
    print("\n".join([report.format_table(*table), *notes]))
    print(f"tables and pictures are in {folder}, all of them in {tickets.REPORT_PAGE}")


def _searches(pools: Sequence[tuple[str, Path, int]]) -> list[tuple[str, Path]]:
    """Captions and pictures of the searches of these pools (label, folder, level), and of the lines beside them.

    Only of those that are there.
    """
    pictures = [
        (f"{label} in {folder}: the search from level {level}", tickets.search_plot(folder, level))
        for label, folder, level in pools
    ]
    for place in dict.fromkeys(folder.parent for _, folder, _ in pools):
        for lines in sorted(place.glob(f"{CONNECTIVITY}*")):
            names = (tickets.CONNECTIVITY_PLOT, tickets.BARRIERS_PLOT)
            pictures += [(f"{CAPTIONS[name]}, {lines}", lines / name) for name in names]
    return [(caption, path) for caption, path in pictures if path.is_file()]


def evaluate_networks(
    args: argparse.Namespace,
    networks: Sequence[NetworkFile],
    net: nn.Module,
    data: Images,
    corrupted: CorruptedImages | None,
    say: Callable[[str], None],
    processes: Processes = SINGLE,
) -> None:
    """Score all `networks` through `net`, print the table and write the rest. `data` is as for `Evaluator`."""
    folder = _results_folder(args)
    evaluator = Evaluator(args.arch, [net], data, args.batch_size, amp=args.amp, processes=processes)
    where = f"{evaluator.device} in {precision_name(evaluator.device, args.amp)}"
    say(f"{len(networks)} networks on {data.sizes['test']} test images, {where}")
    cache = TicketCache(evaluator)
    scores = read_networks(networks, cache)
    if processes.is_main:
        check_folder(folder)
    score_networks(scores, cache, corrupted, say)
    if processes.is_main:
        description = describe_run(vars(args), evaluator.device, data.identity, processes.world_size)
        _report(scores, _notes(scores, corrupted), description, folder)


def _report(scores: Sequence[Scored], notes: Sequence[str], description: Mapping[str, Any], folder: Path) -> None:
    """Print the table with its notes, and write all there is to say into `folder`."""
    entries = [score_tables.describe_network(scored) for scored in scores]
    groups = score_tables.summarise(entries)
    table = score_tables.results_table(groups)
    print("\n".join([report.format_table(*table), *notes]))  # first: files may find no room
    checkpoint.save_json({**description, "networks": entries, "summary": groups}, folder / tickets.EVALUATION_JSON)
    pictures = _write_results(entries, folder)
    pools = [
        (one.network.method, one.network.file.path.parent, one.network.level) for one in scores if one.network.start
    ]
    page = Page("Networks scored on test images", description, table, notes, pictures, details=_searches(pools))
    write_page(page, folder / tickets.REPORT_PAGE)
    print(f"tables and pictures are in {folder}, all of them in {tickets.REPORT_PAGE}", flush=True)


def _results_folder(args: argparse.Namespace) -> Path:
    """Beside what was named first; of a folder of tickets, in it; of a pool or a `pools.json`, beside their folder.

    Never in a folder of pools, whose `accuracy.png` is that of its search: UserError where --save_dir names one.
    """
    if args.save_dir:
        if holds_pools(args.save_dir):
            raise UserError(f"--save_dir {args.save_dir} holds pools and their accuracy.png: name another folder")
        return args.save_dir
    first = args.paths[0]
    folder = first if first.is_dir() else first.parent
    if folder.name in ("", ".."):  # `.`, say: names that do not tell what the folder lies in
        folder = folder.resolve()
    return folder.parent if holds_pools(folder) else folder


def _write_results(entries: Sequence[score_tables.Entry], folder: Path) -> list[tuple[str, Path]]:
    """Write the tables and pictures of an evaluation into `folder`; returns the pictures with their captions."""
    score_tables.write_networks(entries, folder / tickets.EVALUATION_CSV)
    drawn = [
        (tickets.COMPARISON_PLOT, report.plot_accuracy, score_tables.density_series(entries, "accuracy")),
        (tickets.GAIN_PLOT, report.plot_gain, score_tables.density_series(entries, "gain")),
        (tickets.RELIABILITY_PLOT, report.plot_reliability, score_tables.reliability_series(entries)),
    ]
    if entries[0]["corruptions"]:
        score_tables.write_corruptions(entries, folder / tickets.CORRUPTIONS_CSV)
        drawn.append((tickets.CORRUPTIONS_PLOT, report.plot_corruptions, score_tables.corruption_series(entries)))
    drawn = [part for part in drawn if part[2]]  # without pools there is no gain, without masks there are no densities
    for name, plot, series in drawn:
        plot(series, folder / name)
    return [(CAPTIONS[name], folder / name) for name, _, _ in drawn]


def _notes(scores: Sequence[Scored], corrupted: CorruptedImages | None) -> list[str]:
    """What one must know to read the table."""
    notes = []
    if any(scored.paired for scored in scores):
        notes.append(
            "gain and p: each pool against its own ticket, by McNemar's exact test, not corrected for their number"
        )
    if alone := [scored for scored in scores if scored.network.start and not scored.ticket]:
        notes.append(f"no gain for {len(alone)} pools whose tickets are not among the networks given: {_paths(alone)}")
    if unknown := [scored for scored in scores if scored.density is None]:
        notes.append(
            f"no density, and so no place in {tickets.COMPARISON_PLOT}, for {len(unknown)} files that hold no mask: "
            f"{_paths(unknown)}"
        )
    if (most := max(len(scored.files) for scored in scores)) > 1:
        notes.append(f"ensembles have no network of their own: for every image up to {most} networks run")
    if corrupted:
        notes.append(f"corrupted: mean over five severities of {counted(corrupted.names)}")
    return notes


def _paths(scores: Sequence[Scored]) -> str:
    """The first few."""
    return ", ".join([*(str(scored.network.file.path) for scored in scores[:3]), *(["…"] if len(scores) > 3 else [])])
