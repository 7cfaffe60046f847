"""evaluate.py on tickets, pools and single files: scores, pairs, means over runs, corrupted images, and bad input."""

import csv
import io
import itertools
import json
import math
import os
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from conftest import SMALL, snapshot
from script_runs import assert_shows_something, change_network, entries

import models
from CIFAR import Lottery_pools, evaluate
from CIFAR.corruptions import CorruptedArrays
from CIFAR.dataset import Split, load_data
from utils import checkpoint
from utils.corruptions import SEVERITIES, STANDARD, in_order, mean_accuracy
from utils.errors import UserError
from utils.evaluation import Evaluator
from utils.network_files import find_networks
from utils.parser import run_script
from utils.predictions import mcnemar
from utils.scoring import read_networks, score_networks
from utils.ticket_cache import TicketCache
from utils.tickets import TicketFile, find_tickets, plain_state

METHODS = {"Lottery_pools_0.5": "average", "interpolate_swa": "SWA"}
IMAGES = [*SMALL[:4], "--device", "cpu", "--arch", "cifar_resnet_8_4"]
PICTURES = [f"{name}.{kind}" for name in ("accuracy", "reliability") for kind in ("pdf", "png")]


@pytest.fixture(scope="module")
def _run(_small_tickets, tmp_path_factory) -> Path:
    """Tickets of a tiny network on digits, levels 0 to 2, and beside them the pools of two methods from levels 0, 1."""
    folder = Path(shutil.copytree(_small_tickets, tmp_path_factory.mktemp("run") / "tickets"))
    for method in (["Lottery_pools", "--interpolation_value_list", "0.5"], ["interpolate_swa"]):
        search = ["--interpolate_method", *method, "--levels", "0", "1", "--quiet"]
        Lottery_pools.main([*SMALL, *search, "--checkpoint", str(folder)])
    return folder


@pytest.fixture
def run(_run, tmp_path) -> Path:
    """The same in a folder that a test may do anything with."""
    return Path(shutil.copytree(_run, tmp_path / "tickets"))


@pytest.fixture
def scores(tmp_path, capsys):
    """Runs evaluate.py; returns the networks of evaluation.json and what was printed."""

    def run(*arguments: object) -> tuple[list[dict], str]:
        out = tmp_path / "out"
        evaluate.main([*map(str, arguments), *IMAGES, "--save_dir", str(out)])
        return json.loads((out / "evaluation.json").read_text())["networks"], capsys.readouterr().out

    return run


def by_name(networks: list[dict]) -> dict[tuple[str, int], dict]:
    return {(network["method"], network["level"]): network for network in networks}


def digits_evaluator() -> tuple[Split, Evaluator]:
    """The images that SMALL runs are tested on, and what scores such networks."""
    data = load_data("digits", None, "cpu", data_limit=200)
    net = models.build("cifar_resnet_8_4", len(data.classes), data.mean, data.std)
    return data.test, Evaluator("cifar_resnet_8_4", [net], data, 64)


def assert_are_pictures(folder: Path, *names: str) -> None:
    for name in names:
        if name.endswith(".pdf"):
            assert (folder / name).read_bytes().startswith(b"%PDF")
        else:
            assert_shows_something(folder / name)


# Scores


@pytest.mark.pictures
def test_scores_are_those_that_the_search_recorded(run, scores, tmp_path):
    folders = [run / "pools" / name for name in METHODS]
    networks, _ = scores(*folders, "--score")
    found = by_name(networks)
    for folder in folders:
        for entry in entries(folder):
            pool, ticket = found[METHODS[folder.name], entry["level"]], found["ticket", entry["level"]]
            assert pool["accuracy"] == entry["pool_test_accuracy"]
            assert ticket["accuracy"] == entry["ticket_test_accuracy"]
            assert pool["density"] == ticket["density"] == entry["density"]
            assert pool["gain"] == entry["pool_test_accuracy"] - entry["ticket_test_accuracy"]
    assert_are_pictures(tmp_path / "out", "gain.png", "gain.pdf")


