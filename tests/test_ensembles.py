"""Ensembles, from the command line to the files."""

import csv
from types import SimpleNamespace

import pytest
import torch
from conftest import DIGITS, SMALL
from script_runs import (
    ENSEMBLE,
    KEPT,
    RESULTS,
    assert_shows_something,
    change_network,
    names,
    pools_json,
    published_file,
    table_of,
)

import models
from CIFAR import Lottery_pools
from utils.evaluation import Evaluator
from utils.tickets import plain_state


@pytest.fixture(scope="module")
def ensembles(digits_tickets, tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("ensembles") / "pools"
    flags = [*DIGITS, "--arch", "resnet20s", *ENSEMBLE, "--search_num", "1", "--checkpoint", str(digits_tickets)]
    Lottery_pools.main([*flags, "--save_dir", str(folder)])
    return SimpleNamespace(folder=folder, entries=pools_json(folder)["pools"], flags=flags)


@pytest.mark.parametrize("kept, times", [(2**30, 6), (0, 18)])
def test_a_network_runs_once_for_all_ensembles_if_its_predictions_may_be_kept(search, monkeypatch, kept, times):
    """Three tickets on validation and test images; each is in three ensembles."""
    expected = pools_json(search("whole", "--interpolate_method", "ensemble"))["pools"]
    runs, probabilities = [], Evaluator.probabilities
    monkeypatch.setattr("utils.predictions.KEPT_BYTES", kept)
    monkeypatch.setattr(Evaluator, "probabilities", lambda *args: runs.append(args) or probabilities(*args))
    assert pools_json(search("again", "--interpolate_method", "ensemble"))["pools"] == expected
    assert len(runs) == times


def test_ensembles_are_the_mean_of_their_members_probabilities_in_plain_pytorch(ensembles, digits_tickets, digits):
    for entry, levels in zip(ensembles.entries, ([0, 1], [1, 0], [2, 1]), strict=True):
        assert entry["members"] == [{"level": level, "weight": 0.5} for level in levels]
        for part, images in (("val", digits.val), ("test", digits.test)):
            mean = 0
            for level in levels:
                net = models.build("resnet20s", 10, [0.0] * 3, [1.0] * 3)
                net.load_state_dict(plain_state(published_file(digits_tickets, level)["state_dict"], "")[0])
                with torch.no_grad():
                    mean = mean + net.eval()(images.images.permute(0, 3, 1, 2) / 255).softmax(1) / 2
            right = int((mean.argmax(1) == images.labels).sum())
            assert entry[f"pool_{part}_accuracy"] == 100 * right / len(images.labels)


@pytest.mark.pictures
def test_ensembles_say_what_they_cost(ensembles, capfd):
    for entry in ensembles.entries:
        kept = [KEPT[member["level"]] for member in entry["members"]]
        assert (entry["networks"], entry["weights"]) == (2, sum(kept) / KEPT[entry["level"]])
    Lottery_pools.main([*ensembles.flags, "--save_dir", str(ensembles.folder)])
    header, _, *rows = table_of(capfd.readouterr().out)
    assert header.split()[5:] == ["ensemble", "%", "gain", "networks", "weights", "members", "(level:share)"]
    assert [row.split()[5:7] for row in rows] == [["2", "1.80×"], ["2", "2.25×"], ["2", "2.25×"]]


def test_ensembles_leave_a_table_and_a_picture_and_no_network(ensembles):
    assert names(ensembles.folder) == RESULTS
    assert_shows_something(ensembles.folder / "accuracy.png")
    with (ensembles.folder / "pools.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["pool_test_accuracy"]) for row in rows] == [
        entry["pool_test_accuracy"] for entry in ensembles.entries
    ]


def test_ensemble_of_a_ticket_that_changed_is_scored_again(small_tickets):
    command = [*SMALL, *ENSEMBLE, "--search_num", "1", "--checkpoint", str(small_tickets)]
    Lottery_pools.main(command)
    before = pools_json(small_tickets / "pools" / "ensemble")["pools"]
    change_network(small_tickets / "2model_SA_best.pth.tar")
    Lottery_pools.main(command)
    after = pools_json(small_tickets / "pools" / "ensemble")["pools"]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False]
