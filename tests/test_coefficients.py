import pytest

from utils.coefficients import grid, hump
from utils.pools import PAPER_COEFFICIENTS


class Scorer:
    """Scores coefficients by a function and remembers the rounds in which it was asked."""

    def __init__(self, function):
        self.function, self.rounds = function, []

    def __call__(self, coefficients):
        self.rounds.append(list(coefficients))
        return [self.function(coefficient) for coefficient in coefficients]


def best(scores: dict[float, float]) -> float:
    return max(scores, key=scores.get)


def test_the_grid_scores_every_coefficient_once():
    scorer = Scorer(lambda c: c)
    assert grid([0.3, 0.1], scorer) == {0.3: 0.3, 0.1: 0.1}
    assert scorer.rounds == [[0.3, 0.1]]


def test_hump_scores_every_third_coefficient_and_then_the_best_ones_neighbours():
    scorer = Scorer(lambda c: -abs(c - 0.45))
    hump(PAPER_COEFFICIENTS, scorer)
    assert scorer.rounds == [[0.1, 0.4, 0.7, 0.95], [0.3, 0.5]]


@pytest.mark.parametrize("top", PAPER_COEFFICIENTS)
@pytest.mark.parametrize("steepness", [0.3, 1.0, 3.0])
def test_hump_finds_the_best_of_the_papers_grid_under_any_symmetric_hump(top, steepness):
    places = {coefficient: place for place, coefficient in enumerate(PAPER_COEFFICIENTS)}
    scorer = Scorer(lambda c: -steepness * abs(places[c] - places[top]))
    assert best(hump(PAPER_COEFFICIENTS, scorer)) == top
    assert sum(map(len, scorer.rounds)) <= 6


@pytest.mark.parametrize("count", range(1, 15))
def test_a_list_of_any_length_gives_its_best(count):
    coefficients = [place / 10 for place in range(count)]
    for top in coefficients:
        assert best(hump(coefficients, Scorer(lambda c, top=top: -abs(c - top)))) == top


def test_hump_looks_beside_the_largest_of_equally_good_ones():
    scorer = Scorer(lambda c: 0.0)
    hump(PAPER_COEFFICIENTS, scorer)
    assert scorer.rounds[1] == [0.9]


def test_the_order_of_the_list_does_not_matter_to_hump():
    scores = [hump(order, Scorer(lambda c: -abs(c - 0.3))) for order in (PAPER_COEFFICIENTS, PAPER_COEFFICIENTS[::-1])]
    assert scores[0] == scores[1]
