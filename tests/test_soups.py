"""Soups and ensembles on small cases, against plain formulas; `learned` against its gradient by hand."""

import math
from dataclasses import replace

import pytest
import torch

from utils.errors import UserError
from utils.learned import GROUPS, learn_shares, learned, mix, stack
from utils.pools import Member, Tools
from utils.predictions import mean_probabilities
from utils.soups import average_or_soup, greedy_soup, uniform_soup


def no_gradient(state):
    raise AssertionError("a soup takes no gradient")


def member(level: int, accuracy: float, *weights: float) -> Member:
    return Member(level, lambda: {"w": torch.tensor(weights), "n": torch.tensor(level)}, lambda: accuracy)


def tools(score, finish=lambda state, number: state) -> Tools:
    return Tools(finish, lambda state: score(state["w"].tolist()), no_gradient)


def keep_largest(state, number):
    """One of two weights, as pruning would."""
    return {**state, "w": torch.where(state["w"].abs() == state["w"].abs().max(), state["w"], 0.0)}


# Uniform soup


def test_uniform_soup_is_the_plain_mean_whatever_it_scores():
    members = [member(2, 90.0, 12.0, 1.0), member(1, 10.0, 0.0, 3.0), member(3, 20.0, 6.0, -5.0)]
    pool = uniform_soup(members, tools(lambda weights: 1.5))
    assert pool.state["w"].tolist() == pytest.approx([6.0, -1 / 3])
    assert pool.state["n"].item() == 2, "integer buffers are the ticket's"
    assert (pool.score, pool.shares, pool.steps) == (1.5, {2: 1 / 3, 1: 1 / 3, 3: 1 / 3}, [])


def test_uniform_soup_is_finished_once_and_from_the_mean_of_whole_tickets():
    finished = []

    def finish(state, number):
        finished.append(state["w"].tolist())
        return keep_largest(state, number)

    # Pruned after each member, the first mean, (2, 3), would lose its first weight: (1/3, 3) in the end.
    members = [member(0, 0.0, 4.0, 3.0), member(1, 0.0, 0.0, 3.0), member(2, 0.0, 1.0, 3.0)]
    pool = uniform_soup(members, tools(lambda weights: 0.0, finish))
    assert finished == [pytest.approx([5 / 3, 3.0])]
    assert pool.state["w"].tolist() == pytest.approx([0.0, 3.0])


@pytest.mark.parametrize("method", [uniform_soup, greedy_soup, average_or_soup, lambda *given: learned(*given, 5, 0.1)])
def test_a_ticket_without_neighbours_is_its_own_pool(method):
    def nothing_to_do(*args):
        raise AssertionError("it is as it should be")

    pool = method([member(4, 77.0, 1.0, 2.0)], Tools(nothing_to_do, nothing_to_do, nothing_to_do))
    assert pool.state["w"].tolist() == [1.0, 2.0]
    assert (pool.score, pool.shares, pool.steps) == (77.0, {4: 1.0}, [])


# Greedy soup


def wortsman(order: list[list[float]], score) -> tuple[list[float], list[int]]:
    """Recipe 1 of the paper on lists: the mean and the places of its ingredients, the best one first."""
    chosen, best = [0], score(order[0])
    for place in range(1, len(order)):
        trial = [*chosen, place]
        mean = [sum(column) / len(trial) for column in zip(*(order[place] for place in trial), strict=True)]
        if score(mean) >= best:
            chosen, best = trial, score(mean)
    return [sum(column) / len(chosen) for column in zip(*(order[place] for place in chosen), strict=True)], chosen


