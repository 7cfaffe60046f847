"""The search against a plain, slow one that has none of its shortcuts, on tickets of digits."""

import copy

import pytest
import torch
from conftest import DIGITS
from torch.optim.swa_utils import update_bn

import models
from CIFAR import Lottery_pools
from CIFAR.dataset import load_data
from utils import checkpoint
from utils.pools import neighbours
from utils.tickets import find_tickets, read_ticket

COEFFICIENTS = [0.1, 0.3, 0.5, 0.7, 0.9]
SEED, VAL_IMAGES = 43, 60  # with these a candidate is rejected by three images


def slow_search(folder, level: int, data) -> list[tuple[list[float], float, bool]]:
    """Scores, best coefficient and verdict for each candidate: a network for every coefficient, sorted magnitudes,
    torch's own `update_bn`, one image after another in the score."""
    files = find_tickets(folder)
    start = next(file for file in files if file.level == level)
    ticket = read_ticket(start)
    pool, best, decisions = ticket.state, validation(ticket.state, data), []
    for number, file in enumerate(neighbours(files, start, 19), start=1):
        candidate, trials = read_ticket(file).state, []
        for coefficient in COEFFICIENTS:
            state = {
                name: coefficient * value + (1 - coefficient) * candidate[name] if value.is_floating_point() else value
                for name, value in pool.items()
            }
            if not ticket.is_dense:
                keep_largest(state, ticket)
            net = network(state, data)
            update_bn((images for images, _ in data.train_batches(64, SEED, "recalibrate", level, number)), net)
            trials.append((validation(net.state_dict(), data), net.state_dict()))
        scores = [score for score, _ in trials]
        place = max(range(len(scores)), key=lambda place: (scores[place], COEFFICIENTS[place]))
        accepted = scores[place] >= best
        if accepted:
            best, pool = scores[place], copy.deepcopy(trials[place][1])
        decisions.append((scores, COEFFICIENTS[place], accepted))
    return decisions


def keep_largest(state, ticket) -> None:
    weights = torch.cat([state[name].flatten() for name in ticket.mask])
    order = torch.argsort(weights.abs(), descending=True, stable=True)
    weights[order[ticket.kept :]] = 0.0
    parts = weights.split([state[name].numel() for name in ticket.mask])
    for name, part in zip(ticket.mask, parts, strict=True):
        state[name] = part.view_as(state[name])


def network(state, data):
    net = models.build("cifar_resnet_8_4", len(data.classes), data.mean, data.std)
    net.load_state_dict(state)
    return net


@torch.no_grad()
def validation(state, data) -> float:
    net = network(state, data).eval()
    right = sum(
        int(net(images[place : place + 1]).argmax() == labels[place])
        for images, labels in data.eval_batches("val")
        for place in range(len(labels))
    )
    return 100 * right / len(data.val)


@pytest.fixture(scope="module")
def slow(_small_tickets) -> dict[int, list]:
    """What the slow search does from each level, asked once for all tests; they have copies of the same tickets."""
    data = load_data("digits", None, "cpu", VAL_IMAGES, data_limit=200)
    return {level: slow_search(_small_tickets, level, data) for level in range(3)}


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_search_decides_as_a_plain_slow_one_does(jobs, slow, small_tickets, tmp_path):
    flags = ["--arch", "cifar_resnet_8_4", "--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / "pools")]
    flags += ["--interpolation_value_list", *map(str, COEFFICIENTS), "--seed", str(SEED)]
    Lottery_pools.main([*DIGITS, *flags, "--val_images", str(VAL_IMAGES), "--jobs", str(jobs), "--quiet"])
    entries, verdicts = checkpoint.load_json(tmp_path / "pools" / "pools.json")["pools"], []
    assert [entry["level"] for entry in entries] == [0, 1, 2]
    for entry in entries:
        found = [(step["scores"], step["coefficient"], step["accepted"]) for step in entry["steps"]]
        assert found == slow[entry["level"]] and len(found) == 2
        verdicts += [accepted for *_, accepted in found]
    assert {*verdicts} == {True, False}, "one that only accepts, or only rejects, would agree too"
