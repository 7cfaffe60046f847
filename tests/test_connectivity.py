import math
from pathlib import Path

import pytest
import torch
from conftest import SMALL

from CIFAR import Lottery_pools
from utils import checkpoint
from utils.connectivity import ConnectivityRun, barrier, walk
from utils.distributed import SINGLE
from utils.errors import UserError
from utils.evaluation import Score
from utils.studies import Study
from utils.tickets import Ticket, TicketFile


@pytest.mark.parametrize(
    "coefficients, losses, expected",
    [
        ((0.0, 0.5, 1.0), (1.0, 3.0, 1.0), 2.0),
        ((0.0, 0.25, 0.5, 1.0), (2.0, 2.5, 5.0, 2.0), 3.0),
        ((0.0, 0.5, 1.0), (1.0, 0.5, 1.0), 0.0),
        ((0.0, 0.5, 1.0), (1.0, 2.0, 3.0), 0.0),
        # A line from 1 to 3 is at 1.5 after a quarter and at 2 after half.
        ((0.0, 0.25, 0.5, 1.0), (1.0, 2.25, 2.5, 3.0), 0.75),
        # A line from 3 to 1, uneven steps: 2.8 after a tenth, 1.2 after nine tenths.
        ((0.0, 0.1, 0.9, 1.0), (3.0, 2.9, 1.7, 1.0), 0.5),
        ((0.0, 1.0), (4.0, 1.0), 0.0),
    ],
    ids=["rise", "highest of several", "dip", "straight", "tilted up", "tilted down", "ends alone"],
)
def test_the_barrier_is_the_highest_rise_above_the_line_between_the_ends(coefficients, losses, expected):
    assert barrier(coefficients, losses) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "losses", [(1.0, math.nan, 3.0, 1.0), (math.nan, 1.0, 1.0, 1.0), (1.0, math.inf, 2.0, math.inf)]
)
def test_a_line_with_losses_that_are_no_numbers_has_a_barrier_that_is_none(losses):
    assert math.isnan(barrier((0.0, 0.3, 0.6, 1.0), losses))


def test_a_loss_of_infinity_between_the_ends_is_an_infinite_barrier():
    assert barrier((0.0, 0.5, 1.0), (1.0, math.inf, 1.0)) == math.inf


def test_a_line_without_a_rise_has_no_barrier_at_all():
    """Rounding at the ends is no barrier."""
    pairs = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(3).exp()
    assert {barrier((0.0, 1.0), pair) for pair in pairs.tolist()} == {0.0}


def weigh(state) -> Score:
    """Of 10 images as many right as the weight says, and twice its square as the loss."""
    weight = state["w"].item()
    return Score(round(weight), 10, 20 * weight**2)


def test_the_coefficient_is_the_share_of_the_first_network():
    line = walk({"w": torch.tensor(8.0)}, {"w": torch.tensor(0.0)}, [0.25, 0.75], weigh)
    assert line["coefficients"] == [0.0, 0.25, 0.75, 1.0]
    assert line["test_accuracy"] == [0.0, 20.0, 60.0, 80.0]
    assert line["test_loss"] == [0.0, 8.0, 72.0, 128.0]
    assert line["barrier"] == 0.0


def test_the_barrier_of_a_walk_is_that_of_its_losses():
    # Weights 2, 0, -2 and then losses 1 - w²/8: 0.5, 1, 0.5.
    line = walk(
        {"w": torch.tensor(2.0)},
        {"w": torch.tensor(-2.0)},
        [0.5],
        lambda state: Score(0, 1, 1 - state["w"].item() ** 2 / 8),
    )
    assert line["test_loss"] == [0.5, 1.0, 0.5]
    assert line["barrier"] == 0.5


@pytest.mark.parametrize("given", [[], [0.0, 1.0], [1.0, 0.5, 0.0, 0.5]])
def test_both_ends_are_there_once_and_points_rise(given):
    line = walk({"w": torch.tensor(8.0)}, {"w": torch.tensor(0.0)}, given, weigh)
    assert line["coefficients"] == sorted({0.0, 1.0, *given})
    assert len(line["test_accuracy"]) == len(line["test_loss"]) == len(line["coefficients"])


def test_the_ends_are_scored_exactly_as_they_are():
    draws = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.randint(-8, 8, (2, 1000), generator=draws)
    first, second = torch.randn(2, 1000, generator=draws) * sizes
    scored = []

    def score(state):
        scored.append(state["w"])
        return Score(0, 1, 0.0)

    walk({"w": first}, {"w": second}, [0.5], score)
    assert torch.equal(scored[0], second)
    assert torch.equal(scored[-1], first)


class FakeEvaluator:
    """Tickets of one weight, the level plus one; `scored` holds the purpose and the weight of every point."""

    def __init__(self):
        self.scored, self.processes = [], SINGLE

    def read_ticket(self, file: TicketFile) -> Ticket:
        return Ticket(file.level, file.path, {"w": torch.tensor(file.level + 1.0)}, {"w": torch.tensor(True)})

    def recalibrate(self, state, *purpose):
        self.scored.append((purpose, state["w"].item()))
        return {"w": state["w"] + 100}

    def test(self, state) -> Score:
        return Score(1, 1, state["w"].item())


