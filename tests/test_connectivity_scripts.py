"""The line between tickets, from the command line to the files."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import DIGITS, LIST
from script_runs import assert_shows_something, names, stop_after, table_of

from CIFAR import Lottery_pools
from utils.connectivity import ConnectivityRun


@pytest.fixture(scope="module")
def walked(digits_tickets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("walked")
    files = ["--checkpoint", str(digits_tickets), "--save_dir", str(folder)]
    Lottery_pools.main([*DIGITS, "--arch", "resnet20s", "--interpolate_method", "liner_inter", *LIST, *files])
    return folder


def test_connectivity_walks_each_pair_of_neighbours_with_both_ends(walked):
    content = json.loads((walked / "connectivity.json").read_text())
    assert {*content} == {"settings", "versions", "paths"}
    assert [path["levels"] for path in content["paths"]] == [[0, 1], [1, 2]]
    for path in content["paths"]:
        assert path["coefficients"] == [0.0, 0.3, 0.7, 1.0]
        losses, ends = path["test_loss"], (path["test_loss"][0], path["test_loss"][-1])
        straight = [ends[0] + (ends[1] - ends[0]) * coefficient for coefficient in path["coefficients"]]
        rise = max(loss - level for loss, level in zip(losses, straight, strict=True))
        assert path["barrier"] == pytest.approx(rise, abs=1e-12)


def test_connectivity_has_its_own_table_and_picture(walked):
    assert names(walked) == ["connectivity.csv", "connectivity.json", "connectivity.pdf", "connectivity.png"]
    assert_shows_something(walked / "connectivity.png")
    with (walked / "connectivity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = json.loads((walked / "connectivity.json").read_text())["paths"]
    losses = [loss for path in paths for loss in path["test_loss"]]
    assert [float(row["test_loss"]) for row in rows] == losses


@pytest.mark.pictures
def test_all_pairs_are_asked_for_in_the_folder_of_the_neighbours(walked, digits_tickets, tmp_path, capfd):
    folder = tmp_path / "lines"
    shutil.copytree(walked, folder)
    files = ["--checkpoint", str(digits_tickets), "--save_dir", str(folder), "--pairs", "all"]
    Lottery_pools.main([*DIGITS, "--arch", "resnet20s", "--interpolate_method", "linear_inter", *LIST, *files])
    assert [row.split()[0] for row in table_of(capfd.readouterr().out)[2:]] == ["0-1", "0-2", "1-2"]
    before, after = (json.loads((path / "connectivity.json").read_text())["paths"] for path in (walked, folder))
    assert [after[0], after[2]] == before and after[1]["levels"] == [0, 2]
    assert_shows_something(folder / "barriers.png")


def test_interrupted_walk_goes_on_to_the_same_paths(walked, digits_tickets, tmp_path, monkeypatch):
    command = [*DIGITS, "--arch", "resnet20s", "--interpolate_method", "liner_inter", *LIST]
    command += ["--checkpoint", str(digits_tickets), "--save_dir", str(tmp_path)]
    stop_after(monkeypatch, ConnectivityRun, "_walk_pair", 1)
    with pytest.raises(KeyboardInterrupt):
        Lottery_pools.main(command)
    monkeypatch.undo()
    Lottery_pools.main(command)
    paths = [json.loads((folder / "connectivity.json").read_text())["paths"] for folder in (walked, tmp_path)]
    assert paths[0] == paths[1]