def test_gain_of_a_pool_is_tested_on_the_images_that_one_alone_has_right(run, scores):
    networks, printed = scores(run / "pools/interpolate_swa", "--score")
    test, evaluator = digits_evaluator()
    found = by_name(networks)
    for level in (0, 1):
        pool, ticket = found["SWA", level], found["ticket", level]
        states = [evaluator.read_ticket(TicketFile(level, Path(network["path"]))).state for network in (ticket, pool)]
        paired = mcnemar(*(evaluator.predict(state, test.batches(50)) for state in states))
        assert pool["ticket"] == ticket["path"]
        assert (pool["only_ticket_correct"], pool["only_pool_correct"]) == (paired.only_first, paired.only_second)
        assert pool["p_value"] == paired.p_value < 1
        assert pool["gain"] == pytest.approx(100 * (paired.only_second - paired.only_first) / 200)
    assert "McNemar" in printed


@pytest.mark.pictures
def test_files_agree_and_pictures_are_drawn(run, scores, tmp_path):
    networks, printed = scores(run)
    out = tmp_path / "out"
    files = ["evaluation.csv", "evaluation.json", "report.html", *PICTURES]
    assert sorted(path.name for path in out.iterdir()) == sorted(files)
    with (out / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["nll"]) for row in rows] == [network["nll"] for network in networks]
    content = json.loads((out / "evaluation.json").read_text())
    assert content["settings"]["arch"] == "cifar_resnet_8_4" and "torch" in content["versions"]
    assert [group["level"] for group in content["summary"]] == [0, 1, 2]
    for network in networks:
        assert sum(bin["images"] for bin in network["bins"]) == network["images"] == 200
        assert sum(bin["correct"] for bin in network["bins"]) == round(2 * network["accuracy"])
    assert_are_pictures(out, *PICTURES)
    assert "gain" not in printed and "corrupted" not in printed


def test_results_go_into_a_folder_of_tickets_and_beside_one_of_pools(run):
    evaluate.main([str(run), *IMAGES])
    assert (run / "evaluation.json").exists()
    evaluate.main([str(run / "pools/interpolate_swa"), "--score", *IMAGES])
    assert (run / "pools/evaluation.json").exists()


@pytest.mark.parametrize(
    "inside, named",
    [
        ("", "pools/interpolate_swa/pools.json"),
        ("", "pools/interpolate_swa/1pool.pth.tar"),
        ("pools/interpolate_swa", "."),
        ("pools/interpolate_swa", "pools.json"),
        ("pools/interpolate_swa", "1pool.pth.tar"),
        ("pools/interpolate_swa/deeper", ".."),
    ],
)
def test_the_pictures_of_a_search_are_not_those_of_a_comparison(run, monkeypatch, inside, named):
    """Both are called accuracy.png; of a single pool as of its folder, results go beside that folder."""
    pools = run / "pools/interpolate_swa"
    (pools / "deeper").mkdir()
    before = snapshot(pools)
    monkeypatch.chdir(run / inside)
    evaluate.main([named, *IMAGES])
    assert snapshot(pools) == before
    assert (run / "pools/accuracy.png").exists() and (run / "pools/report.html").exists()


@pytest.mark.parametrize("flags", [(), ("--score",)])
def test_the_pictures_of_a_search_are_not_replaced_by_save_dir(evaluation_fails, run, flags):
    pools = run / "pools/interpolate_swa"
    before = snapshot(pools)
    assert f"--save_dir {pools} holds pools" in evaluation_fails(pools, "--save_dir", pools, *flags)
    assert snapshot(pools) == before


# What is scored


@pytest.mark.parametrize("flags", [[], ["--score"]])
def test_all_that_is_in_the_folder_of_pools_can_be_named_again(run, flags):
    for _ in range(2):
        evaluate.main([*map(str, sorted((run / "pools").iterdir())), *flags, *IMAGES])
    assert (run / "pools" / "report.html").exists()


def test_ticket_pool_and_plain_network_are_scored_from_their_files(run, scores, tmp_path):
    plain = tmp_path / "my network.pt"
    pool = run / "pools/interpolate_swa/1pool.pth.tar"
    torch.save(torch.load(pool, weights_only=True)["state_dict"], plain)
    networks, printed = scores(run / "1model_SA_best.pth.tar", pool, plain)
    names = [(network["method"], network["level"]) for network in networks]
    assert names == [("ticket", 1), ("SWA", 1), ("my network.pt", None)]
    assert networks[1]["accuracy"] == networks[2]["accuracy"] and networks[2]["gain"] is None
    assert networks[1]["gain"] == networks[1]["accuracy"] - networks[0]["accuracy"]
    assert networks[2]["density"] is None, "a file without a mask does not tell what was pruned"
    (row,) = [line for line in printed.splitlines() if "  my network.pt  " in line]
    assert float(row.split("my network.pt")[1].split()[0]) == round(networks[2]["accuracy"], 2)
    assert row.split("my network.pt")[0].strip() == ""
    assert f"for 1 files that hold no mask: {plain}" in printed


