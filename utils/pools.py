"""Lottery Pools (Yin et al. 2023, Algorithm 2): the search that turns one ticket and its neighbours into a pool.

Average, SWA and EMA are the same search with other coefficients and another rule of acceptance. Methods that are no
such search (soups, learned weights) have modules of their own; each is a `PoolFunction` of `Member`s and `Tools`.
Everything here works on state dicts and a few callables, which alone know images and devices, so that it pools whatever
has a state dict.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from utils.coefficients import CoefficientSearch, grid
from utils.interpolation import interpolate, mean
from utils.pruning import State

PAPER_COEFFICIENTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
T = TypeVar("T")


@dataclass(frozen=True)
class SearchRule:
    """How candidates enter a pool.

    `coefficients(k)` are the shares (0..1) that the pool may keep when its k-th candidate (from 1) is tried;
    `accept_all` takes each candidate whatever it scores; `choose` says which of the coefficients get a score. The
    others are departures from the paper: a candidate must raise the score by `margin`, in the score's unit, all
    candidates are tried `passes` times, and at the end the mean of the members is tried (`even_out`: left to the caller
    of `search`, who has the members, and `offer_mean` for it).
    """

    coefficients: Callable[[int], Sequence[float]]
    accept_all: bool = False
    choose: CoefficientSearch = grid
    margin: float = 0.0
    passes: int = 1
    even_out: bool = False


def greedy(
    coefficients: Sequence[float] = PAPER_COEFFICIENTS, choose: CoefficientSearch = grid, **departures: Any
) -> SearchRule:
    """Lottery Pools: the best coefficient for each candidate, accepted unless the score falls. `[0.5]` is averaging.

    `departures` from the paper are those of `SearchRule`.
    """
    return SearchRule(lambda _: coefficients, choose=choose, **departures)


def swa() -> SearchRule:
    """The running mean of the ticket and all candidates, as in stochastic weight averaging (Izmailov et al. 2018)."""
    return SearchRule(lambda number: [number / (number + 1)], accept_all=True)


def ema(decay: float) -> SearchRule:
    """The exponential moving average over the candidates: the pool keeps `decay` (0..1) at each."""
    return SearchRule(lambda _: [decay], accept_all=True)


@dataclass
class Step:
    """One candidate tried: the score of each coefficient, the best coefficient, and whether it became the pool.

    Scores are those of `Pool`. A coefficient that the search left out has none (None).
    """

    candidate: int
    coefficients: list[float]
    scores: list[float | None]
    coefficient: float
    accepted: bool


@dataclass
class Pool:
    """The pool so far, its score, and how it came about.

    The score is what it is chosen by, higher is better: percent, or negative nats with `--select_by loss`. `shares`
    maps each member's level to its weight in the pool, 0 to 1. `is_final` says that `Tools.finish_pool` has been
    applied or has nothing to do, so that batch norm need not be recalibrated once more.
    """

    state: State
    score: float
    shares: dict[int, float]
    steps: list[Step] = field(default_factory=list)
    is_final: bool = False

    def is_ticket(self, level: int) -> bool:
        """Whether this is the ticket of this level, with nothing ever accepted into it.

        One accepted with the coefficient 1 makes this False: it leaves the weights alone, but not the batch norm.
        """
        return {*self.shares} == {level} and not any(step.accepted for step in self.steps)

    def shares_with(self, level: int, coefficient: float) -> dict[int, float]:
        """The members' shares if the pool keeps `coefficient` and the candidate of this level has the rest."""
        shares = {member: share * coefficient for member, share in self.shares.items()}
        shares[level] = shares.get(level, 0.0) + 1 - coefficient
        return {member: share for member, share in shares.items() if share > 0}

    def add(self, step: Step, trial: State, score: float, shares: dict[int, float]) -> None:
        """Note what was tried: if that was accepted, `trial` with its score and shares is the pool from now on."""
        self.steps.append(step)
        if step.accepted:
            self.state, self.score, self.shares = trial, score, shares

    def offer(self, level: int, coefficient: float, trial: State, score: float, shares: dict[int, float]) -> bool:
        """`add` the one trial of a candidate: it becomes the pool if the score does not fall. Says whether it did."""
        accepted = score >= self.score
        self.add(Step(level, [coefficient], [score], coefficient, accepted), trial, score, shares)
        return accepted


@dataclass(frozen=True)
class Member:
    """A ticket that may become part of a pool: its level, and what reads it and measures its own score."""

    level: int
    read: Callable[[], State]
    score: Callable[[], float]


