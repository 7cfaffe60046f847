"""Linear mode connectivity (Frankle et al. 2020): accuracy and loss along the line between two tickets."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from utils import checkpoint, heat_maps, report, tickets
from utils.errors import UserError
from utils.evaluation import Evaluator, Score
from utils.interpolation import interpolate
from utils.plain_data import misfit
from utils.provenance import claimed_folder
from utils.pruning import State
from utils.records import is_line
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
    """The highest that the loss rises above the straight line between its values at both ends; 0 if it never does."""
    first, last = losses[0], losses[-1]
    straight = (first + (last - first) * coefficient for coefficient in coefficients)
    rises = [loss - level for loss, level in zip(losses, straight, strict=True)]
    return max([0.0, *rises[1:-1]])  # the ends are on the line, whatever rounding says


class ConnectivityRun:
    """The line between neighbouring levels of `files`, or between any two (`pairs`, of PAIRS), into `folder`.

    Batch norm is recalibrated at every point, at both ends too, so that the curve shows what the weights do alone; an
    end may therefore differ a little from its ticket, which has the statistics of its training. Nothing is pruned.
    `description` is what `utils.provenance.describe_run` says of this run; `say` takes each line of the log;
    `check_tickets` is called before anything is built on them.
    """

    def __init__(
        self,
        files: Sequence[TicketFile],
        evaluator: Evaluator,
        seed: int,
        folder: Path,
        description: dict[str, Any],
        say: Callable[[str], None],
        digests: Mapping[int, str],
        check_tickets: Callable[[], Any],
        pairs: str = "neighbours",
    ):
        self.pairs = pairs
        self.files, self.evaluator, self.seed, self.digests = files, evaluator, seed, digests
        self.folder, self.description, self.say, self.check_tickets = folder, description, say, check_tickets

    def run(self, coefficients: Sequence[float], levels: Sequence[int]) -> list[dict[str, Any]]:
        """Walk every pair not walked yet: neighbours whose denser ticket is of `levels`, or all pairs among `levels`.

        Returns the entries of `connectivity.json`: all pairs that are there by then.
        """
        if len(self.files) < 2:
            raise UserError("a line needs two tickets: --checkpoint names a folder with one")
        path, processes = self.folder / tickets.CONNECTIVITY_JSON, self.evaluator.processes
        with claimed_folder(path, self.description, processes, paths=[]) as found:
            if processes.is_main:
                checkpoint.remove_leftovers(self.folder)
            return self._run(coefficients, levels, self._finished(found, path))

    def _run(
        self, coefficients: Sequence[float], levels: Sequence[int], done: dict[tuple[int, int], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        wanted = {_levels(pair): pair for pair in self._wanted(levels)}
        if wanted.keys() - done.keys():
            self.check_tickets()
        for key, pair in wanted.items():
            if key not in done:
                done[key] = self._walk_pair(*pair, coefficients)
            self.say(f"levels {key[0]} and {key[1]}: barrier {done[key]['barrier']:.4f}")
            self._save([done[key] for key in sorted(done)])
        entries = [done[key] for key in sorted(done)]
        if entries and self.evaluator.processes.is_main:
            self._draw(entries)
        return entries

    def _wanted(self, levels: Sequence[int]) -> list[Pair]:
        """With neighbours, a level stands for the line to the next one; of all pairs, for those among the levels."""
        return [
            (first, second)
            for first, second in PAIRS[self.pairs](self.files)
            if first.level in levels and (self.pairs == "neighbours" or second.level in levels)
        ]

    def _finished(self, found: dict[str, Any], path: Path) -> dict[tuple[int, int], dict[str, Any]]:
        """By their levels, the pairs that an earlier run walked and whose tickets are the same.

        They are those in `found`, which `path` holds.
        """
        if odd := misfit(found, {"paths": [is_line]}):
            raise UserError(f"{path} is damaged ({odd}): move it away")
        known = {_levels(pair): self._tickets(*pair) for pair in combinations(self.files, 2)}
        entries = {(entry["levels"][0], entry["levels"][1]): entry for entry in found["paths"]}
        return {key: entry for key, entry in entries.items() if key in known and entry["tickets"] == known[key]}

    def _tickets(self, first: TicketFile, second: TicketFile) -> list[list]:
        return [[file.level, self.digests[file.level]] for file in (first, second)]

    def _walk_pair(self, first: TicketFile, second: TicketFile, coefficients: Sequence[float]) -> dict[str, Any]:
        def score(state: State) -> Score:
            state = self.evaluator.recalibrate(state, self.seed, "connectivity", first.level)
            return self.evaluator.test(state)

        states = (self.evaluator.read_ticket(file).state for file in (first, second))
        levels = {"levels": [first.level, second.level], "tickets": self._tickets(first, second)}
        return {**levels, **walk(*states, coefficients, score)}

    def _save(self, entries: list[dict[str, Any]]) -> None:
        if not self.evaluator.processes.is_main:
            return
        checkpoint.save_json({**self.description, "paths": entries}, self.folder / tickets.CONNECTIVITY_JSON)
        columns = ("coefficients", "test_accuracy", "test_loss")
        rows = [
            [*entry["levels"], *values, entry["barrier"]]
            for entry in entries
            for values in zip(*(entry[column] for column in columns), strict=True)
        ]
        header = ("level", "other_level", "coefficient", *columns[1:], "barrier")
        report.write_csv(header, rows, self.folder / tickets.CONNECTIVITY_CSV)

    def _draw(self, entries: list[dict[str, Any]]) -> None:
        """The lines of neighbours as curves; with all pairs, their barriers as a matrix too."""
        neighbours = [_levels(pair) for pair in pairwise(self.files)]
        if lines := [entry for entry in entries if tuple(entry["levels"]) in neighbours]:
            report.plot_connectivity(lines, self.folder / tickets.CONNECTIVITY_PLOT)
        if self.pairs == "all":
            heat_maps.plot_barriers(entries, self.folder / tickets.BARRIERS_PLOT)


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