def test_a_sparse_ticket_without_its_mask_has_no_density(run, scores, tmp_path):
    exported = tmp_path / "exported"
    exported.mkdir()
    for level in (0, 1):
        path = run / f"{level}model_SA_best.pth.tar"
        state, _ = plain_state(torch.load(path, weights_only=True)["state_dict"], path)
        torch.save(state, exported / path.name)
    networks, printed = scores(exported)
    assert [(network["level"], network["density"]) for network in networks] == [(0, 1.0), (1, None)]
    assert f"for 1 files that hold no mask: {exported / '1model_SA_best.pth.tar'}" in printed


def test_the_table_is_printed_before_anything_is_written(run, tmp_path, capsys, monkeypatch):
    def no_room(*args):
        raise UserError("no space left")

    monkeypatch.setattr(checkpoint, "save_json", no_room)
    with pytest.raises(UserError, match="no space"):
        evaluate.main([str(run), *IMAGES, "--save_dir", str(tmp_path / "out")])
    assert capsys.readouterr().out.count("ticket ") == 3


def test_nothing_is_scored_twice(run, scores):
    pools = run / "pools/interpolate_swa"
    networks, _ = scores(run, pools, pools / "pools.json", run / "0model_SA_best.pth.tar")
    assert len(networks) == 3 + 2


def test_pools_elsewhere_find_their_tickets_when_these_are_named(run, scores, tmp_path):
    pools = Path(shutil.move(run / "pools/interpolate_swa", tmp_path / "elsewhere"))
    networks, printed = scores(pools, "--score")
    assert [network["gain"] for network in networks] == [None, None]
    assert "no gain" in printed and str(pools / "0pool.pth.tar") in printed
    networks, printed = scores(pools, run)
    assert [network["gain"] is None for network in networks] == [False, False, True, True, True]
    assert "no gain" not in printed


def test_ticket_that_changed_since_is_no_longer_the_pools(run, scores):
    change_network(run / "0model_SA_best.pth.tar", 0.5)
    networks, printed = scores(run / "pools/interpolate_swa", "--score")
    found = by_name(networks)
    assert found["SWA", 0]["gain"] is None and found["SWA", 1]["gain"] is not None
    assert "interpolate_swa/0pool.pth.tar" in printed.split("no gain")[1]


def test_openlth_runs_and_their_files_are_scored(openlth_tickets, tmp_path):
    draws = np.random.RandomState(0)
    arrays = {}
    for part, count in (("train", 10), ("test", 20)):
        arrays |= {f"x_{part}": draws.randint(0, 256, (count, 32, 32, 3), np.uint8), f"y_{part}": np.arange(count)}
    np.savez(tmp_path / "images.npz", **arrays)
    images = ["--dataset", "npz", "--data", str(tmp_path / "images.npz"), "--arch", "imagenet_resnet_18_8"]
    before = snapshot(openlth_tickets)
    (file,) = openlth_tickets.glob("*/*/level_3/main/model_ep3_it0.pth")
    for number, path in enumerate((openlth_tickets, file)):
        evaluate.main([str(path), *images, "--device", "cpu", "--save_dir", str(tmp_path / str(number))])
    whole, single = (json.loads((tmp_path / name / "evaluation.json").read_text())["networks"] for name in "01")
    assert [network["level"] for network in whole] == [0, 1, 2, 3, 4]
    assert single == [whole[3]]
    assert snapshot(openlth_tickets) == before


# Several runs


def test_runs_of_one_method_and_level_become_mean_and_deviation(run, scores, tmp_path):
    second = Path(shutil.copytree(run, tmp_path / "second"))
    for path in second.glob("*model_SA_best*"):
        change_network(path, 0.3)
    networks, printed = scores(run, second)
    summary = json.loads((tmp_path / "out/evaluation.json").read_text())["summary"]
    assert [(group["level"], group["networks"]) for group in summary] == [(0, 2), (1, 2), (2, 2)]
    for group in summary:
        values = [network["accuracy"] for network in networks if network["level"] == group["level"]]
        assert values[0] != values[1]
        assert group["accuracy"] == {"mean": mean(values), "deviation": stdev(values)}
        assert f"{mean(values):.2f} ± {stdev(values):.2f}" in printed