@dataclass(frozen=True)
class Tools:
    """What methods other than `search` make their pools with; `finish`, `score` and `after_step` are as for `search`.

    `loss_gradient` gives the validation loss (nats) of a state dict and its gradient by parameter name; `say` takes a
    line of the log; `finish_pool` prunes and recalibrates as `finish` does, but on the images that finished pools get.
    """

    finish: Callable[[State, int], State]
    score: Callable[[State], float]
    loss_gradient: Callable[[State], tuple[float, State]]
    after_step: Callable[[Pool], None] = lambda pool: None
    say: Callable[[str], None] = lambda line: None
    finish_pool: Callable[[State], State] = lambda state: state


PoolFunction = Callable[[Sequence[Member], Tools], Pool]  # a pool of members, of which the ticket is the first


def ticket_alone(ticket: Member) -> Pool:
    return Pool(ticket.read(), ticket.score(), {ticket.level: 1.0})


def neighbours(levels: Sequence[T], start: T, search_num: int, denser_num: int | None = None) -> list[T]:
    """The first `search_num` others by nearness to `start`: one before, one after, two before, two after, ...

    Nearness is by position in `levels`, as in the published script: where a level is missing, the next one takes its
    place. Of those before `start`, the denser ones, only the nearest `denser_num` take part (None: all).
    """
    here = levels.index(start)
    farthest = here if denser_num is None else denser_num
    offsets = (offset for distance in range(1, len(levels)) for offset in (-distance, distance) if offset >= -farthest)
    return [levels[here + offset] for offset in offsets if 0 <= here + offset < len(levels)][:search_num]


def search(
    pool: Pool,
    candidates: Iterable[tuple[int, Callable[[], State]]],
    rule: SearchRule,
    finish: Callable[[State, int], State],
    score: Callable[[State], float],
    after_step: Callable[[Pool], None] = lambda pool: None,
    each: Callable[[Callable, Iterable], Iterable] = map,
) -> Pool:
    """Try the candidates in their order on `pool`, which holds the start and its score; returns it, grown.

    Args:
        candidates: (level, function that reads its state), one in memory at a time.
        finish: makes an interpolated state a network of its own (prunes it to the ticket's density, recalibrates its
            batch norm). It gets the candidate's number too, so that all coefficients of one see the same images.
        score: what counts as better; higher is. A finite number, and never by test images.
        after_step: called after each candidate, to report and to save. A pool saved then goes on where it stopped:
            candidates that its steps have are not tried again.
        each: calls a function with each of several items, as `map` does; it may do so at the same time.
    """
    for number, (level, read) in enumerate([*candidates] * rule.passes, start=1):
        if number <= len(pool.steps):
            continue
        coefficients = list(rule.coefficients(number))
        trials = _Trials(pool.state, read(), lambda state, number=number: finish(state, number), score)
        scores = rule.choose(coefficients, lambda chosen, trials=trials: list(each(trials.try_one, chosen)))
        # A whole margin may come out a rounding short of itself.
        accepted = rule.accept_all or trials.best_score >= pool.score + rule.margin * (1 - 1e-9)
        tried = [scores.get(coefficient) for coefficient in coefficients]
        step = Step(level, coefficients, tried, trials.coefficient, accepted)
        pool.add(step, trials.best, trials.best_score, pool.shares_with(level, trials.coefficient))
        after_step(pool)
    return pool


def offer_mean(
    pool: Pool,
    start: int,
    members: Mapping[int, Callable[[], State]],
    finish: Callable[[State], State],
    score: Callable[[State], float],
) -> None:
    """Let the plain mean of `members`, finished, become the pool of the level `start` if its score does not fall.

    `members` maps levels to functions that read their states. The step that records this can be told from all others:
    its candidate is the start itself, and its coefficient 0, since nothing is kept of the pool as it was.
    """
    trial = finish(mean(read() for read in members.values()))
    pool.offer(start, 0.0, trial, score(trial), dict.fromkeys(members, 1 / len(members)))


class _Trials:
    """Interpolations of pool and candidate, of which only the best finished one is kept.

    Of equals it is the one that keeps most of the pool, as in the published script.
    """

    def __init__(
        self,
        pool: State,
        candidate: State,
        finish: Callable[[State], State],
        score: Callable[[State], float],
    ):
        self.pool, self.candidate = pool, candidate
        self.finish, self.score = finish, score
        self.best, self.best_score, self.coefficient = pool, float("-inf"), 0.0
        self._lock = threading.Lock()  # several may be tried at the same time

    def try_one(self, coefficient: float) -> float:
        trial = self.finish(interpolate(self.pool, self.candidate, coefficient))
        score = self.score(trial)
        with self._lock:
            if (score, coefficient) > (self.best_score, self.coefficient):
                self.best, self.best_score, self.coefficient = trial, score, coefficient
        return score
