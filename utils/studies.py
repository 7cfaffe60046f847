"""What every method of `Lottery_pools.py` works on: the tickets of a run, what scores them, and where results go."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.distributed import SINGLE, Processes
from utils.errors import UserError
from utils.evaluation import Evaluator, Score
from utils.pools import neighbours
from utils.provenance import claimed_folder
from utils.tickets import Ticket, TicketFile


@dataclass(frozen=True)
class Study:
    """The tickets `files` of one run, of which each start has `search_num` candidates; results go into `folder`.

    At most `denser_num` candidates are denser than the start (None: as many as there are).
    `description` is what `utils.provenance.describe_run` says; `say` takes each line of the log; `digests` tells by
    level whether a ticket is the one that an earlier command saw; `check_tickets` is called before anything is built on
    them and gives scores on validation images, by level.
    """

    files: Sequence[TicketFile]
    evaluator: Evaluator
    search_num: int
    seed: int
    folder: Path
    description: dict[str, Any]
    digests: Mapping[int, str]
    say: Callable[[str], None] = lambda line: None
    check_tickets: Callable[[], dict[int, Score]] = dict
    processes: Processes = SINGLE
    denser_num: int | None = None

    def read_ticket(self, file: TicketFile) -> Ticket:
        """The ticket on the evaluator's device. UserError where it is another one by now than in `digests`."""
        ticket = self.evaluator.read_ticket(file)
        if ticket.digest() != self.digests[file.level]:
            raise UserError(f"{file.path} was replaced while it was in use: start again when that run is done")
        return ticket

    def candidates(self, start: TicketFile) -> list[TicketFile]:
        """The nearest other tickets, nearest first."""
        return neighbours(self.files, start, self.search_num, self.denser_num)

    def sources(self, *files: TicketFile) -> list[list]:
        """Level and digest of each of `files`: what a result from them depends on."""
        return [[file.level, self.digests[file.level]] for file in files]

    def claimed(self, name: str, **lists: list) -> AbstractContextManager[dict[str, Any]]:
        """`utils.provenance.claimed_folder` for the file of this name."""
        return claimed_folder(self.folder / name, self.description, self.processes, **lists)