def test_p_values_of_several_runs_are_counted(run, scores, tmp_path):
    second = Path(shutil.copytree(run, tmp_path / "second"))
    _, evaluator = digits_evaluator()
    for file in find_tickets(second)[:2]:  # of another run, then, and the pools are theirs
        change_network(file.path, 0.3)
        pool = second / f"pools/interpolate_swa/{file.level}pool.pth.tar"
        record = torch.load(pool, weights_only=True)
        record["tickets"][0][1] = evaluator.read_ticket(file).digest()
        torch.save(record, pool)
    _, printed = scores(run / "pools/interpolate_swa", second / "pools/interpolate_swa", "--score")
    assert printed.count("of 2 < 0.05") == 2


def copy_state(source: Path, target: Path) -> Path:
    """The weights alone, as export.py writes them."""
    target.parent.mkdir(parents=True)
    torch.save(torch.load(source, weights_only=True)["state_dict"], target)
    return target


def test_files_of_one_name_are_no_runs(run, scores, tmp_path):
    pools = run / "pools/interpolate_swa"
    files = [
        copy_state(pools / f"{level}pool.pth.tar", tmp_path / folder / "net.pt")
        for level, folder in ((0, "a"), (1, "b/same"), (0, "c/same"))
    ]
    networks, printed = scores(*files)
    names = ["net.pt (a)", *(f"net.pt (same) ({file.parent})" for file in files[1:])]
    assert [network["method"] for network in networks] == names
    summary = json.loads((tmp_path / "out/evaluation.json").read_text())["summary"]
    assert [(group["networks"], group["density"]) for group in summary] == [(1, None)] * 3
    assert "±" not in printed
    assert not (tmp_path / "out/accuracy.png").exists(), "no density, no place on its axis"


def test_a_mask_in_another_file_tells_its_density(run, scores, tmp_path):
    masked = copy_state(run / "1model_SA_best.pth.tar", tmp_path / "a/net.pt")
    plain = copy_state(run / "pools/interpolate_swa/1pool.pth.tar", tmp_path / "b/net.pt")
    networks, _ = scores(plain, masked, run / "1model_SA_best.pth.tar")
    densities = [network["density"] for network in networks]
    assert densities[0] is None and densities[1] == densities[2] < 1
    rows = (tmp_path / "out/evaluation.csv").read_text().splitlines()
    assert rows[1].startswith("net.pt (b),,,")


def test_searches_in_folders_of_one_name_are_no_runs(run, scores, tmp_path):
    again = Path(shutil.copytree(run / "pools/interpolate_swa", tmp_path / "again/interpolate_swa"))
    networks, _ = scores(run / "pools/interpolate_swa", again, "--score")
    folders = (run / "pools", tmp_path / "again")
    names = {f"SWA (interpolate_swa) ({folder / 'interpolate_swa'})" for folder in folders}
    assert {network["method"] for network in networks} == {"ticket", *names}


@pytest.mark.pictures
def test_folders_whose_names_are_not_utf8(run, monkeypatch):
    """In files, in pictures (networks and methods are called after files and folders) and on a strict terminal."""
    folder = run / os.fsdecode(b"caf\xe9")
    shutil.copytree(run / "pools/interpolate_swa", folder)
    copy_state(folder / "0pool.pth.tar", run / os.fsdecode(b"n\xe9t/n\xe9t.pt"))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    for paths in ([folder, run / "pools/interpolate_swa"], [folder, *run.glob("n*/*.pt")]):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, paths), *IMAGES, "--save_dir", str(folder / "out")])
        with pytest.raises(SystemExit) as stop:
            run_script(evaluate.main)
        assert stop.value.code == 0
    terminal.flush()
    printed = terminal.buffer.getvalue().decode()
    assert "SWA (caf\\udce9)" in printed and "n\\udce9t.pt" in printed and "caf\\udce9/out" in printed
    for name in ("evaluation.csv", "comparison.csv", "report.html"):
        assert "\\udce9" in (folder / "out" / name).read_text(encoding="utf-8")
    networks = json.loads((folder / "out/evaluation.json").read_text())["networks"]
    assert all(Path(network["path"]).exists() for network in networks)


