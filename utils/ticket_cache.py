"""Tickets and pools in memory, as far as there is room: those that do not fit are read again each time."""

from utils.errors import UserError
from utils.evaluation import Evaluator
from utils.tickets import Ticket, TicketFile

# A search reads each ticket as a candidate of each other one. From a file that takes as long as a GPU takes to try it,
# so that all are kept which fit into these bytes, and memory is bounded whatever the number of tickets. The paper's 19
# of VGG-16 are 1.4 GB.
KEPT_BYTES = 2 * 10**9


class TicketCache:
    """Reads networks onto the device of `evaluator`; `digests` are those of all that have been read, by their files."""

    def __init__(self, evaluator: Evaluator):
        self.evaluator = evaluator
        self.digests: dict[TicketFile, str] = {}
        self._kept: dict[TicketFile, Ticket] = {}

    def read(self, file: TicketFile) -> Ticket:
        """What is in `file`, for nobody to change; UserError where it is none of the evaluator's network.

        Or where it is another one than it was the last time.
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
