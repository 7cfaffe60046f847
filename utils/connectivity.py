"""Linear mode connectivity (Frankle et al. 2020): accuracy and loss along the line between two tickets.

The barrier is that of Entezari et al. 2022: the loss above the line between both ends. Frankle et al. take the error,
and how far it rises above the mean of both ends.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any

from utils import heat_maps, report, tickets
from utils.claims import save_results
from utils.errors import UserError
from utils.evaluation import Score
from utils.interpolation import interpolate
from utils.pool_tables import by_level
from utils.pruning import State
from utils.schemas import is_line
from utils.studies import Study
from utils.tickets import TicketFile

PAIRS = {"neighbours": pairwise, "all": lambda files: combinations(files, 2)}  # what --pairs names
Pair = tuple[TicketFile, TicketFile]  # the denser first


def walk(first: State, second: State, coefficients: Sequence[float], score: Callable[[State], Score]) -> dict:
    """Score `c·first + (1-c)·second` for every `c` of `coefficients` and for both ends, by rising `c`.

    Returns `coefficients`, `test_accuracy` (percent) and `test_loss` (nats), one value a point, and `barrier`.
    """
    line = sorted({0.0, *coefficients, 1.0})
    scores = [score(interpolate(first, second, coefficient)) for coefficient in line]
    losses = [point.loss for point in scores]
    return {
        "coefficients": line,
        "test_accuracy": [point.accuracy for point in scores],
        "test_loss": losses,
        "barrier": barrier(line, losses),
    }


def barrier(coefficients: Sequence[float], losses: Sequence[float]) -> float:
    """The highest that the loss rises above the straight line between its values at both ends; 0 if it never does.

    NaN where that cannot be told, since a loss is NaN, or one at an end infinity.
    """
    first, last = losses[0], losses[-1]
    straight = (first + (last - first) * coefficient for coefficient in coefficients)
    rises = [loss - level for loss, level in zip(losses, straight, strict=True)]
    inner = rises[1:-1]  # the ends are on the line, whatever rounding says
    return math.nan if any(map(math.isnan, inner)) else max([0.0, *inner])


class ConnectivityRun:
    """The line between neighbouring levels of a study, or between any two (`pairs`, of PAIRS).

    Batch norm is recalibrated at every point, at both ends too, so that the curve shows what the weights do alone; an
    end may therefore differ a little from its ticket, which has the statistics of its training. Nothing is pruned.
    """

    def __init__(self, study: Study, pairs: str = "neighbours"):
        self.study, self.evaluator, self.pairs = study, study.evaluator, pairs

    def run(self, coefficients: Sequence[float], levels: Sequence[int]) -> list[dict[str, Any]]:
        """Walk every pair not walked yet of those for which `levels` stand.

        Returns the entries of `connectivity.json`: all pairs that are there by then. UserError where there is no pair.
        """
        if len(self.study.files) < 2:
            raise UserError("a line needs two tickets: --checkpoint names a folder with one")
        wanted = {_levels(pair): pair for pair in self._wanted(levels)}
        if not wanted:
            raise UserError(f"--levels {levels[0]}: --pairs all draws lines among the levels named; name two or more")
        with self.study.claimed(tickets.CONNECTIVITY_JSON, paths=is_line) as found:
            done = self._finished(found)
            self.study.check_tickets(file for key in wanted.keys() - done.keys() for file in wanted[key])
            for key, pair in wanted.items():
                if key not in done:
                    done[key] = self._walk_pair(*pair, coefficients)
                self.study.say(f"levels {key[0]} and {key[1]}: barrier {done[key]['barrier']:.4f}")
                self._save(by_level(done))
            self._draw(by_level(done))
        return by_level(done)

    def _wanted(self, levels: Sequence[int]) -> list[Pair]:
        """With neighbours, a level stands for the line to the next one, the last one for the line that comes to it.

        Of all pairs, those among the levels.
        """
        pairs = PAIRS[self.pairs](self.study.files)
        if self.pairs == "all":
            return [(first, second) for first, second in pairs if {first.level, second.level} <= {*levels}]
        last = self.study.files[-1]
        return [pair for pair in pairs if pair[0].level in levels or (pair[1] is last and last.level in levels)]

    def _finished(self, found: dict[str, Any]) -> dict[tuple[int, int], dict[str, Any]]:
        """By their levels, the pairs in `found`, which an earlier run walked, whose tickets are the same now."""
        known = {_levels(pair): self.study.sources(*pair) for pair in combinations(self.study.files, 2)}
        entries = {(entry["levels"][0], entry["levels"][1]): entry for entry in found["paths"]}
        return {key: entry for key, entry in entries.items() if key in known and entry["tickets"] == known[key]}

    def _walk_pair(self, first: TicketFile, second: TicketFile, coefficients: Sequence[float]) -> dict[str, Any]:
        def score(state: State) -> Score:
            state = self.evaluator.recalibrate(state, self.study.seed, "connectivity", first.level)
            return self.evaluator.test(state)

        states = (self.study.read_ticket(file).state for file in (first, second))
        levels = {"levels": [first.level, second.level], "tickets": self.study.sources(first, second)}
        return {**levels, **walk(*states, coefficients, score)}

    def _save(self, entries: list[dict[str, Any]]) -> None:
        if not self.study.processes.is_main:
            return
        folder = self.study.folder
        save_results(folder / tickets.CONNECTIVITY_JSON, self.study.description, {"paths": entries})
        columns = ("coefficients", "test_accuracy", "test_loss")
        rows = [
            [*entry["levels"], *values, entry["barrier"]]
            for entry in entries
            for values in zip(*(entry[column] for column in columns), strict=True)
        ]
        header = ("level", "other_level", "coefficient", *columns[1:], "barrier")
        report.write_csv(header, rows, folder / tickets.CONNECTIVITY_CSV)

    def _draw(self, entries: list[dict[str, Any]]) -> None:
        """The lines of neighbours as curves; with all pairs, their barriers as a matrix too."""
        if not self.study.processes.is_main:
            return
        neighbours = [_levels(pair) for pair in pairwise(self.study.files)]
        if lines := [entry for entry in entries if tuple(entry["levels"]) in neighbours]:
            report.plot_connectivity(lines, self.study.folder / tickets.CONNECTIVITY_PLOT)
        if self.pairs == "all":
            heat_maps.plot_barriers(entries, self.study.folder / tickets.BARRIERS_PLOT)


def _levels(pair: Pair) -> tuple[int, int]:
    return pair[0].level, pair[1].level


def barrier_table(entries: Sequence[dict[str, Any]]) -> str:
    """One aligned line a pair: accuracy at both ends, the lowest on the line, and the barrier."""
    rows = [
        (
            f"{entry['levels'][0]}-{entry['levels'][1]}",
            f"{entry['test_accuracy'][-1]:.2f}",
            f"{entry['test_accuracy'][0]:.2f}",
            f"{min(entry['test_accuracy']):.2f}",
            f"{max(entry['test_loss']):.4f}",
            f"{entry['barrier']:.4f}",
        )
        for entry in entries
    ]
    return report.format_table(("levels", "first %", "second %", "lowest %", "highest loss", "barrier"), rows)