def pairs_of(entries: list[dict]) -> list[list[int]]:
    return [entry["levels"] for entry in entries]


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """Walks the levels that it is given, with [0.5], and returns the entries and the evaluator."""
    drawn = {}
    for name in ("report.plot_connectivity", "heat_maps.plot_barriers"):
        monkeypatch.setattr(f"utils.{name}", lambda entries, path, name=name: drawn.update({name: pairs_of(entries)}))

    def run(*levels: int, pairs: str = "neighbours", chosen: tuple[int, ...] | None = None):
        evaluator = FakeEvaluator()
        files = [TicketFile(level, Path(f"{level}.pth")) for level in levels]
        description = {"settings": {}, "versions": {}}
        run = ConnectivityRun(Study(files, evaluator, 1, 41, tmp_path, description), pairs)
        drawn.clear()
        entries = run.run([0.5], levels if chosen is None else chosen)
        evaluator.drawn = dict(drawn)
        assert checkpoint.load_json(tmp_path / "connectivity.json")["paths"] == entries
        return entries, evaluator

    return run


def test_neighbouring_levels_are_walked_from_the_sparser_to_the_denser(connect):
    entries, _ = connect(0, 1, 3)
    assert [entry["levels"] for entry in entries] == [[0, 1], [1, 3]]
    # Recalibration, which adds 100 here, comes before the score.
    assert [entry["test_loss"] for entry in entries] == [[102.0, 101.5, 101.0], [104.0, 103.0, 102.0]]


def test_all_points_of_a_line_are_recalibrated_on_the_same_images(connect):
    _, evaluator = connect(0, 1, 2)
    purposes = [purpose for purpose, _ in evaluator.scored]
    assert len(purposes) == 6
    assert len(set(purposes[:3])) == len(set(purposes[3:])) == 1
    assert purposes[0] != purposes[3]


def test_pairs_that_were_walked_are_not_walked_again(connect):
    first, _ = connect(0, 1)
    entries, evaluator = connect(0, 1, 2)
    assert entries[0] == first[0]
    assert [weight for _, weight in evaluator.scored] == [3.0, 2.5, 2.0]


def test_all_pairs_are_walked_once_each_and_drawn_as_a_matrix(connect):
    entries, evaluator = connect(0, 1, 3, pairs="all")
    assert pairs_of(entries) == [[0, 1], [0, 3], [1, 3]]
    assert [entry["test_loss"] for entry in entries] == [
        *([102.0, 101.5, 101.0], [104.0, 102.5, 101.0], [104.0, 103.0, 102.0])
    ]
    assert evaluator.drawn == {
        "report.plot_connectivity": [[0, 1], [1, 3]],
        "heat_maps.plot_barriers": [[0, 1], [0, 3], [1, 3]],
    }


def test_neighbours_that_were_walked_are_not_walked_again_with_all_pairs(connect):
    first, evaluator = connect(0, 1, 2)
    assert [*evaluator.drawn] == ["report.plot_connectivity"]
    entries, evaluator = connect(0, 1, 2, pairs="all")
    assert [entries[0], entries[2]] == first
    assert [weight for _, weight in evaluator.scored] == [3.0, 2.0, 1.0]
    again, evaluator = connect(0, 1, 2)
    assert again == entries and evaluator.scored == [], "what is there stays"
    assert evaluator.drawn == {"report.plot_connectivity": [[0, 1], [1, 2]]}


def test_levels_choose_the_denser_neighbour_or_both_ends_of_a_pair(connect):
    assert pairs_of(connect(0, 1, 2, 3, chosen=(1,))[0]) == [[1, 2]]
    assert pairs_of(connect(0, 1, 2, 3, chosen=(0, 2, 3), pairs="all")[0]) == [[0, 2], [0, 3], [1, 2], [2, 3]]


def test_the_last_level_chooses_the_line_that_comes_to_it(connect):
    assert pairs_of(connect(0, 1, 3, chosen=(3,))[0]) == [[1, 3]]
    assert pairs_of(connect(0, 1, 3, chosen=(0, 3))[0]) == [[0, 1], [1, 3]]


def test_lines_to_a_ticket_that_is_gone_or_has_changed_are_dropped(connect, tmp_path):
    connect(0, 1, 2, pairs="all")
    assert pairs_of(connect(0, 2, pairs="all")[0]) == [[0, 2]]
    content = checkpoint.load_json(tmp_path / "connectivity.json")
    content["paths"][0]["tickets"][0][1] = "another"
    checkpoint.save_json(content, tmp_path / "connectivity.json")
    _, evaluator = connect(0, 2, pairs="all")
    assert len(evaluator.scored) == 3


def test_levels_without_a_pair_are_a_mistake(connect, tmp_path):
    with pytest.raises(UserError, match=r"^--levels 1: --pairs all .* name two or more$"):
        connect(0, 1, 3, pairs="all", chosen=(1,))
    assert not [*tmp_path.iterdir()]


def test_levels_without_a_pair_end_the_program_in_one_line(fails, small_tickets):
    line = fails(
        *(Lottery_pools, *SMALL, "--checkpoint", small_tickets, "--interpolate_method", "linear_inter"),
        *("--levels", 2, "--pairs", "all", "--quiet"),
    )
    assert line.startswith("Lottery_pools.py: error: --levels 2: ")
    assert not (small_tickets / "pools").exists()