def test_two_searches_of_one_method_on_one_ticket_are_no_runs(run, scores, capsys):
    shutil.copytree(run / "pools/interpolate_swa", run / "pools/again")
    networks, _ = scores(run / "pools/interpolate_swa", run / "pools/again", "--score")
    assert {network["method"] for network in networks} == {"ticket", "SWA (interpolate_swa)", "SWA (again)"}
    evaluate.main([str(run / "pools/interpolate_swa"), str(run / "pools/again")])
    assert "SWA (interpolate_swa)  SWA (again)" in capsys.readouterr().out


# Recorded results


def test_folders_of_pools_alone_are_compared_without_images(run, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "data_from_flags", lambda *_: pytest.fail("images were asked for"))
    evaluate.main([str(run / "pools" / name) for name in METHODS])
    assert "average" in capsys.readouterr().out
    assert not (run / "pools/evaluation.json").exists()


@pytest.fixture
def ensembles(run) -> Path:
    """Ensembles of the run's tickets, two networks at level 0 and three at level 1, beside its pools."""
    for level, number in (("0", "1"), ("1", "2")):
        flags = ["--interpolate_method", "ensemble", "--levels", level, "--search_num", number, "--quiet"]
        Lottery_pools.main([*SMALL, *flags, "--checkpoint", str(run), "--save_dir", str(run / "pools" / number)])
    first, second = (json.loads((run / "pools" / number / "pools.json").read_text()) for number in "12")
    first["pools"] += second["pools"]
    (run / "pools" / "ensemble").mkdir()
    (run / "pools" / "ensemble" / "pools.json").write_text(json.dumps(first))
    return run / "pools" / "ensemble"


def test_ensembles_stand_beside_pools_with_their_cost(run, ensembles, capsys):
    capsys.readouterr()
    evaluate.main([str(run / "pools/interpolate_swa"), str(ensembles), "--save_dir", str(run / "out")])
    header, _, *rows, gains, networks = capsys.readouterr().out.splitlines()[:-1]
    assert header.split()[-2:] == ["SWA", "ensemble"]
    assert [row.split()[-1] for row in rows] == [f"{entry['pool_test_accuracy']:.2f}" for entry in entries(ensembles)]
    assert gains.split()[:2] == ["mean", "gain"]
    assert networks.split() == ["networks", "1", "2-3"]


def test_pools_alone_have_no_row_of_networks(run, capsys):
    evaluate.main([str(run / "pools" / name) for name in METHODS])
    assert "networks" not in capsys.readouterr().out


# Corrupted images


@pytest.fixture
def corrupted(tmp_path) -> Path:
    """200 digits under two corruptions: `fog` leaves them as they are, but for severity 3; `spatter` blackens them."""
    test = load_data("digits", None, "cpu", data_limit=200).test
    folder = tmp_path / "corrupted"
    folder.mkdir()
    fog = test.images.numpy()[None].repeat(5, 0)
    fog[2] = fog[2, ::-1]
    np.save(folder / "fog.npy", fog.reshape(-1, 8, 8, 3))
    np.save(folder / "spatter.npy", np.zeros_like(fog).reshape(-1, 8, 8, 3))
    np.save(folder / "labels.npy", np.tile(test.labels.numpy(), 5))
    return folder


@pytest.mark.pictures
def test_corruptions_are_scored_by_severity_and_extra_ones_stay_out_of_the_mean(run, scores, corrupted, tmp_path):
    networks, printed = scores(run, "--corruptions", corrupted)
    test, evaluator = digits_evaluator()
    for network in networks:
        state = evaluator.read_ticket(TicketFile(network["level"], Path(network["path"]))).state
        reversed_images = Split(test.images.flip(0), test.labels)
        fog, spatter = network["corruptions"]["fog"], network["corruptions"]["spatter"]
        assert list(network["corruptions"]) == ["fog", "spatter"]
        assert [fog[place] for place in (0, 1, 3, 4)] == [network["accuracy"]] * 4
        accuracy = evaluator.predict(state, reversed_images.batches(200)).summary()["accuracy"]
        assert fog[2] == accuracy != network["accuracy"]
        assert len({*spatter}) == 1 and spatter[0] < 25
        assert network["corrupted_accuracy"] == pytest.approx(mean(fog))
    with (tmp_path / "out/corruptions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows if row["corruption"] == "fog"] == list(
        itertools.chain.from_iterable(network["corruptions"]["fog"] for network in networks)
    )
    assert "1 of the 15 standard corruptions (fog)" in printed
    assert_are_pictures(tmp_path / "out", "corruptions.png", "corruptions.pdf")


