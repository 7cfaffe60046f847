import pytest
import torch

from utils.pools import PAPER_COEFFICIENTS, Pool, ema, greedy, neighbours, offer_mean, search, swa
from utils.workers import Workers


def state(*weights: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(weights)}


def start_from(*weights: float, score: float = 0.0, level: int = 0) -> Pool:
    return Pool(state(*weights), score, {level: 1.0})


def readers(candidates: dict[int, dict[str, torch.Tensor]]) -> list:
    return [(level, lambda value=value: value) for level, value in candidates.items()]


def unfinished(trial, number):
    return trial


def score_of(values: dict[float, float]):
    """A score that looks up the first weight."""
    return lambda trial: values[trial["w"][0].item()]


@pytest.mark.parametrize(
    "start, search_num, expected",
    [
        (3, 19, [2, 4, 1, 5, 0, 6]),
        (0, 19, [1, 2, 3, 4, 5, 6]),
        (6, 19, [5, 4, 3, 2, 1, 0]),
        (1, 19, [0, 2, 3, 4, 5, 6]),
        (5, 19, [4, 6, 3, 2, 1, 0]),
        (3, 6, [2, 4, 1, 5, 0, 6]),
        (3, 3, [2, 4, 1]),
        (6, 1, [5]),
        (3, 0, []),
    ],
)
def test_candidates_come_nearest_first_and_the_denser_one_before_the_sparser(start, search_num, expected):
    assert neighbours(range(7), start, search_num) == expected


@pytest.mark.parametrize(
    "start, search_num, denser_num, expected",
    [
        (3, 19, 0, [4, 5, 6]),
        (3, 19, 1, [2, 4, 5, 6]),
        (3, 3, 1, [2, 4, 5]),
        (3, 19, 9, [2, 4, 1, 5, 0, 6]),
        (0, 19, 1, [1, 2, 3, 4, 5, 6]),
        (6, 19, 2, [5, 4]),
        (6, 19, 0, []),
    ],
)
def test_only_so_many_candidates_are_denser(start, search_num, denser_num, expected):
    assert neighbours(range(7), start, search_num, denser_num) == expected


def test_a_ticket_alone_has_no_candidates():
    assert neighbours([4], 4, 19) == []


def test_levels_with_a_gap_are_tried_without_the_missing_one():
    assert neighbours([0, 1, 3, 4], 3, 19) == [1, 4, 0]


