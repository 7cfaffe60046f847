"""The ticket itself with its batch norm recalibrated: what of a pool's gain recalibration alone accounts for."""

from collections.abc import Sequence

from utils.pools import Member, Pool, Tools


def recalibrated(members: Sequence[Member], tools: Tools) -> Pool:
    """The ticket, first of `members`, with batch-norm statistics as a finished pool has them; whatever it scores."""
    ticket = members[0]
    state = tools.finish_pool(ticket.read())
    return Pool(state, tools.score(state), {ticket.level: 1.0}, is_final=True)