def test_pools_are_scored_on_corrupted_images_without_being_told_to(run, scores, corrupted):
    networks, _ = scores(run / "pools/interpolate_swa", "--corruptions", corrupted)
    assert [network["method"] for network in networks] == ["ticket", "ticket", "SWA", "SWA"]


def test_data_limit_takes_the_first_images_of_every_severity(corrupted):
    data = load_data("digits", None, "cpu", data_limit=200)
    images = CorruptedArrays(corrupted, data, limit=7)
    for severity in SEVERITIES:
        ((pixels, labels),) = images.batches("fog", severity, 100)
        assert len(pixels) == 7 and torch.equal(labels, data.test.labels[:7])
    ((pixels, _),) = images.batches("fog", 3, 100)
    assert torch.equal((pixels * 255).round().byte().permute(0, 2, 3, 1), data.test.images.flip(0)[:7])


def test_a_severity_is_all_that_is_in_memory(corrupted):
    images = CorruptedArrays(corrupted, load_data("digits", None, "cpu", data_limit=200))
    assert all(isinstance(array, np.memmap) for array in images._images.values())


def test_mean_is_over_the_standard_corruptions_in_the_papers_order():
    assert len(STANDARD) == len({*STANDARD}) == 15
    assert in_order(["spatter", "jpeg_compression", "gaussian_blur", "gaussian_noise"]) == [
        *("gaussian_noise", "jpeg_compression", "gaussian_blur", "spatter")
    ]
    assert mean_accuracy({"fog": [1, 2, 3, 4, 5], "snow": [7] * 5, "saturate": [90] * 5}) == 5
    assert mean_accuracy({"saturate": [90] * 5}) is None


# Mistakes


@pytest.fixture
def evaluation_fails(fails, run, tmp_path):
    """Runs evaluate.py with flags; returns its line, having checked that nothing was written."""

    def attempt(*arguments: object) -> str:
        before = snapshot(tmp_path)
        line = fails(evaluate, *arguments, *IMAGES)
        assert snapshot(tmp_path) == before
        return line

    return attempt