def test_the_papers_coefficients_are_the_default():
    assert PAPER_COEFFICIENTS == (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    assert greedy().coefficients(1) == PAPER_COEFFICIENTS


def test_the_best_coefficient_becomes_the_pool():
    # 8·α: 2, 4 and 6.
    pool = search(
        start_from(8.0, score=5.0),
        readers({1: state(0.0)}),
        greedy([0.25, 0.5, 0.75]),
        unfinished,
        score_of({2.0: 4.0, 4.0: 9.0, 6.0: 7.0}),
    )
    assert pool.state["w"].item() == 4.0
    assert pool.score == 9.0
    step = pool.steps[0]
    assert (step.candidate, step.coefficient, step.accepted) == (1, 0.5, True)
    assert (step.coefficients, step.scores) == ([0.25, 0.5, 0.75], [4.0, 9.0, 7.0])


def test_the_next_candidate_meets_the_pool_and_not_the_start():
    # (8 + 0)/2 = 4 is accepted, so the next is (4 + 2)/2 = 3.
    pool = search(
        start_from(8.0),
        readers({1: state(0.0), 2: state(2.0)}),
        greedy([0.5]),
        unfinished,
        score_of({4.0: 1.0, 3.0: 2.0}),
    )
    assert pool.state["w"].item() == 3.0
    assert pool.shares == {0: 0.25, 1: 0.25, 2: 0.5}


def test_a_coefficient_that_the_search_leaves_out_has_no_score():
    pool = search(
        start_from(8.0, score=5.0),
        readers({1: state(0.0)}),
        greedy([0.75, 0.25, 0.5], choose=lambda coefficients, score_all: {0.25: score_all([0.25])[0]}),
        unfinished,
        score_of({2.0: 6.0}),
    )
    assert pool.state["w"].item() == 2.0
    assert pool.steps[0].scores == [None, 6.0, None]
    assert (pool.steps[0].coefficient, pool.steps[0].accepted) == (0.25, True)


def test_coefficients_tried_at_the_same_time_and_in_any_order_give_the_same_pool():
    values = {0.25: 2.0, 0.5: 9.0, 0.75: 9.0}
    scores = score_of({8 * coefficient: value for coefficient, value in values.items()})

    def backwards(function, items):
        return [*reversed([function(item) for item in reversed(items)])]

    pools = [
        search(start_from(8.0), readers({1: state(0.0)}), greedy([*values]), unfinished, scores, each=each)
        for each in (map, backwards, Workers(3).each)
    ]
    assert [pool.state["w"].item() for pool in pools] == [6.0] * 3
    assert [pool.steps for pool in pools] == [pools[0].steps] * 3


@pytest.mark.parametrize("score, accepted", [(7.0, True), (7.0 - 1e-9, False)])
def test_an_equal_score_is_accepted_and_a_lower_one_is_not(score, accepted):
    pool = search(
        start_from(8.0, score=7.0), readers({1: state(0.0)}), greedy([0.5]), unfinished, score_of({4.0: score})
    )
    assert pool.steps[0].accepted is accepted
    assert pool.steps[0].scores == [score]
    assert pool.state["w"].item() == (4.0 if accepted else 8.0)
    assert pool.shares == ({0: 0.5, 1: 0.5} if accepted else {0: 1.0})
    assert pool.score == 7.0


def test_a_rejected_candidate_leaves_the_start_to_the_next_one():
    pool = search(
        start_from(8.0, score=5.0),
        readers({1: state(0.0), 2: state(16.0)}),
        greedy([0.5]),
        unfinished,
        score_of({4.0: 1.0, 12.0: 6.0}),
    )
    assert [step.accepted for step in pool.steps] == [False, True]
    assert pool.state["w"].item() == 12.0
    assert pool.shares == {0: 0.5, 2: 0.5}


@pytest.mark.parametrize("coefficients", [[0.25, 0.75, 0.5], [0.5, 0.75, 0.25]])
def test_of_equally_good_coefficients_the_one_that_keeps_most_of_the_pool_wins(coefficients):
    pool = search(
        start_from(8.0),
        readers({1: state(0.0)}),
        greedy(coefficients),
        unfinished,
        score_of({2.0: 3.0, 6.0: 9.0, 4.0: 9.0}),
    )
    assert pool.steps[0].coefficient == 0.75
    assert pool.state["w"].item() == 6.0


def test_average_is_the_search_with_one_half():
    pool = search(start_from(2.0, 6.0), readers({4: state(4.0, 0.0)}), greedy([0.5]), unfinished, lambda trial: 1.0)
    assert pool.state["w"].tolist() == [3.0, 3.0]
    assert pool.shares == {0: 0.5, 4: 0.5}


def test_swa_is_the_mean_of_all_members_whatever_they_score():
    falling = iter([3.0, 2.0, 1.0])
    members = [(12.0, 1.0), (0.0, 3.0), (6.0, -5.0), (2.0, 9.0)]
    pool = search(
        start_from(*members[0], score=50.0),
        readers({level: state(*members[level]) for level in (1, 2, 3)}),
        swa(),
        unfinished,
        lambda trial: next(falling),
    )
    assert pool.state["w"].tolist() == pytest.approx([5.0, 2.0], rel=1e-6)
    assert pool.shares == pytest.approx({0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25})
    assert [step.accepted for step in pool.steps] == [True, True, True]
    assert pool.score == 1.0


def test_ema_keeps_its_decay_of_the_pool_whatever_it_scores():
    # 16 → 0.75·16 + 0.25·0 = 12 → 0.75·12 + 0.25·4 = 10 → 0.75·10 + 0.25·(-2) = 7.
    pool = search(
        start_from(16.0, score=50.0),
        readers({3: state(0.0), 5: state(4.0), 2: state(-2.0)}),
        ema(0.75),
        unfinished,
        score_of({12.0: 3.0, 10.0: 2.0, 7.0: 1.0}),
    )
    assert pool.state["w"].item() == 7.0
    assert pool.shares == {0: 27 / 64, 3: 9 / 64, 5: 12 / 64, 2: 16 / 64}
    assert pool.score == 1.0


@pytest.mark.parametrize("method", [greedy(), greedy([0.5]), swa(), ema(0.95)], ids=["greedy", "average", "swa", "ema"])
def test_shares_of_the_members_are_the_weights_of_a_dense_pool(method):
    """Each ticket is a unit vector, so that the pool itself says how much of each is in it."""
    tickets = torch.eye(6)
    target = torch.tensor([0.4, 0.1, 0.0, 0.3, 0.0, 0.2])
    pool = search(
        Pool({"w": tickets[0]}, -1.0, {0: 1.0}),
        [(level, lambda level=level: {"w": tickets[level]}) for level in range(1, 6)],
        method,
        unfinished,
        lambda trial: -float((trial["w"] - target).square().sum()),
    )
    assert any(step.accepted for step in pool.steps)
    assert sum(pool.shares.values()) == pytest.approx(1.0)
    assert [pool.shares.get(level, 0.0) for level in range(6)] == pytest.approx(pool.state["w"].tolist(), abs=1e-6)


def test_every_coefficient_of_a_candidate_is_finished_under_its_number():
    numbers = []

    def finish(trial, number):
        numbers.append(number)
        return trial

    scores = iter([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 4.0, 5.0, 6.0])
    candidates = readers({7: state(0.0), 9: state(2.0), 8: state(4.0)})
    search(start_from(8.0), candidates, greedy([0.2, 0.5, 0.8]), finish, lambda trial: next(scores))
    assert numbers == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_finished_network_is_scored_and_becomes_the_pool():
    seen = []

    def score(trial):
        seen.append(trial["w"].item())
        return 1.0

    pool = search(
        start_from(8.0),
        readers({1: state(0.0), 2: state(6.0)}),
        greedy([0.5]),
        lambda trial, number: {"w": trial["w"] + 100},
        score,
    )
    # (8 + 0)/2 + 100 = 104, then (104 + 6)/2 + 100 = 155.
    assert seen == [104.0, 155.0]
    assert pool.state["w"].item() == 155.0


def test_candidates_are_read_one_at_a_time_when_their_turn_comes():
    log = []
    candidates = [(level, lambda level=level: log.append(f"read {level}") or state(0.0)) for level in (1, 2)]
    search(
        start_from(8.0),
        candidates,
        greedy([0.5]),
        unfinished,
        lambda trial: 0.0,
        lambda pool: log.append(f"saved {len(pool.steps)}"),
    )
    assert log == ["read 1", "saved 1", "read 2", "saved 2"]


def copied(pool: Pool) -> Pool:
    return Pool({"w": pool.state["w"].clone()}, pool.score, dict(pool.shares), list(pool.steps))


@pytest.mark.parametrize("method", [greedy([0.25, 0.5, 0.75]), swa(), ema(0.75)], ids=["greedy", "swa", "ema"])
def test_a_search_goes_on_from_a_half_finished_pool_to_the_same_result(method):
    draws = torch.Generator().manual_seed(5)
    vectors = torch.randn(6, 4, generator=draws)
    read, saved = [], []

    def run(pool: Pool) -> Pool:
        return search(
            pool,
            [(level, lambda level=level: read.append(level) or {"w": vectors[level]}) for level in range(1, 6)],
            method,
            lambda trial, number: {"w": trial["w"] + 0.01 * number},
            lambda trial: -float(trial["w"].abs().sum().round()),
            lambda grown: saved.append(copied(grown)),
        )

    whole = run(Pool({"w": vectors[0]}, -99.0, {0: 1.0}))
    for tried, half in enumerate(saved[:5], start=1):
        read.clear()
        result = run(half)
        assert read == list(range(tried + 1, 6))
        assert torch.equal(result.state["w"], whole.state["w"])
        assert (result.score, result.shares, result.steps) == (whole.score, whole.shares, whole.steps)


# Departures from the paper's search


@pytest.mark.parametrize("score, accepted", [(8.5, True), (8.4, False)])
def test_a_margin_must_be_reached(score, accepted):
    trial = score_of({4.0: score})
    pool = search(start_from(8.0, score=8.0), readers({1: state(0.0)}), greedy([0.5], margin=0.5), unfinished, trial)
    assert pool.steps[0].accepted is accepted


@pytest.mark.parametrize("images, margin", [(5000, 0.1), (2000, 0.2), (1000, 1.0)])
def test_a_rise_by_just_the_margin_is_enough_whatever_rounding_says(images, margin):
    images_needed = round(margin * images / 100)
    for correct in range(images - images_needed + 1):
        ticket, enough, short = (100 * (correct + more) / images for more in (0, images_needed, images_needed - 1))
        for score, accepted in ((enough, True), (short, False)):
            pool = search(
                start_from(8.0, score=ticket),
                readers({1: state(0.0)}),
                greedy([0.5], margin=margin),
                unfinished,
                lambda _, score=score: score,
            )
            assert pool.steps[0].accepted is accepted, (correct, score)


def test_a_second_pass_tries_every_candidate_again_on_other_images():
    numbers = []

    def finish(trial, number):
        numbers.append(number)
        return trial

    pool = search(
        start_from(8.0), readers({1: state(0.0), 2: state(2.0)}), greedy([0.5], passes=2), finish, lambda trial: 1.0
    )
    # 8 → 4 → 3, then 1.5 → 1.75.
    assert pool.state["w"].item() == 1.75
    assert [step.candidate for step in pool.steps] == [1, 2, 1, 2]
    assert numbers == [1, 2, 3, 4]
    assert pool.shares == {0: 0.0625, 1: 0.3125, 2: 0.625}


@pytest.mark.parametrize("coefficient, members", [(1.0, {0: 1.0}), (0.0, {1: 1.0})])
def test_a_ticket_without_a_share_is_no_member(coefficient, members):
    pool = search(start_from(8.0), readers({1: state(4.0)}), greedy([coefficient]), unfinished, lambda trial: 1.0)
    assert pool.shares == members


@pytest.mark.parametrize("score, accepted", [(5.0, True), (4.9, False)])
def test_the_mean_that_is_offered_is_taken_unless_it_is_worse(score, accepted):
    pool = Pool(state(3.0), 5.0, {0: 0.75, 2: 0.25}, [])
    members = dict(readers({0: state(4.0), 1: state(-1.0), 2: state(0.0)}))
    offer_mean(pool, 2, members, lambda trial: trial, score_of({1.0: score}))
    assert (pool.state["w"].item(), pool.score) == ((1.0, score) if accepted else (3.0, 5.0))
    assert pool.shares == ({0: 1 / 3, 1: 1 / 3, 2: 1 / 3} if accepted else {0: 0.75, 2: 0.25})
    step = pool.steps[-1]
    assert (step.candidate, step.coefficients, step.scores, step.accepted) == (2, [0.0], [score], accepted)
