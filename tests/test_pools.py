from pathlib import Path

import pytest
import torch

from utils import checkpoint
from utils.distributed import SINGLE
from utils.evaluation import Evaluator, Score
from utils.pool_files import PoolFiles
from utils.pool_runs import PoolRun
from utils.pools import PAPER_COEFFICIENTS, Pool, ema, greedy, neighbours, offer_mean, search, swa
from utils.studies import Study
from utils.tickets import Ticket, TicketFile
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
    assert [pool.state["w"].item() for pool in pools] == [4.0] * 3
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


def test_the_first_of_equally_good_coefficients_wins():
    pool = search(
        start_from(8.0),
        readers({1: state(0.0)}),
        greedy([0.25, 0.75, 0.5]),
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


def algorithm_2(start: list[float], tickets: list[list[float]], coefficients: list[float], keep: int, score):
    """Algorithm 2 of the paper, on lists: the pool, its score, and (scores, best coefficient, accepted) a candidate."""
    pool, pool_score, decisions = start, score(start), []
    for ticket in tickets:
        best, best_score, best_coefficient, scores = None, None, None, []
        for alpha in coefficients:
            trial = [alpha * kept + (1 - alpha) * new for kept, new in zip(pool, ticket, strict=True)]
            by_size = sorted(range(len(trial)), key=lambda place: (-abs(trial[place]), place))
            for place in by_size[keep:]:
                trial[place] = 0.0
            scores.append(score(trial))
            if best is None or scores[-1] > best_score:
                best, best_score, best_coefficient = trial, scores[-1], alpha
        accepted = best_score >= pool_score
        if accepted:
            pool, pool_score = best, best_score
        decisions.append((scores, best_coefficient, accepted))
    return pool, pool_score, decisions


def finish_run(
    ticket: Ticket, folder: Path, tickets: list[Ticket], score, method, search_num: int = 19, loss=None, **choices
):
    """The entry in `pools.json` and the pool's file of one start, with `score` (of a list of weights) as validation."""
    evaluator = FakeEvaluator(tickets, score, loss or (lambda weights: 0.0))
    study = Study(evaluator.files, evaluator, search_num, 41, folder, {"settings": {}, "versions": {}})
    (entry,) = PoolRun(study, method, **choices).run([ticket.level])
    return entry, checkpoint.load(folder / entry["checkpoint"]), evaluator


class FakeEvaluator:
    """Tickets in memory; validation is functions of the weights, test accuracy is always 0."""

    prune_and_recalibrate = Evaluator.prune_and_recalibrate

    def __init__(self, tickets: list[Ticket], score, loss):
        self.tickets = {ticket.level: ticket for ticket in tickets}
        self.files = [TicketFile(ticket.level, ticket.path) for ticket in tickets]
        self.score, self.loss, self.purposes, self.tested, self.processes = score, loss, [], 0, SINGLE
        self.workers, self.net = Workers(1), torch.nn.Identity()

    def read_ticket(self, file: TicketFile) -> Ticket:
        return self.tickets[file.level]

    def to_device(self, values):
        return {name: value.clone() for name, value in values.items()}

    def recalibrate(self, values, *purpose, bn_images=None):
        self.purposes.append(purpose)
        return self.to_device(values)

    def validate(self, values) -> Score:
        weights = values["w"].tolist()
        return Score(self.score(weights), 100, 100 * self.loss(weights))

    def test(self, values) -> Score:
        self.tested += 1
        return Score(0, 100, 0.0)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("utils.report.plot_accuracy", lambda *args, **kwargs: None)


def make_ticket(level: int, weights: list[float], kept: list[int]) -> Ticket:
    mask = torch.tensor(kept).bool()
    return Ticket(level, Path(f"{level}.pth"), {"w": torch.where(mask, torch.tensor(weights), 0.0)}, {"w": mask})


@pytest.mark.parametrize("seed", range(12))
def test_a_search_decides_as_the_papers_algorithm_does(seed, tmp_path):
    """Small whole numbers and quarters, which floats hold exactly, and a coarse score, so that ties are common."""
    draws = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-8, 9, (5, 8), generator=draws).float()
    target = torch.randint(-8, 9, (8,), generator=draws).tolist()
    masks = [(torch.randperm(8, generator=draws) < 5).int().tolist() for _ in range(5)]
    coefficients = [0.25, 0.5, 0.75, 1.0] if seed % 2 else [0.75, 0.0, 0.5]

    def score(weights: list[float]) -> int:
        return 100 - int(sum(abs(weight - wanted) for weight, wanted in zip(weights, target, strict=True)) / 4)

    tickets = [make_ticket(level, vectors[level].tolist(), masks[level]) for level in range(5)]
    entry, content, _ = finish_run(tickets[2], tmp_path, tickets, score, greedy(coefficients))
    order = [tickets[level].state["w"].tolist() for level in (1, 3, 0, 4)]
    pool, pool_score, decisions = algorithm_2(tickets[2].state["w"].tolist(), order, coefficients, 5, score)
    found = [(step["scores"], step["coefficient"], step["accepted"]) for step in entry["steps"]]
    assert [step["candidate"] for step in entry["steps"]] == [1, 3, 0, 4]
    assert found == decisions
    assert entry["pool_val_accuracy"] == pool_score
    assert content["state_dict"]["w"].tolist() == pool


