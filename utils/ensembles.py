"""Ensembles (Hansen and Salamon 1990): averaged predictions of a ticket and its neighbours, which stay N networks.

They are no pools: what they gain, they pay for N times in storage and at every image. They say how much there is to
gain from the members of a pool.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from utils import checkpoint, tickets
from utils.errors import UserError
from utils.evaluation import Evaluator, total_score
from utils.plain_data import misfit
from utils.pool_tables import save_table
from utils.pools import neighbours
from utils.provenance import claimed_folder
from utils.records import is_ensemble
from utils.tickets import TicketFile


def averaged(answers: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The mean of several networks' probabilities (images × classes) and the labels, which each of `answers` has too.

    Two of them are in memory at a time.
    """
    answers = iter(answers)
    mean, labels = next(answers)
    for number, (probabilities, _) in enumerate(answers, start=2):
        mean = mean + (probabilities - mean) / number
    return mean, labels


class EnsembleRun:
    """The ensemble of each ticket of `files` with its `search_num` nearest; its numbers go into `folder`.

    An entry of `pools.json` has no checkpoint, but the `networks` that run for each image, and in `weights` how many
    times the ticket's prunable weights they have together. The arguments are as for `utils.connectivity`.
    """

    def __init__(
        self,
        files: Sequence[TicketFile],
        evaluator: Evaluator,
        search_num: int,
        folder: Path,
        description: dict[str, Any],
        say: Callable[[str], None],
        digests: Mapping[int, str],
        check_tickets: Callable[[], dict[int, float]],
    ):
        self.files, self.evaluator, self.search_num, self.digests = files, evaluator, search_num, digests
        self.folder, self.description, self.say, self.check_tickets = folder, description, say, check_tickets

    def run(self, levels: Sequence[int]) -> list[dict[str, Any]]:
        """Score the ensemble of each of `levels` that has none yet; returns all entries that are there, by level."""
        path, processes = self.folder / tickets.POOLS_JSON, self.evaluator.processes
        with claimed_folder(path, self.description, processes, pools=[]) as found:
            if processes.is_main:
                checkpoint.remove_leftovers(self.folder)
            return self._run(levels, self._finished(found, path))

    def _run(self, levels: Sequence[int], done: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
        starts = [file for file in self.files if file.level in levels]
        accuracies = self.check_tickets() if any(file.level not in done for file in starts) else {}
        for file in starts:
            if file.level in done:
                self.say(f"level {file.level}: has its ensemble already")
            else:
                done[file.level] = self._entry(file, accuracies.get(file.level))
            if self.evaluator.processes.is_main:
                save_table([done[level] for level in sorted(done)], self.description, self.digests, self.folder)
        return [done[level] for level in sorted(done)]

    def _finished(self, found: dict[str, Any], path: Path) -> dict[int, dict[str, Any]]:
        """By level, the entries of `found` (which `path` holds) whose tickets are the same now."""
        if odd := misfit(found, {"pools": [is_ensemble]}):
            raise UserError(f"{path} is damaged ({odd}): move it away")
        now = {file.level: self._tickets(file) for file in self.files}
        return {entry["level"]: entry for entry in found["pools"] if entry["tickets"] == now.get(entry["level"])}

    def _members(self, start: TicketFile) -> list[TicketFile]:
        return [start, *neighbours(self.files, start, self.search_num)]

    def _tickets(self, start: TicketFile) -> list[list]:
        return [[file.level, self.digests[file.level]] for file in self._members(start)]

    def _entry(self, start: TicketFile, ticket_score: float | None) -> dict[str, Any]:
        ticket, members = self.evaluator.read_ticket(start), self._members(start)
        if ticket_score is None:
            ticket_score = self.evaluator.validate(ticket.state).accuracy
        kept = [self.evaluator.read_ticket(file).kept for file in members]
        validation = self._accuracy(members, "val")
        self.say(
            f"level {start.level}: {100 * ticket.density:.2f}% of weights remain, validation {ticket_score:.2f}%, "
            f"as one of {len(members)} networks {validation:.2f}%"
        )
        return {
            "level": start.level,
            "density": ticket.density,
            "networks": len(members),
            "weights": sum(kept) / ticket.kept,
            "members": [{"level": file.level, "weight": 1 / len(members)} for file in members],
            "steps": [],
            "ticket_val_accuracy": ticket_score,
            "pool_val_accuracy": validation,
            "ticket_test_accuracy": self.evaluator.test(ticket.state).accuracy,
            "pool_test_accuracy": self._accuracy(members, "test"),
            "tickets": self._tickets(start),
        }

    def _accuracy(self, members: Sequence[TicketFile], split: str) -> float:
        """Percent, of the averaged predictions on "val" or, for reports alone, on "test"."""
        read = self.evaluator.read_ticket
        mean, labels = averaged(self.evaluator.probabilities(read(file).state, split) for file in members)
        correct = int((mean.argmax(1) == labels).sum())
        return total_score(correct, len(labels), 0.0, self.evaluator.processes).accuracy