def test_tickets_of_two_experiments_are_no_runs_of_one(evaluation_fails, run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    settings = json.loads((other / "settings.json").read_text())
    settings["settings"] |= {"seed": 42, "prune_type": "lt"}
    (other / "settings.json").write_text(json.dumps(settings))
    line = evaluation_fails(run, other)
    assert (
        f"{other / '0model_SA_best.pth.tar'} was made with --prune_type lt, {run}" in line and "a command each" in line
    )


def test_damaged_settings_beside_tickets(evaluation_fails, run):
    (run / "settings.json").write_text('{"settings": 3}')
    assert f"{run / 'settings.json'} is damaged (settings)" in evaluation_fails(run)


def test_path_that_is_not_there(evaluation_fails, tmp_path):
    assert str(tmp_path / "missing") in evaluation_fails(tmp_path / "missing")


def test_folder_that_holds_neither_tickets_nor_pools(evaluation_fails, run, tmp_path):
    (tmp_path / "empty").mkdir()
    line = evaluation_fails(run, tmp_path / "empty")
    assert str(tmp_path / "empty") in line and "model_SA_best" in line and "pools.json" in line


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n"])
def test_file_that_is_no_checkpoint(evaluation_fails, tmp_path, content):
    (tmp_path / "picture.png").write_bytes(content)
    assert str(tmp_path / "picture.png") in evaluation_fails(tmp_path / "picture.png")


def test_network_of_another_arch(evaluation_fails, run, fails):
    line = fails(evaluate, run, *IMAGES, "--arch", "resnet20s")
    assert "--arch resnet20s" in line and "0model_SA_best" in line
    assert not (run / "evaluation.json").exists()


def test_pool_that_is_gone(evaluation_fails, run):
    path = run / "pools/interpolate_swa/1pool.pth.tar"
    path.unlink()
    assert str(path) in evaluation_fails(run / "pools/interpolate_swa", "--score")


def test_ensembles_are_scored_by_the_mean_of_their_members_probabilities(
    run, ensembles, scores, corrupted, monkeypatch
):
    runs, probabilities = [], Evaluator.probabilities
    monkeypatch.setattr(Evaluator, "probabilities", lambda *args: runs.append(args) or probabilities(*args))
    networks, printed = scores(ensembles, "--corruptions", corrupted)
    assert len(runs) == 3 * (1 + 2 * 5), "three tickets, once on each set of images"
    assert "up to 3 networks run" in printed
    test, evaluator = digits_evaluator()
    tickets = {file.level: evaluator.read_ticket(file) for file in find_tickets(run)}
    for recorded, members in zip(entries(ensembles), ([0, 1], [1, 0, 2]), strict=True):
        entry = by_name(networks)["ensemble", recorded["level"]]
        assert entry["networks"] == len(members)
        assert entry["accuracy"] == recorded["pool_test_accuracy"]
        assert entry["gain"] == recorded["pool_test_accuracy"] - recorded["ticket_test_accuracy"]
        fog = entry["corruptions"]["fog"]
        for accuracy, images in ((fog[0], test), (fog[2], Split(test.images.flip(0), test.labels))):
            answers = [evaluator.probabilities(tickets[level].state, images.batches(50))[0] for level in members]
            averaged = sum(answers) / len(members)
            assert accuracy == 100 * float((averaged.argmax(1) == test.labels).sum()) / len(test.labels)
            if images is test:
                true = averaged.double().gather(1, test.labels[:, None])
                assert entry["nll"] == pytest.approx(-true.log().mean().item(), rel=1e-5)


@pytest.mark.parametrize("kept, readings", [(0, 2), (10**9, 1)])
def test_networks_that_have_no_room_in_memory_are_read_again(run, scores, monkeypatch, kept, readings):
    read, found = Evaluator.read_ticket, []
    monkeypatch.setattr("utils.ticket_cache.KEPT_BYTES", kept)
    monkeypatch.setattr(Evaluator, "read_ticket", lambda self, file: found.append(file) or read(self, file))
    networks, _ = scores(run / "pools/interpolate_swa", "--score")
    assert len(found) == readings * len(networks) and len({*found}) == len(networks)


def test_ensembles_of_tickets_that_are_not_known(evaluation_fails, ensembles, tmp_path):
    elsewhere = Path(shutil.copytree(ensembles, tmp_path / "elsewhere"))
    assert str(elsewhere) in evaluation_fails(elsewhere, "--score")


def test_a_folder_of_folders_of_pools_names_these(evaluation_fails, run):
    below = ", ".join(str(run / "pools" / name) for name in ("Lottery_pools_0.5", "interpolate_swa"))
    assert f"pools are in {below}" in evaluation_fails(run / "pools")


def test_lines_between_tickets_are_no_networks(evaluation_fails, run, tmp_path):
    """Whoever names pools/* names them too."""
    lines = run / "pools" / "linear_inter_0.5"
    Lottery_pools.main(
        [*SMALL, "--checkpoint", str(run), "--interpolate_method", "linear_inter", "--save_dir", str(lines)]
    )
    assert f"{lines} holds scores of lines between tickets (linear_inter)" in evaluation_fails(run, lines)


def test_ensembles_of_no_ticket(evaluation_fails, ensembles):
    content = json.loads((ensembles / "pools.json").read_text())
    content["pools"][1]["tickets"] = []
    (ensembles / "pools.json").write_text(json.dumps(content))
    assert "is no list of ensembles: pools[1].tickets is missing or odd" in evaluation_fails(ensembles, "--score")


def test_ensembles_of_a_ticket_that_is_gone(evaluation_fails, run, ensembles):
    (run / "2model_SA_best.pth.tar").unlink()
    assert "level 1 needs a ticket of level 2" in evaluation_fails(ensembles, "--score")


def test_ensembles_of_a_ticket_that_has_changed(evaluation_fails, run, ensembles):
    shutil.copy(run / "1model_SA_best.pth.tar", run / "2model_SA_best.pth.tar")
    assert "2model_SA_best.pth.tar is not the ticket" in evaluation_fails(ensembles, "--score")


@pytest.mark.parametrize("networks", [None, "two", -1, 1.5])
def test_ensembles_of_an_odd_number(evaluation_fails, ensembles, networks):
    content = json.loads((ensembles / "pools.json").read_text())
    content["pools"][1]["networks"] = networks
    (ensembles / "pools.json").write_text(json.dumps(content))
    assert "pools[1].networks" in evaluation_fails(ensembles)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"level": 1}},
        {"recipe": {"level": 1, "density": "half"}},
        {"recipe": {"level": [1], "density": 0.5}},
        {"recipe": {"level": math.inf, "density": 0.5}},
        {"recipe": {"level": 1, "density": math.nan}},
        {"recipe": {"level": torch.tensor([1, 2]), "density": 0.5}},
        {"recipe": None},
        {"tickets": []},
        {"settings": {}},
        {"settings": {"interpolate_method": "interpolate_swa", "denser_num": torch.tensor([1, 2])}},
        {"state_dict": {}},
    ],
)
def test_pool_with_something_missing(evaluation_fails, run, change):
    path = run / "pools/interpolate_swa/1pool.pth.tar"
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    assert str(path) in evaluation_fails(path)


