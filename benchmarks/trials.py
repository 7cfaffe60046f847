"""The trials of searches, asked more than a search asks: what each network says of every image."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks import inputs
from CIFAR import Lottery_pools
from CIFAR.flags import data_from_flags
from utils import cli
from utils.evaluation import Evaluator
from utils.pools import PAPER_COEFFICIENTS, Pool, greedy, neighbours, search
from utils.pruning import State
from utils.tickets import TicketFile, find_tickets

PerImage = dict[str, np.ndarray]  # a number for each image
RIGHT = "right"  # the answers that a search decides by: validation images that a network gets right


@dataclass(frozen=True)
class RecordedStep:
    """A step of a search: the answers of the pool as it stood, and of the network of each coefficient."""

    start: int
    level: int
    before: PerImage
    trials: list[PerImage]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which tickets, images and searches."""
    inputs.add_flags(parser)
    parser.add_argument("--bn_images", type=int, default=256)
    parser.add_argument("--seed", type=int, default=41, help="of the search: other images recalibrate")
    parser.add_argument("--search_num", type=int, default=19)
    parser.add_argument("--coefficients", type=float, nargs="+", default=list(PAPER_COEFFICIENTS), metavar="C")


def record(args: argparse.Namespace, ask: Callable[[Evaluator, State], PerImage]) -> list[RecordedStep]:
    """Every step of the paper's search from each ticket of `args.tickets`, with the answers that `ask` gives."""
    command = Lottery_pools.build_parser().parse_args(inputs.argv(args, jobs=1))
    data = data_from_flags(command, cli.select_device(command))
    nets = cli.make_networks(command, data, data.device, at_once=1)
    evaluator = Evaluator(args.arch, nets, data, command.batch_size, args.bn_images, amp=True)
    found = []
    for folder in args.tickets:
        files = find_tickets(folder)
        for file in files:
            found += _search(args, evaluator, file, neighbours(files, file, args.search_num), ask)
            print(f"{folder.name}, level {file.level}: done", flush=True)
    return found


def _search(
    args: argparse.Namespace,
    evaluator: Evaluator,
    start: TicketFile,
    candidates: list[TicketFile],
    ask: Callable[[Evaluator, State], PerImage],
) -> list[RecordedStep]:
    ticket, answers = evaluator.read_ticket(start), []

    def score(state: State) -> float:
        answers.append(ask(evaluator, state))
        return answers[-1][RIGHT].mean()

    def finish(state: State, number: int) -> State:
        return evaluator.prune_and_recalibrate(ticket, state, args.seed, "recalibrate", ticket.level, number)

    pool = Pool(ticket.state, score(ticket.state), {ticket.level: 1.0})
    read = [(file.level, lambda file=file: evaluator.read_ticket(file).state) for file in candidates]
    search(pool, read, greedy(args.coefficients), finish, score)
    before, *trials = answers
    steps = []
    for step in pool.steps:
        tried, trials = trials[: len(step.coefficients)], trials[len(step.coefficients) :]
        steps.append(RecordedStep(start.level, step.candidate, before, tried))
        if step.accepted:
            before = tried[step.coefficients.index(step.coefficient)]
    return steps
