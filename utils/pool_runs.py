"""One method over the tickets of one run: from each of them a pool, if it has none yet."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from utils import tickets
from utils.evaluation import SELECTIONS
from utils.plain_data import is_plain
from utils.pool_files import PoolFiles
from utils.pool_tables import by_level
from utils.pools import Member, Pool, PoolFunction, SearchRule, Step, Tools, offer_mean, search, ticket_alone
from utils.progress import progress_bar
from utils.pruning import State
from utils.studies import Study
from utils.tickets import Ticket, TicketFile

# What `--order` names: the candidates, which come nearest first, as they are tried.
ORDERS: dict[str, Callable[[list[Member]], list[Member]]] = {
    "nearest": lambda candidates: candidates,
    "best": lambda candidates: sorted(candidates, key=lambda member: -member.score()),  # the nearer of equals first
}


class PoolRun:
    """Pools from the tickets of a study by one `method`.

    Several processes share each start if the evaluator splits the images among them, or else take a start each.
    `select_by` names what a network is judged by (of `utils.evaluation.SELECTIONS`), `order` in which order candidates
    are tried (of ORDERS). A finished pool is recalibrated once more on `final_bn_images` training images (0: all), if
    that is given. An unfinished one is saved every `save_interval` seconds, between candidates.
    """

    def __init__(
        self,
        study: Study,
        method: SearchRule | PoolFunction,
        select_by: str = "accuracy",
        order: str = "nearest",
        final_bn_images: int | None = None,
        save_interval: float = 0.0,
    ):
        self.study, self.evaluator, self.method = study, study.evaluator, method
        self.select_by, self.order, self.final_bn_images = select_by, order, final_bn_images
        self.save_interval, self._saved_at = save_interval, time.monotonic()
        self.select = SELECTIONS[select_by]
        self.seed, self.processes, self.say = study.seed, study.processes, study.say
        self.in_step = study.evaluator.processes.world_size > 1  # all do the same, and the main one decides and writes
        self.files = PoolFiles(study)
        self.entries: dict[int, dict[str, Any]] = {}

    def run(self, levels: Sequence[int]) -> list[dict[str, Any]]:
        """Search from each of `levels` that has no pool yet; returns the entries of `pools.json` by level."""
        starts = [file for file in self.study.files if file.level in levels]
        with self.study.claimed(tickets.POOLS_JSON, pools=is_plain):
            self.entries = self.processes.from_main(lambda: self.files.read_entries(levels))
            if missing := [file for file in starts if file.level not in self.entries]:
                self.files.check_space(len(missing))
                self.study.check_tickets(self.study.with_candidates(missing))
            meet = self.processes.meeting()
            for file in starts if self.in_step else starts[self.processes.rank :: self.processes.world_size]:
                if file.level in self.entries:
                    self.say(f"level {file.level}: has its pool already")
                    self.files.remove_unfinished(file)  # a kill may have come between the pool and this
                else:
                    self._pool_ticket(file)
                self.files.save_table(self.entries)
            meet()
            for found in self.processes.gather_objects(self.entries):
                self.entries.update(found)
            self.files.save_table(self.entries)
            self.files.draw(self.entries)
        return by_level(self.entries)

    def _pool_ticket(self, file: TicketFile) -> None:
        """Search from one ticket and save its pool."""
        ticket = self.study.read_ticket(file)
        score = self.study.score(file)
        loss = f", loss {score.loss:.4f}" if self.select_by == "loss" else ""
        self.say(
            f"level {file.level}: {100 * ticket.density:.2f}% of weights remain, validation {score.accuracy:.2f}%{loss}"
        )
        if isinstance(self.method, SearchRule):
            pool = self._search(file, ticket)
        else:
            pool = self.method(self._members(file), self._tools(ticket))
        if self.final_bn_images is not None and not (pool.is_final or pool.is_ticket(file.level)):
            pool.state = self._finish_pool(ticket)(pool.state)
            pool.score = self.select(self.evaluator.validate(pool.state))
        entry = self._entry(ticket, score.accuracy, pool)
        self.entries[file.level] = entry
        self.files.draw_search(entry, self.select_by)  # before the pool: a start that has one is done
        self.files.save(file, ticket, pool, entry)
        self.files.remove_unfinished(file)

    def _members(self, start: TicketFile) -> list[Member]:
        """The ticket and its candidates, nearest first."""

        def member(file: TicketFile) -> Member:
            return Member(
                file.level, lambda: self.study.read_ticket(file).state, lambda: self.select(self.study.score(file))
            )

        return [member(file) for file in (start, *self.study.candidates(start))]

    def _tools(self, ticket: Ticket) -> Tools:
        """What a method other than the search works with. It saves no unfinished pool: interrupted, it begins anew."""
        return Tools(
            finish=self._finish(ticket),
            score=lambda state: self.select(self.evaluator.validate(state)),
            loss_gradient=self.evaluator.loss_gradient,
            after_step=lambda pool: self.say(_step_line(pool.steps[-1], ticket.level, self.select_by)),
            say=self.say,
            finish_pool=self._finish_pool(ticket),
        )

    def _search(self, file: TicketFile, ticket: Ticket) -> Pool:
        start, *candidates = self._members(file)
        candidates = ORDERS[self.order](candidates)
        tried = [candidate.level for candidate in candidates] * self.method.passes
        plan = tried + [start.level] * self.method.even_out
        pool = self.files.read_unfinished(file, ticket, plan) or ticket_alone(start)
        left = range(len(pool.steps) + 1, len(tried) + 1)
        trials = sum(len(self.method.coefficients(number)) for number in left)
        with progress_bar(self.processes, f"level {ticket.level}", trials, "network") as bar:

            def score(state: State) -> float:
                bar.update()
                return self.select(self.evaluator.validate(state))

            def after_step(pool: Pool) -> None:
                bar.clear()
                bar.total -= pool.steps[-1].scores.count(None)
                self.say(_step_line(pool.steps[-1], ticket.level, self.select_by))
                if time.monotonic() - self._saved_at >= self.save_interval:
                    self.files.save_unfinished(file, pool)
                    self._saved_at = time.monotonic()

            read = [(member.level, member.read) for member in candidates]
            finish = self._finish(ticket)
            pool = search(pool, read, self.method, finish, score, after_step, self.evaluator.workers.each)
            if len(pool.steps) < len(plan) and len(pool.shares) > 1:
                # Of the tickets that the search took, however little of them.
                members = {member.level: member.read for member in (start, *candidates) if member.level in pool.shares}
                offer_mean(pool, start.level, members, lambda state: finish(state, len(plan)), score)
                after_step(pool)
            return pool

    def _finish(self, ticket: Ticket) -> Callable[[State, int], State]:
        """A function that prunes and recalibrates a mixed state, given that and its candidate's number (from 1)."""
        return lambda state, number: self.evaluator.prune_and_recalibrate(
            ticket, state, self.seed, "recalibrate", ticket.level, number
        )

    def _finish_pool(self, ticket: Ticket) -> Callable[[State], State]:
        """The same for a pool that is done: on `final_bn_images`.

        Few images are enough to choose by, but leave their noise in the statistics that the pool is used with.
        """
        return lambda state: self.evaluator.prune_and_recalibrate(
            ticket, state, self.seed, "recalibrate", ticket.level, "finished", bn_images=self.final_bn_images
        )

    def _entry(self, ticket: Ticket, ticket_accuracy: float, pool: Pool) -> dict[str, Any]:
        by_accuracy = self.select_by == "accuracy"
        pool_accuracy = pool.score if by_accuracy else self.evaluator.validate(pool.state).accuracy
        return {
            "level": ticket.level,
            "density": ticket.density,
            "members": [{"level": level, "weight": weight} for level, weight in pool.shares.items()],
            "steps": [asdict(step) for step in pool.steps],
            "ticket_val_accuracy": ticket_accuracy,
            "pool_val_accuracy": pool_accuracy,
            "ticket_test_accuracy": self.evaluator.test(ticket.state).accuracy,
            "pool_test_accuracy": self.evaluator.test(pool.state).accuracy,
            "checkpoint": tickets.pool_path(self.study.folder, ticket.level).name,
        }


def _step_line(step: Step, start: int, select_by: str) -> str:
    """What one candidate of the ticket `start` scored with each coefficient, and what became of it."""
    write = {"accuracy": lambda score: f"{score:.2f}", "loss": lambda score: f"{-score:.4f}"}[select_by]
    tried = [pair for pair in zip(step.coefficients, step.scores, strict=True) if pair[1] is not None]
    scores = "  ".join(f"{coefficient:g}: {write(score)}" for coefficient, score in tried)
    verdict = f"accepted at {step.coefficient:g}" if step.accepted else "rejected, the pool stays"
    is_mean = step.candidate == start and step.coefficients == [0.0]
    candidate = "the mean of the members" if is_mean else f"level {step.candidate:2d}"
    return f"  with {candidate}: {verdict}  ({scores})"
