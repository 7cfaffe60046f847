"""Model soups (Wortsman et al. 2022): plain means of the weights of a ticket and its neighbours.

They are pruned to the ticket's density and recalibrated like any pool, but always from the mean of the whole tickets:
nothing that an earlier mean lost to pruning is lost to a later one.
"""

from collections.abc import Sequence

from utils.interpolation import interpolate, mean
from utils.pools import Member, Pool, Tools, greedy, offer_mean, search, ticket_alone
from utils.pruning import State


def uniform_soup(members: Sequence[Member], tools: Tools) -> Pool:
    """The mean of all `members` (the ticket first), finished once at the end; accepted whatever it scores."""
    if len(members) == 1:
        return ticket_alone(members[0])
    soup = tools.finish(mean(member.read() for member in members), 1)
    return Pool(soup, tools.score(soup), {member.level: 1 / len(members) for member in members})


def greedy_soup(members: Sequence[Member], tools: Tools) -> Pool:
    """The mean of those `members` (the ticket first, then nearest first) that do not lower its validation score.

    They are tried by falling score, the nearer of equals first. The paper's soup begins with the best one. Here the
    best one has to be pruned to the ticket's density: if it then scores less than the ticket, the soup begins with the
    ticket, which has that density already. So a soup never scores less on validation images than its ticket, as the
    paper's never scores less than its best ingredient.
    """
    pool = ticket_alone(members[0])
    soup, count = pool.state, 1  # of whole tickets, not pruned
    order = sorted(members, key=lambda member: -member.score())  # stable: the nearer of equals stays first
    if order[0] is not members[0]:
        best = order[0].read()
        if _try(pool, order[0].level, best, 0.0, tools):
            soup = best
    for member in order:
        if member.level not in pool.shares:
            coefficient = count / (count + 1)
            wider = interpolate(soup, member.read(), coefficient)
            if _try(pool, member.level, wider, coefficient, tools):
                soup, count = wider, count + 1
    return pool


def average_or_soup(members: Sequence[Member], tools: Tools) -> Pool:
    """Averaging (the greedy search with the coefficient 0.5), or the mean of all `members` if it scores no less.

    The mean is better where tickets are about equally good, and averaging, which may reject candidates, where some are
    worse by points. The score that averaging ends with is the highest of several, in part by the luck of the images
    that its batch norm was recalibrated on. So before the two are compared, both are recalibrated as finished pools
    (`Tools.finish_pool`): for CIFAR on images drawn anew, for ImageNet on the same ones, `--final_bn_images` of them.
    """
    ticket, *candidates = members
    read = [(candidate.level, candidate.read) for candidate in candidates]
    pool = search(ticket_alone(ticket), read, greedy([0.5]), tools.finish, tools.score, tools.after_step)
    if not pool.is_ticket(ticket.level):
        pool.state = tools.finish_pool(pool.state)
        pool.score = tools.score(pool.state)
    if candidates:
        whole = {member.level: member.read for member in members}
        offer_mean(pool, ticket.level, whole, tools.finish_pool, tools.score)
        tools.after_step(pool)
    pool.is_final = True
    return pool


def _try(pool: Pool, level: int, soup: State, coefficient: float, tools: Tools) -> bool:
    """Let `soup`, in which the pool so far has the share `coefficient`, become the pool if its score does not fall."""
    trial = tools.finish(soup, len(pool.steps) + 1)
    accepted = pool.offer(level, coefficient, trial, tools.score(trial), pool.shares_with(level, coefficient))
    tools.after_step(pool)
    return accepted