@pytest.mark.parametrize("seed", range(10))
def test_greedy_soup_chooses_as_the_papers_recipe_does(seed):
    draws = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-8, 9, (6, 3), generator=draws).float().tolist()
    target = torch.randint(-4, 5, (3,), generator=draws).tolist()

    def score(weights):
        return 100 - sum((weight - wanted) ** 2 for weight, wanted in zip(weights, target, strict=True))

    members = [member(level, score(vector), *vector) for level, vector in enumerate(vectors)]
    order = sorted(range(6), key=lambda level: -score(vectors[level]))
    mean, chosen = wortsman([vectors[level] for level in order], score)
    pool = greedy_soup(members, tools(score))
    assert pool.state["w"].tolist() == pytest.approx(mean, abs=1e-5)
    assert pool.shares == pytest.approx({order[place]: 1 / len(chosen) for place in chosen})
    assert pool.score == pytest.approx(score(mean), abs=1e-3)
    shares = {0: 1.0}
    for step in pool.steps:
        if step.accepted:
            shares = {level: share * step.coefficient for level, share in shares.items()}
            shares[step.candidate] = 1 - step.coefficient
    assert {level: share for level, share in shares.items() if share} == pytest.approx(pool.shares)


def test_of_equally_accurate_ingredients_the_nearer_is_tried_first():
    members = [member(3, 50.0, 0.0), member(2, 50.0, 0.0), member(4, 60.0, 0.0), member(1, 60.0, 0.0)]
    pool = greedy_soup(members, tools(lambda weights: 70.0))
    assert [step.candidate for step in pool.steps] == [4, 1, 3, 2]


def test_greedy_soup_starts_from_its_ticket_where_the_best_is_worse_when_pruned():
    """The best one, (3, 2.9), loses too much to pruning; its mean with the ticket does not."""
    members = [member(5, 50.0, 0.0, 2.0), member(0, 80.0, 3.0, 2.9)]
    scores = {(3.0, 0.0): 49.0, (0.0, 2.45): 51.0}
    pool = greedy_soup(
        members, tools(lambda weights: scores[tuple(round(weight, 4) for weight in weights)], keep_largest)
    )
    assert [(step.candidate, step.scores, step.accepted) for step in pool.steps] == [
        (0, [49.0], False),
        (0, [51.0], True),
    ]
    assert pool.shares == {5: 0.5, 0: 0.5}
    assert pool.state["w"].tolist() == pytest.approx([0.0, 2.45])


def test_greedy_soup_never_scores_below_its_ticket():
    members = [member(5, 50.0, 0.0, 2.0), member(0, 80.0, 3.0, 2.9), member(4, 20.0, 1.0, 1.0)]
    pool = greedy_soup(members, tools(lambda weights: 49.9))
    assert (pool.score, pool.shares, pool.state["w"].tolist()) == (50.0, {5: 1.0}, [0.0, 2.0])


# Average or soup


# The ticket, 8, becomes 4 with its first candidate, 0, and 6 with the second, 8; the mean of all three is 16/3.
@pytest.mark.parametrize(
    "soup_score, weight, shares",
    [(61.0, 16 / 3, [1 / 3] * 3), (60.0, 16 / 3, [1 / 3] * 3), (59.0, 6.0, [0.25, 0.25, 0.5])],
)
def test_the_better_of_average_and_soup_is_taken(soup_score, weight, shares):
    def score(weights):
        return {4.0: 55.0, 6.0: 60.0}.get(weights[0], soup_score)

    pool = average_or_soup([member(1, 50.0, 8.0), member(0, 0.0, 0.0), member(2, 0.0, 8.0)], tools(score))
    assert pool.state["w"].item() == pytest.approx(weight)
    assert pool.score == max(60.0, soup_score)
    assert pool.shares == pytest.approx(dict(zip((1, 0, 2), shares, strict=True)))
    assert [step.candidate for step in pool.steps] == [0, 2, 1]
    assert (pool.steps[-1].coefficients, pool.steps[-1].scores) == ([0.0], [soup_score])


def test_average_and_soup_are_compared_as_they_are_when_recalibrated_anew():
    def finish_pool(state):
        return {**state, "w": state["w"] - 0.5}

    scores = {4.0: 55.0, 6.0: 60.0, 5.5: 52.0, 16 / 3 - 0.5: 53.0}
    given = tools(lambda weights: next(score for weight, score in scores.items() if abs(weight - weights[0]) < 1e-5))
    members = [member(1, 50.0, 8.0), member(0, 0.0, 0.0), member(2, 0.0, 8.0)]
    pool = average_or_soup(members, replace(given, finish_pool=finish_pool))
    assert [step.scores for step in pool.steps] == [[55.0], [60.0], [53.0]]
    assert (pool.score, pool.steps[-1].accepted) == (53.0, True)


