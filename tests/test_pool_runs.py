"""A search from tickets to the files of its pools, against Algorithm 2 of the paper written out."""

from pathlib import Path

import pytest
import torch

from utils import checkpoint
from utils.distributed import SINGLE
from utils.evaluation import Evaluator, Score
from utils.pool_files import PoolFiles
from utils.pool_runs import PoolRun
from utils.pools import ema, greedy, swa
from utils.studies import Study
from utils.tickets import Ticket, TicketFile
from utils.workers import Workers


def algorithm_2(start: list[float], tickets: list[list[float]], coefficients: list[float], keep: int, score):
    """Algorithm 2 of the paper, on lists: the pool, its score, and (scores, best coefficient, accepted) a candidate.

    Of equals it takes, as the published script does, the coefficient that keeps most of the pool.
    """
    pool, pool_score, decisions = start, score(start), []
    for ticket in tickets:
        best, best_score, best_coefficient, scores = None, None, None, []
        for alpha in coefficients:
            trial = [alpha * kept + (1 - alpha) * new for kept, new in zip(pool, ticket, strict=True)]
            by_size = sorted(range(len(trial)), key=lambda place: (-abs(trial[place]), place))
            for place in by_size[keep:]:
                trial[place] = 0.0
            scores.append(score(trial))
            if best is None or (scores[-1], alpha) > (best_score, best_coefficient):
                best, best_score, best_coefficient = trial, scores[-1], alpha
        accepted = best_score >= pool_score
        if accepted:
            pool, pool_score = best, best_score
        decisions.append((scores, best_coefficient, accepted))
    return pool, pool_score, decisions


def finish_run(
    ticket: Ticket,
    folder: Path,
    tickets: list[Ticket],
    score,
    method,
    search_num: int = 19,
    loss=None,
    say=lambda line: None,
    **choices,
):
    """The entry in `pools.json` and the pool's file of one start, with `score` (of a list of weights) as validation."""
    evaluator = FakeEvaluator(tickets, score, loss or (lambda weights: 0.0))
    study = Study(evaluator.files, evaluator, search_num, 41, folder, {"settings": {}, "versions": {}}, say)
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


@pytest.mark.parametrize("interval, saved", [(0, [1, 2, 3]), (35, [3]), (1000, [])])
def test_an_unfinished_pool_is_saved_when_it_is_time(interval, saved, tmp_path, monkeypatch):
    """By a clock on which each line of the log takes ten seconds: those of a start and of each candidate."""
    tickets, lines, found = [make_ticket(level, [1.0, 4.0], [1, 1]) for level in range(4)], [], []
    monkeypatch.setattr("utils.pool_runs.time.monotonic", lambda: 10 * len(lines))
    monkeypatch.setattr(PoolFiles, "save_unfinished", lambda run, file, pool: found.append(len(pool.steps)))
    method = greedy([0.5])
    finish_run(tickets[0], tmp_path, tickets, lambda weights: 1, method, say=lines.append, save_interval=interval)
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