def test_a_pool_keeps_exactly_as_many_weights_as_its_ticket(tmp_path):
    tickets = [
        make_ticket(0, [9.0, -1.0, 2.0, 3.0, 5.0], [1, 1, 1, 1, 1]),
        make_ticket(1, [8.0, 0.0, 0.0, -4.0, 0.0], [1, 0, 0, 1, 0]),
    ]
    entry, content, _ = finish_run(tickets[1], tmp_path, tickets, lambda weights: 1, greedy([0.5]))
    # The mean is 8.5, -0.5, 1, -0.5, 2.5; two weights stay.
    assert content["state_dict"]["w"].tolist() == [8.5, 0.0, 0.0, 0.0, 2.5]
    assert not content["state_dict"]["w"][1:4].signbit().any()
    assert content["mask"]["w"].tolist() == [True, False, False, False, True]
    assert entry["density"] == 0.4


def test_a_dense_start_is_not_pruned(tmp_path):
    tickets = [
        make_ticket(0, [9.0, -1.0, 2.0, 3.0, 0.5], [1, 1, 1, 1, 1]),
        make_ticket(1, [8.0, 0.0, 0.0, -4.0, 0.0], [1, 0, 0, 1, 0]),
    ]
    entry, content, _ = finish_run(tickets[0], tmp_path, tickets, lambda weights: 1, greedy([0.5]))
    assert content["state_dict"]["w"].tolist() == [8.5, -0.5, 1.0, -0.5, 0.25]
    assert content["mask"]["w"].tolist() == [True] * 5
    assert entry["density"] == 1.0


def test_all_coefficients_of_a_candidate_are_recalibrated_on_the_same_images(tmp_path):
    tickets = [make_ticket(level, [1.0 + level, 2.0], [1, 1]) for level in range(4)]
    _, _, evaluator = finish_run(tickets[1], tmp_path, tickets, lambda weights: 1, greedy([0.2, 0.5, 0.8]))
    first, second, third = (evaluator.purposes[place : place + 3] for place in (0, 3, 6))
    assert len(evaluator.purposes) == 9
    assert len(set(first)) == len(set(second)) == len(set(third)) == 1
    assert len({first[0], second[0], third[0]}) == 3


def test_test_images_are_seen_once_by_the_ticket_and_once_by_the_pool(tmp_path):
    tickets = [make_ticket(level, [1.0 + level, 2.0], [1, 1]) for level in range(4)]
    for name, method in {"greedy": greedy(), "swa": swa(), "ema": ema(0.95)}.items():
        _, _, evaluator = finish_run(tickets[1], tmp_path / name, tickets, lambda weights: 1, method)
        assert evaluator.tested == 2


def test_search_num_is_the_number_of_candidates_tried(tmp_path):
    tickets = [make_ticket(level, [1.0 + level, 2.0], [1, 1]) for level in range(5)]
    entry, _, _ = finish_run(tickets[2], tmp_path, tickets, lambda weights: 1, greedy([0.5]), search_num=3)
    assert [step["candidate"] for step in entry["steps"]] == [1, 3, 0]


def test_a_pool_that_nothing_joined_is_its_ticket(tmp_path):
    tickets = [make_ticket(0, [1.0, 2.0, 3.0], [1, 1, 1]), make_ticket(1, [-7.0, 5.0, 6.0], [1, 0, 1])]
    entry, content, _ = finish_run(
        tickets[1], tmp_path, tickets, lambda weights: int(weights == [-7.0, 0.0, 6.0]), greedy([0.5])
    )
    assert content["state_dict"]["w"].tolist() == [-7.0, 0.0, 6.0]
    assert entry["members"] == [{"level": 1, "weight": 1.0}]
    assert (entry["ticket_val_accuracy"], entry["pool_val_accuracy"]) == (1.0, 1.0)


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


def test_evening_out_offers_the_mean_of_the_pools_own_members(tmp_path):
    tickets = [make_ticket(level, [weight, 1.0], [1, 1]) for level, weight in enumerate([4.0, 50.0, 0.0])]
    accuracy = {4.0: 10, 3.0: 30, 1.0: 40, 2.0: 20}  # the ticket, with level 2 at 0.75 and 0.25, and their plain mean
    method = greedy([0.25, 0.75], even_out=True)
    entry, _, _ = finish_run(tickets[0], tmp_path, tickets, lambda weights: accuracy.get(weights[0], 0), method)
    assert [(step["candidate"], step["accepted"]) for step in entry["steps"]] == [(1, False), (2, True), (0, False)]
    assert entry["steps"][-1]["scores"] == [20]


