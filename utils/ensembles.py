"""Ensembles (Hansen and Salamon 1990): averaged predictions of a ticket and its neighbours, which stay N networks.

They are no pools: what they gain, they pay for N times in storage and at every image. They say how much there is to
gain from the members of a pool.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from utils import tickets
from utils.evaluation import total_score
from utils.pool_tables import by_level, draw, save_table
from utils.predictions import ProbabilityCache, mean_probabilities
from utils.schemas import is_ensemble
from utils.studies import Study
from utils.tickets import TicketFile


class EnsembleRun:
    """The ensemble of each ticket of a study with its candidates.

    An entry of `pools.json` has no checkpoint, but the `networks` that run for each image, and in `weights` how many
    times the ticket's prunable weights they have together.
    """

    def __init__(self, study: Study):
        self.study, self.evaluator = study, study.evaluator
        self.cache = ProbabilityCache()
        self.weights: dict[int, int] = {}  # that remain, by level

    def run(self, levels: Sequence[int]) -> list[dict[str, Any]]:
        """Score the ensemble of each of `levels` that has none yet; returns all entries that are there, by level."""
        study, starts = self.study, [file for file in self.study.files if file.level in levels]
        with study.claimed(tickets.POOLS_JSON, pools=is_ensemble) as found:
            done = self._finished(found)
            study.check_tickets(study.with_candidates(file for file in starts if file.level not in done))
            for file in starts:
                if file.level in done:
                    study.say(f"level {file.level}: has its ensemble already")
                else:
                    done[file.level] = self._entry(file)
                if study.processes.is_main:
                    save_table(by_level(done), study.description, study.digests, study.folder)
            if study.processes.is_main:
                draw(by_level(done), study.folder)
        return by_level(done)

    def _finished(self, found: dict[str, Any]) -> dict[int, dict[str, Any]]:
        """By level, the entries of `found`, which an earlier run made, whose tickets are the same now."""
        now = {file.level: self.study.sources(*self._members(file)) for file in self.study.files}
        return {entry["level"]: entry for entry in found["pools"] if entry["tickets"] == now.get(entry["level"])}

    def _members(self, start: TicketFile) -> list[TicketFile]:
        return [start, *self.study.candidates(start)]

    def _entry(self, start: TicketFile) -> dict[str, Any]:
        ticket, score, members = self.study.read_ticket(start), self.study.score(start), self._members(start)
        validation = self._accuracy(members, "val")
        self.study.say(
            f"level {start.level}: {100 * ticket.density:.2f}% of weights remain, validation {score.accuracy:.2f}%, "
            f"as one of {len(members)} networks {validation:.2f}%"
        )
        return {
            "level": start.level,
            "density": ticket.density,
            "networks": len(members),
            "weights": sum(map(self._weights, members)) / ticket.kept,
            "members": [{"level": file.level, "weight": 1 / len(members)} for file in members],
            "steps": [],
            "ticket_val_accuracy": score.accuracy,
            "pool_val_accuracy": validation,
            "ticket_test_accuracy": self.evaluator.test(ticket.state).accuracy,
            "pool_test_accuracy": self._accuracy(members, "test"),
            "tickets": self.study.sources(*members),
        }

    def _accuracy(self, members: Sequence[TicketFile], split: str) -> float:
        """Percent, of the averaged predictions on "val" or, for reports alone, on "test"."""
        mean, labels = mean_probabilities(self._predictions(file, split) for file in members)
        correct = int((mean.argmax(1) == labels).sum())
        return total_score(correct, len(labels), 0.0, self.evaluator.processes).accuracy

    def _predictions(self, file: TicketFile, split: str) -> tuple[Tensor, Tensor]:
        """The probabilities that one network gives to this process's images of `split`, and their labels."""

        def run() -> tuple[Tensor, Tensor]:
            state = self.study.read_ticket(file).state
            return self.evaluator.probabilities(state, self.evaluator.data.eval_batches(split))

        return self.cache.get((file.level, split), run)

    def _weights(self, file: TicketFile) -> int:
        if file.level not in self.weights:
            self.weights[file.level] = self.study.read_ticket(file).kept
        return self.weights[file.level]
