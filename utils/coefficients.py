"""Which coefficients of a candidate get a score: all of them, or those few that lead to the best one."""

from collections.abc import Callable, Sequence

ScoreAll = Callable[[Sequence[float]], list[float]]
CoefficientSearch = Callable[[Sequence[float], ScoreAll], dict[float, float]]


def grid(coefficients: Sequence[float], score_all: ScoreAll) -> dict[float, float]:
    """The score of every coefficient, as the paper's Algorithm 2 has it."""
    return dict(zip(coefficients, score_all(coefficients), strict=True))


def hump(coefficients: Sequence[float], score_all: ScoreAll) -> dict[float, float]:
    """The scores of every third coefficient by size, then of the two next to the best of these.

    It finds the best of the grid with half of the scores where accuracy over the coefficient rises to one hump and
    falls; how often it does on real tickets is in benchmarks/results.
    """
    ordered = sorted(set(coefficients))
    coarse = ordered[1::3] + (ordered[-1:] if len(ordered) % 3 == 1 else [])  # none is further than one from these
    scores = grid(coarse, score_all)
    best = ordered.index(max(scores, key=lambda coefficient: (scores[coefficient], coefficient)))
    beside = [c for c in ordered[max(best - 1, 0) : best + 2] if c not in scores]
    return {**scores, **grid(beside, score_all)}


SEARCHES: dict[str, CoefficientSearch] = {"grid": grid, "hump": hump}