def test_a_ticket_that_averaging_leaves_alone_is_not_recalibrated():
    def finish_pool(state):
        assert state["w"].item() != 8.0
        return state

    given = replace(tools(lambda weights: 49.0), finish_pool=finish_pool)
    pool = average_or_soup([member(1, 50.0, 8.0), member(0, 0.0, 0.0)], given)
    assert (pool.state["w"].item(), pool.score, pool.shares) == (8.0, 50.0, {1: 1.0})


def test_the_soup_that_averaging_is_held_against_has_the_tickets_that_averaging_refused():
    members = [member(1, 50.0, 8.0), member(0, 0.0, 0.0), member(2, 0.0, 8.0)]
    pool = average_or_soup(members, tools(lambda weights: 51.0 if 5 < weights[0] < 6 else 0.0))
    assert [step.accepted for step in pool.steps] == [False, False, True]
    assert pool.shares == pytest.approx({1: 1 / 3, 0: 1 / 3, 2: 1 / 3})


# Ensemble


def test_an_ensemble_averages_probabilities_and_not_logits():
    logits = [torch.tensor([[8.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 2.0]])]
    labels = torch.tensor([0, 2])
    members = [(part.softmax(1), labels) for part in [*logits, logits[1]]]
    mean, found = mean_probabilities(members)
    expected = [
        [sum(math.exp(part[image][place]) / sum(map(math.exp, part[image])) for part in rows) / 3 for place in range(3)]
        for image, rows in enumerate([[part.tolist() for part in [*logits, logits[1]]]] * 2)
    ]
    assert torch.allclose(mean, torch.tensor(expected))
    assert torch.equal(found, labels)
    assert mean.argmax(1).tolist() == [1, 2]
    assert sum([*logits, logits[1]]).argmax(1).tolist() == [0, 2], "the mean of logits says otherwise"


# Learned


def quadratic(target: torch.Tensor):
    """The loss |w - target|² and its gradient."""

    def loss_gradient(state):
        gap = state["w"] - target
        return float(gap.square().sum()), {"w": 2 * gap}

    return loss_gradient


def test_a_mixture_is_the_weighted_mean_and_leaves_integers_alone():
    states = [{"w": torch.tensor([[1.0, 2.0]]), "n": torch.tensor(3)}, {"w": torch.tensor([[5.0, 0.0]])}]
    stacked = stack(states)
    assert {*stacked} == {"w"}
    assert mix(stacked, {"w": torch.tensor([0.25, 0.75], dtype=torch.float64)})["w"].tolist() == [[4.0, 0.5]]


def test_learned_shares_find_the_mixture_that_the_loss_is_least_for():
    target = torch.tensor([0.6, 0.3, 0.1])
    members = [Member(level, lambda level=level: {"w": torch.eye(3)[level]}, lambda: 0.0) for level in range(3)]
    pool = learned(members, Tools(lambda state, number: state, lambda state: 42.0, quadratic(target)), 300, 0.05)
    assert pool.score == 42.0
    assert pool.shares == pytest.approx({0: 0.6, 1: 0.3, 2: 0.1}, abs=1e-3)
    assert pool.state["w"].tolist() == pytest.approx([0.6, 0.3, 0.1], abs=1e-3)


def test_no_learned_share_is_more_than_one():
    """Five tensors of sizes whose shares of the whole add up to a little more than 1."""
    sizes = {str(size): size for size in (138, 262, 113, 266, 103)}
    states = [{name: torch.full((size,), float(end)) for name, size in sizes.items()} for end in range(2)]

    def loss_gradient(state):
        return 1.0, {name: torch.ones(size) for name, size in sizes.items()}

    members = [Member(level, lambda level=level: states[level], lambda: 0.0) for level in range(2)]
    tools = Tools(lambda state, number: state, lambda state: 1.0, loss_gradient)
    assert learned(members, tools, 3, 1000.0).shares == {0: 1.0, 1: 0.0}