def test_an_interrupted_search_with_all_departures_goes_on_to_the_same_pool(tmp_path, monkeypatch):
    tickets = [make_ticket(level, [1.0 + level, 4.0 - level], [1, 1]) for level in range(4)]
    choices = {"select_by": "loss", "order": "best", "loss": lambda weights: abs(sum(weights) - 4.5 - weights[0] / 9)}
    method = greedy([0.25, 0.75], passes=2, even_out=True)
    whole, _, _ = finish_run(tickets[1], tmp_path / "whole", tickets, lambda weights: 1, method, **choices)
    assert len(whole["steps"]) == 7
    save = PoolFiles.save_unfinished
    for stop in range(1, 8):

        def save_and_stop(run, file, pool, stop=stop):
            save(run, file, pool)
            if len(pool.steps) == stop:
                raise KeyboardInterrupt

        folder = tmp_path / f"stopped{stop}"
        monkeypatch.setattr(PoolFiles, "save_unfinished", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            finish_run(tickets[1], folder, tickets, lambda weights: 1, method, **choices)
        monkeypatch.setattr(PoolFiles, "save_unfinished", save)
        again, _, _ = finish_run(tickets[1], folder, tickets, lambda weights: 1, method, **choices)
        assert again == whole


@pytest.mark.parametrize("interval, saved", [(0, [1, 2, 3]), (25, [3]), (1000, [])])
def test_an_unfinished_pool_is_saved_when_it_is_time(interval, saved, tmp_path, monkeypatch):
    """By a clock on which each candidate takes ten seconds."""
    tickets, steps, found = [make_ticket(level, [1.0, 4.0], [1, 1]) for level in range(4)], [], []
    monkeypatch.setattr("utils.pool_runs.time.monotonic", lambda: 10 * len(steps))
    monkeypatch.setattr("utils.pool_runs._step_line", lambda *step: steps.append(step))
    monkeypatch.setattr(PoolFiles, "save_unfinished", lambda run, file, pool: found.append(len(pool.steps)))
    finish_run(tickets[0], tmp_path, tickets, lambda weights: 1, greedy([0.5]), save_interval=interval)
    assert found == saved


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_tickets_are_read_once_as_far_as_there_is_memory_for_them(kept, tmp_path, monkeypatch):
    tickets = [make_ticket(level, [1.0, 4.0], [1, 1]) for level in range(3)]
    evaluator, read = FakeEvaluator(tickets, None, None), []
    monkeypatch.setattr("utils.ticket_cache.KEPT_BYTES", kept * tickets[0].nbytes)
    monkeypatch.setattr(evaluator, "read_ticket", lambda file: (read.append(file.level), tickets[file.level])[1])
    study = Study(evaluator.files, evaluator, 19, 41, tmp_path, {"settings": {}, "versions": {}})
    for file in (*study.files, *study.files):
        assert study.read_ticket(file) is tickets[file.level]
    rest = [level for level in range(3) if level >= kept]
    assert read == [0, 1, 2, *rest, *rest]


def test_by_loss_the_lower_one_wins_whatever_the_accuracy(tmp_path):
    tickets = [make_ticket(0, [8.0], [1]), make_ticket(1, [0.0], [1])]
    losses, correct = {8.0: 2.0, 6.0: 1.5, 4.0: 1.0, 2.0: 1.75}, {8.0: 60, 6.0: 90, 4.0: 50, 2.0: 40}
    entry, content, _ = finish_run(
        tickets[0],
        tmp_path,
        tickets,
        lambda weights: correct[weights[0]],
        greedy([0.25, 0.5, 0.75]),
        loss=lambda weights: losses[weights[0]],
        select_by="loss",
    )
    assert content["state_dict"]["w"].item() == 4.0
    assert entry["steps"][0]["scores"] == [-1.75, -1.0, -1.5]
    assert (entry["ticket_val_accuracy"], entry["pool_val_accuracy"]) == (60.0, 50.0)


def test_a_loss_that_is_no_number_loses(tmp_path):
    tickets = [make_ticket(0, [8.0], [1]), make_ticket(1, [0.0], [1])]
    entry, content, _ = finish_run(
        tickets[0],
        tmp_path,
        tickets,
        lambda weights: 1,
        greedy([0.5]),
        loss=lambda weights: 2.0 if weights == [8.0] else float("nan"),
        select_by="loss",
    )
    assert content["state_dict"]["w"].item() == 8.0
    assert not entry["steps"][0]["accepted"]


def test_the_best_candidates_of_the_nearest_come_first(tmp_path):
    tickets = [make_ticket(level, [float(level), 9.0], [1, 1]) for level in range(5)]
    order = {0: 70, 1: 30, 2: 50, 3: 90, 4: 99}
    entry, _, _ = finish_run(
        tickets[1],
        tmp_path,
        tickets,
        lambda weights: order.get(weights[0], 0),
        greedy([0.5]),
        search_num=3,
        order="best",
    )
    assert [step["candidate"] for step in entry["steps"]] == [3, 0, 2]
