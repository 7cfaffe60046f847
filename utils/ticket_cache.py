"""Tickets and pools in memory, as far as there is room: those that do not fit are read again each time."""

from utils.errors import UserError
from utils.evaluation import Evaluator
from utils.tickets import Ticket, TicketFile

# A search reads each ticket as a candidate of every other. Reading one from its file takes as long as trying it on a
# GPU, so tickets are kept in memory, up to this many bytes in all: the paper's 19 of VGG-16 take 1.4 GB.
KEPT_BYTES = 2 * 10**9


class TicketCache:
    """Reads networks onto the device of `evaluator`; `digests` are those of all that have been read, by their files."""

    def __init__(self, evaluator: Evaluator):
        self.evaluator = evaluator
        self.digests: dict[TicketFile, str] = {}
        self._kept: dict[TicketFile, Ticket] = {}

    def read(self, file: TicketFile) -> Ticket:
        """The ticket in `file`, which the caller must not change.

        UserError where it does not fit the evaluator's network, or has been replaced since it was first read.
        """
        if file in self._kept:
            return self._kept[file]
        ticket = self.evaluator.read_ticket(file)
        digest = ticket.digest()
        if self.digests.setdefault(file, digest) != digest:
            raise UserError(f"{file.path} was replaced while it was in use: start again when that run is done")
        if sum(kept.nbytes for kept in (*self._kept.values(), ticket)) <= KEPT_BYTES:
            self._kept[file] = ticket
        return ticket