@pytest.mark.parametrize("per, shares", [("network", [0.5, 0.5]), ("block", [0.9, 0.1]), ("layer", [0.9, 0.1])])
def test_each_group_of_tensors_has_shares_of_its_own(per, shares):
    """Two tensors of one size want opposite members."""
    names, ends = ["1.0.conv.weight", "1.1.conv.weight"], [{}, {}]
    for place, end in enumerate(ends):
        end.update({name: torch.eye(2)[place] for name in names})
    targets = dict(zip(names, (torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])), strict=True))

    def loss_gradient(state):
        gaps = {name: state[name] - target for name, target in targets.items()}
        return sum(float(gap.square().sum()) for gap in gaps.values()), {name: 2 * gap for name, gap in gaps.items()}

    tools = Tools(lambda state, number: state, lambda state: 1.0, loss_gradient)
    learnt = learn_shares(stack(ends), ends[0], tools, 300, 0.05, GROUPS[per])
    assert learnt[names[0]].tolist() == pytest.approx(shares, abs=1e-2)
    assert learnt[names[1]].tolist() == pytest.approx(shares[::-1], abs=1e-2)
    members = [Member(level, lambda level=level: ends[level], lambda: 0.0) for level in range(2)]
    pool = learned(members, tools, 300, 0.05, GROUPS[per])
    assert pool.shares == pytest.approx({0: 0.5, 1: 0.5}, abs=1e-2), "the mean over the weights"


def test_groups_are_the_whole_network_its_blocks_or_its_layers():
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.bias", "layer1.1.conv1.weight", "fc.bias"]
    found = {per: [GROUPS[per](name) for name in names] for per in GROUPS}
    assert found == {
        "network": [""] * 5,
        "block": ["conv1", "layer1.0", "layer1.0", "layer1.1", "fc"],
        "layer": ["conv1", "layer1.0.conv1", "layer1.0.bn1", "layer1.1.conv1", "fc"],
    }


def test_no_step_leaves_the_uniform_soup():
    shares = learn_shares(stack([{"w": torch.eye(4)[place]} for place in range(4)]), {}, None, 0, 0.1)
    assert shares["w"].tolist() == [0.25] * 4


def test_first_step_goes_against_the_gradient_of_the_softmax():
    """Adam's first step is the learning rate against the gradient's sign: dL/dz_i = p_i (g·w_i - Σ p_j g·w_j)."""
    stacked = stack([{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 3.0])}, {"w": torch.tensor([2.0, 2.0])}])
    ticket, target = {"w": torch.tensor([1.0, 0.0])}, torch.tensor([1.5, 1.0])
    shares = learn_shares(stacked, ticket, Tools(lambda state, number: state, None, quadratic(target)), 1, 0.01)
    gradient = 2 * (stacked["w"].mean(0) - target)
    slopes = stacked["w"] @ gradient
    logits = -0.01 * (slopes - slopes.mean()).sign()
    assert shares["w"].tolist() == pytest.approx(logits.softmax(0).tolist(), abs=1e-6)


def test_the_gradient_is_taken_at_the_finished_network_and_passes_through_pruning():
    """The second weight is pruned, so the loss is of (w, 0); its gradient there still says which member to prefer."""
    seen = []

    def loss_gradient(state):
        seen.append(state["w"].tolist())
        return 0.0, {"w": torch.tensor([0.0, -1.0])}

    states = [{"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([4.0, 2.0])}]
    shares = learn_shares(stack(states), states[0], Tools(keep_largest, None, loss_gradient), 3, 0.1)
    assert seen[0] == [4.0, 0.0]
    assert shares["w"][1] > shares["w"][0]


def test_a_loss_that_diverges_is_said():
    states = [{"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([4.0, 2.0])}]
    bad = Tools(keep_largest, None, lambda state: (math.nan, {"w": state["w"]}))
    with pytest.raises(UserError, match=r"nan at step 1.*--learned_lr"):
        learn_shares(stack(states), states[0], bad, 3, 0.1)
