"""What every method of `Lottery_pools.py` works on: the tickets of a run, what scores them, and where results go."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from utils import checkpoint, tickets
from utils.claims import claimed_folder
from utils.distributed import SINGLE, Processes
from utils.errors import UserError, warn
from utils.evaluation import Evaluator, Score
from utils.plain_data import Schema, is_whole, misfit
from utils.pools import neighbours
from utils.provenance import changed_versions
from utils.ticket_cache import TicketCache
from utils.tickets import Ticket, TicketFile


@dataclass(frozen=True)
class Study:
    """The tickets `files` of one run, of which each start has `search_num` candidates; results go into `folder`.

    At most `denser_num` candidates are denser than the start (None: as many as there are). `description` is what
    `utils.provenance.describe_run` says; `say` takes each line of the log; `ticket_tolerance` (points) is for
    `check_tickets`. Every ticket is read at once, so that a broken one stops a command at its beginning and not after
    hours.
    """

    files: Sequence[TicketFile]
    evaluator: Evaluator
    search_num: int
    seed: int
    folder: Path
    description: dict[str, Any]
    say: Callable[[str], None] = lambda line: None
    ticket_tolerance: float = math.inf
    processes: Processes = SINGLE
    denser_num: int | None = None
    _scores: dict[int, Score] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for file in self.files:
            ticket = self.read_ticket(file)
            self.say(f"  level {file.level:2d}  {100 * ticket.density:6.2f}% of weights  {file.path}")
            if self.processes.is_main and ticket.lost_its_mask:
                warn(_maskless(ticket))
        missing = sorted(set(range(self.files[-1].level)) - {file.level for file in self.files})
        if missing:
            self.say(f"  without level {' '.join(map(str, missing))}, for which there is no ticket")

    @cached_property
    def _cache(self) -> TicketCache:
        return TicketCache(self.evaluator)

    @property
    def digests(self) -> dict[int, str]:
        """The hash of each ticket (`Ticket.digest`), by level."""
        return {file.level: digest for file, digest in self._cache.digests.items()}

    def read_ticket(self, file: TicketFile) -> Ticket:
        """The ticket on the evaluator's device, for nobody to change; UserError where it is another one by now."""
        return self._cache.read(file)

    def score(self, file: TicketFile) -> Score:
        """What the ticket scores on validation images; measured once."""
        if file.level not in self._scores:
            self._scores[file.level] = self.evaluator.validate(self.read_ticket(file).state)
        return self._scores[file.level]

    def check_tickets(self, files: Iterable[TicketFile]) -> None:
        """Report those of `files` with another validation accuracy than they tell, before anything is built on them.

        A difference of up to `ticket_tolerance` points is none. Files that tell no accuracy are not measured. Reports
        too where a run of ours notes another number of training or validation images.
        """
        if self.processes.is_main and (doubt := self._doubt_about_split()):
            warn(doubt)
        for file in sorted({*files}, key=lambda file: file.level):
            ticket = self.read_ticket(file)
            if ticket.recorded_accuracy is not None:
                accuracy = self.score(file).accuracy
                if abs(accuracy - ticket.recorded_accuracy) > self.ticket_tolerance and self.processes.is_main:
                    warn(_doubt(ticket, accuracy))

    def _doubt_about_split(self) -> str | None:
        """What to warn of where the tickets' run, by its own record, kept other images for validation than these."""
        path, given = tickets.settings_path(self.files[0]), self.description["settings"].get("images")
        try:
            content = checkpoint.load_json(path)
        except UserError:  # other programs write none, and tickets can be read without
            return None
        sizes = {"train": is_whole, "val": is_whole}
        if misfit(given, sizes) or misfit(content, {"settings": {"images": sizes}}):
            return None
        noted = content["settings"]["images"]
        if all(noted[split] == given[split] for split in sizes):
            return None
        return (
            f"warning: {path} notes {noted['train']} training and {noted['val']} validation images, here are "
            f"{given['train']} and {given['val']}: pools may be chosen on images that their tickets were trained on "
            "(--val_images, --data_limit)"
        )

    def candidates(self, start: TicketFile) -> list[TicketFile]:
        """The nearest other tickets, nearest first."""
        return neighbours(self.files, start, self.search_num, self.denser_num)

    def with_candidates(self, starts: Iterable[TicketFile]) -> list[TicketFile]:
        """Each of `starts` and its candidates; a ticket may come more than once."""
        return [file for start in starts for file in (start, *self.candidates(start))]

    def sources(self, *files: TicketFile) -> list[list]:
        """Level and digest of each of `files`: what a result from them depends on."""
        return [[file.level, self.digests[file.level]] for file in files]

    @contextlib.contextmanager
    def claimed(self, name: str, **items: Schema) -> Iterator[dict[str, Any]]:
        """`utils.claims.claimed_folder` for the file of this name; says what has changed since it was written."""
        path, started = self.folder / name, tickets.holds_search(self.folder)
        with claimed_folder(path, self.description, self.processes, started, renews=False, **items) as found:
            changes = changed_versions(found.get("versions"), self.description["versions"])
            if changes and any(found[part] for part in items):
                self.say(f"what is there already was made with {changes}")
            yield found


def _maskless(ticket: Ticket) -> str:
    return (
        f"warning: {ticket.path} has no mask and is taken for a dense network, and so will be its pool, though "
        f"{100 * ticket.zero_share:.2f}% of its weights are zero: was it exported? Give the ticket itself"
    )


def _doubt(ticket: Ticket, measured: float) -> str:
    return (
        f"warning: {ticket.path} records a validation accuracy of {ticket.recorded_accuracy:.2f}% and has "
        f"{measured:.2f}% here: are these its images (--dataset, --data, --val_images), and is the file as it was? "
        "(--ticket_tolerance)"
    )