def test_last_network_is_checked_before_the_first_is_scored(evaluation_fails, run, monkeypatch):
    (run / "2model_SA_best.pth.tar").write_bytes(b"")
    monkeypatch.setattr("utils.evaluation.Evaluator.predict", lambda *_: pytest.fail("hours of work before the error"))
    assert str(run / "2model_SA_best.pth.tar") in evaluation_fails(run)


def test_network_that_answers_with_nan(evaluation_fails, run):
    path = run / "0model_SA_best.pth.tar"
    record = torch.load(path, weights_only=True)
    record["state_dict"]["fc.bias"].fill_(3e38)
    record["state_dict"]["fc.weight"].fill_(3e38)
    torch.save(record, path)
    assert str(path) in evaluation_fails(path)


class Nothing:
    """Corrupted images none of which can be read."""

    names = ("fog",)

    def batches(self, corruption, severity, batch_size):
        return iter(())


def test_images_none_of_which_can_be_read(run, monkeypatch):
    _, evaluator = digits_evaluator()
    cache = TicketCache(evaluator)
    scores = read_networks(find_networks([run]), cache)
    with pytest.raises(UserError, match="no image of fog, severity 1"):
        score_networks(scores, cache, Nothing(), lambda line: None)
    monkeypatch.setattr(evaluator.data, "eval_batches", lambda *_: iter(()))
    with pytest.raises(UserError, match="--data: none of the test images"):
        score_networks(scores, cache, None, lambda line: None)


def test_folder_that_cannot_be_written(evaluation_fails, run, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert str(tmp_path / "file") in evaluation_fails(run, "--save_dir", tmp_path / "file" / "out")


def save_array(name: str, array: object):
    return lambda folder: np.save(folder / name, array)


@pytest.mark.parametrize(
    "damage, words",
    [
        (shutil.rmtree, ["labels.npy"]),
        (lambda folder: (folder / "labels.npy").unlink(), ["labels.npy"]),
        (lambda folder: [(folder / f"{name}.npy").unlink() for name in ("fog", "spatter")], ["<corruption>.npy"]),
        (save_array("labels.npy", np.zeros(999, int)), ["labels.npy", "(999,)"]),
        (save_array("labels.npy", np.zeros(1000)), ["labels.npy", "float64"]),
        (save_array("labels.npy", np.zeros((1000, 1), int)), ["labels.npy", "(1000, 1)"]),
        (save_array("labels.npy", np.full(1000, 10)), ["labels.npy", "10 classes"]),
        (save_array("labels.npy", np.full(1000, -1)), ["labels.npy", "-1"]),
        (save_array("labels.npy", np.array([{}])), ["labels.npy"]),
        (save_array("labels.npy", np.arange(1000) % 10), ["labels.npy", "other labels than the test images"]),
        (save_array("fog.npy", np.zeros((995, 8, 8, 3), np.uint8)), ["fog.npy", "(995, 8, 8, 3)"]),
        (save_array("fog.npy", np.zeros((1000, 32, 32, 3), np.uint8)), ["fog.npy", "(1000, 8, 8, 3)"]),
        (save_array("fog.npy", np.zeros((1000, 8, 8), np.uint8)), ["fog.npy", "(1000, 8, 8)"]),
        (save_array("fog.npy", np.zeros((1000, 8, 8, 3), np.float32)), ["fog.npy", "float32"]),
        (lambda folder: (folder / "fog.npy").write_bytes((folder / "fog.npy").read_bytes()[:5000]), ["fog.npy"]),
        (lambda folder: (folder / "fog.npy").write_bytes(b"text"), ["fog.npy"]),
        (lambda folder: (folder / "fog.npy").write_bytes(b""), ["fog.npy"]),
    ],
)
def test_corrupted_images_that_are_not_as_they_must_be(evaluation_fails, run, corrupted, damage, words):
    damage(corrupted)
    line = evaluation_fails(run, "--corruptions", corrupted)
    assert "Traceback" not in line
    for word in (str(corrupted), *words):
        assert word in line
