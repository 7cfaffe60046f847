"""CIFAR/Lottery_pools.py from its command line to its files, on digits, in seconds."""

import contextlib
import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DIGITS, LIST, SMALL, snapshot, stand_ins
from script_runs import (
    KEPT,
    METHODS,
    PAPER_LIST,
    RESULTS,
    STATISTICS,
    TEST_FIELDS,
    assert_shows_something,
    load,
    names,
    pools_json,
    published_file,
    searches,
    table_of,
)
from torch import Tensor, nn

import models
from CIFAR import Lottery_pools, evaluate
from utils.evaluation import Evaluator
from utils.pool_runs import _step_line
from utils.pools import Step
from utils.tickets import plain_state

DRAWN = "Lottery_pools"  # the method whose pictures are drawn, since it has one of every kind


@pytest.fixture(scope="module", params=METHODS)
def pool_run(request, digits_tickets, tmp_path_factory) -> SimpleNamespace:
    """One method on the tickets of `digits_tickets`: its folder, and its entries of `pools.json`."""
    folder = tmp_path_factory.mktemp(request.param) / "pools"
    files = ["--checkpoint", str(digits_tickets), "--save_dir", str(folder)]
    with contextlib.nullcontext() if request.param == DRAWN else stand_ins():
        Lottery_pools.main([*DIGITS, "--arch", "resnet20s", *METHODS[request.param], *files])
    return SimpleNamespace(method=request.param, folder=folder, entries=pools_json(folder)["pools"])


def accuracy(state: dict[str, Tensor], images: Tensor, labels: Tensor) -> float:
    """Percent right of a resnet20s with this state, in plain PyTorch."""
    net = models.build("resnet20s", 10, [0.0] * 3, [1.0] * 3)
    net.load_state_dict(state, strict=True)
    net.eval()
    with torch.no_grad():
        right = net(images.permute(0, 3, 1, 2) / 255).argmax(1) == labels
    return 100 * int(right.sum()) / len(labels)


def test_pools_are_written_with_their_table_and_picture(pool_run):
    tried = [len(step["scores"]) for step in pool_run.entries[0]["steps"]]
    pictures = searches(0, 1, 2) if max(tried, default=0) > 1 else []
    assert names(pool_run.folder) == ["0pool.pth.tar", "1pool.pth.tar", "2pool.pth.tar", *RESULTS, *pictures]
    drawn = ["accuracy.png", *pictures[1::2]] if pool_run.method == DRAWN else []
    for name in drawn:
        assert_shows_something(pool_run.folder / name)


def test_pools_json_says_what_was_done(pool_run):
    content = pools_json(pool_run.folder)
    assert {*content} == {"settings", "versions", "tickets", "pools"}
    assert [level for level, _ in content["tickets"]] == [0, 1, 2]
    assert {*content["settings"]} >= {*vars(Lottery_pools.build_parser().parse_args([]))}
    assert content["versions"]["torch"] == torch.__version__
    assert [entry["level"] for entry in content["pools"]] == [0, 1, 2]


def test_pools_json_names_all_tickets_of_the_run_whatever_the_starts(search):
    content = pools_json(search("pools", "--levels", "1"))
    assert [level for level, _ in content["tickets"]] == [0, 1, 2]
    assert [entry["level"] for entry in content["pools"]] == [1]


def test_every_start_has_all_its_fields(pool_run):
    accuracies = {"ticket_val_accuracy", "pool_val_accuracy", *TEST_FIELDS}
    for entry in pool_run.entries:
        assert {*entry} == {"level", "density", "members", "steps", "checkpoint", *accuracies}
        assert entry["density"] == KEPT[entry["level"]] / KEPT[0]
        assert all({*member} == {"level", "weight"} for member in entry["members"])
        fields = {"candidate", "coefficients", "scores", "coefficient", "accepted"}
        assert all({*step} == fields for step in entry["steps"])
        assert all(len(step["scores"]) == len(step["coefficients"]) for step in entry["steps"])
        assert entry["checkpoint"] == f"{entry['level']}pool.pth.tar"


def test_candidates_are_tried_in_the_methods_order(pool_run):
    orders = [[step["candidate"] for step in entry["steps"]] for entry in pool_run.entries]
    if pool_run.method == "greedy_soup":
        assert orders == [falling_accuracy(pool_run.entries, level) for level in range(3)]
    elif pool_run.method in ("uniform_soup", "learned", "recalibrated"):
        assert orders == [[], [], []]
    elif pool_run.method == "average_or_soup":
        assert orders == [[1, 2, 0], [0, 2, 1], [1, 0, 2]], "the soup's step has the start"
    else:
        assert orders == ([[1], [0], [1]] if pool_run.method == "average" else [[1, 2], [0, 2], [1, 0]])


def falling_accuracy(entries: list[dict], level: int) -> list[int]:
    """What a greedy soup tries: the best ticket alone if it is not the start, and then those that are not in it."""
    nearest = [[0, 1, 2], [1, 0, 2], [2, 1, 0]][level]
    order = sorted(nearest, key=lambda other: -entries[other]["ticket_val_accuracy"])
    if order[0] == level:
        return order[1:]
    start = order[0] if entries[level]["steps"][0]["accepted"] else level
    return [order[0], *(other for other in order if other != start)]


def test_members_shares_follow_from_the_accepted_steps(pool_run):
    for entry in pool_run.entries:
        shares = {entry["level"]: 1.0}
        for step in entry["steps"]:
            if step["accepted"]:
                shares = {level: share * step["coefficient"] for level, share in shares.items()}
                shares[step["candidate"]] = 1 - step["coefficient"]
        shares = {level: share for level, share in shares.items() if share}  # a greedy soup's start may go
        if pool_run.method == "uniform_soup":
            shares = dict.fromkeys(range(3), 1 / 3)
        if pool_run.method == "average_or_soup" and entry["steps"][-1]["accepted"]:
            shares = dict.fromkeys(range(3), 1 / 3)
        if pool_run.method == "interpolate_swa":
            assert shares == pytest.approx(dict.fromkeys(range(3), 1 / 3))
        if pool_run.method == "interpolate_ema":
            assert [*shares.values()] == pytest.approx([0.36, 0.24, 0.4])
        if pool_run.method != "learned":
            assert {member["level"]: member["weight"] for member in entry["members"]} == pytest.approx(shares)
        assert sum(member["weight"] for member in entry["members"]) == pytest.approx(1)


def test_steps_are_accepted_by_the_methods_rule(pool_run):
    for entry in pool_run.entries:
        score, steps = entry["ticket_val_accuracy"], entry["steps"]
        if pool_run.method == "average_or_soup":  # average and soup are compared on recalibration images of their own
            *steps, soup = steps
            assert soup["accepted"] == (soup["scores"] == [entry["pool_val_accuracy"]])
        for step in steps:
            best = max(step["scores"])
            always = pool_run.method in ("interpolate_swa", "interpolate_ema")
            assert step["accepted"] == (always or best >= score)
            assert step["coefficient"] == step["coefficients"][step["scores"].index(best)]
            score = best if step["accepted"] else score
        if pool_run.method not in ("uniform_soup", "average_or_soup", "learned", "recalibrated"):
            assert entry["pool_val_accuracy"] == score


def test_csv_says_what_json_says(pool_run):
    with (pool_run.folder / "pools.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, entry in zip(rows, pool_run.entries, strict=True):
        members = dict(member.split(":") for member in row.pop("members").split())
        assert {int(level): float(weight) for level, weight in members.items()} == pytest.approx(
            {member["level"]: member["weight"] for member in entry["members"]}, abs=5e-4
        )
        assert {name: float(value) for name, value in row.items()} == {
            name: value for name, value in entry.items() if name not in ("members", "steps", "checkpoint")
        }


def test_pool_scores_in_plain_pytorch_what_the_table_says(pool_run, digits):
    for entry in pool_run.entries:
        state = load(pool_run.folder / entry["checkpoint"])["state_dict"]
        assert accuracy(state, digits.test.images, digits.test.labels) == entry["pool_test_accuracy"]
        assert accuracy(state, digits.val.images, digits.val.labels) == entry["pool_val_accuracy"]


def test_pool_is_exactly_as_sparse_as_its_ticket(pool_run):
    net = models.build("resnet20s", 10, [0.0] * 3, [1.0] * 3)
    convolutions = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    for entry in pool_run.entries:
        pool = load(pool_run.folder / entry["checkpoint"])
        assert {*pool["mask"]} == convolutions
        assert sum(int(mask.sum()) for mask in pool["mask"].values()) == KEPT[entry["level"]]
        for name, mask in pool["mask"].items():
            outside = pool["state_dict"][name][~mask]
            assert mask.dtype == torch.bool
            assert not outside.any()
            assert not torch.signbit(outside).any()


@pytest.mark.parametrize("level, candidate", [(2, 1), (1, 0)])
def test_pool_has_the_largest_weights_of_the_interpolation(small_tickets, tmp_path, level, candidate):
    flags = ["--interpolate_method", "interpolate_ema", "--EMA_value", "0.6", "--search_num", "1"]
    Lottery_pools.main([*SMALL, *flags, "--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / "pools")])
    start, other = (plain_weights(small_tickets, number) for number in (level, candidate))
    pool = load(tmp_path / "pools" / f"{level}pool.pth.tar")
    kept, dropped = [], []
    for name, mask in pool["mask"].items():
        interpolated = torch.lerp(other[name], start[name], 0.6)
        assert torch.equal(pool["state_dict"][name][mask], interpolated[mask])
        kept.append(interpolated[mask].abs())
        dropped.append(interpolated[~mask].abs())
    assert torch.cat(kept).min() >= torch.cat(dropped).max() > 0, "some of the candidate's weights are pruned too"


def plain_weights(folder: Path, level: int) -> dict[str, Tensor]:
    """The weights of a ticket's convolutions, pruned."""
    state = published_file(folder, level)["state_dict"]
    weights = {
        name: value for name, value in state.items() if value.dim() == 4 and not name.endswith(("_orig", "_mask"))
    }
    pruned = [name.removesuffix("_orig") for name in state if name.endswith("_orig")]
    return weights | {name: state[f"{name}_orig"] * state[f"{name}_mask"] for name in pruned}


def test_pool_carries_its_recipe(pool_run):
    for entry in pool_run.entries:
        pool = load(pool_run.folder / entry["checkpoint"])
        assert pool["recipe"] == entry
        assert pool["settings"]["interpolate_method"] == METHODS[pool_run.method][1]
        nearest = {"average": [[0, 1], [1, 0], [2, 1]]}.get(pool_run.method, [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
        assert [level for level, _ in pool["tickets"]] == nearest[entry["level"]]


def test_a_search_prints_what_it_tries_and_ends_in_its_table(small_tickets, tmp_path, capfd):
    Lottery_pools.main([*SMALL, *LIST, "--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / "pools")])
    output, errors = capfd.readouterr()
    entries = pools_json(tmp_path / "pools")["pools"]
    steps = re.findall(r"with level +(\d+): (accepted|rejected).*0\.3: .*0\.7: ", output)
    assert steps == [
        (str(step["candidate"]), "accepted" if step["accepted"] else "rejected")
        for entry in entries
        for step in entry["steps"]
    ]
    header, _, *rows = table_of(output)
    assert header.split() == ["level", "density", "%", "ticket", "%", "pool", "%", "gain", "members", "(level:share)"]
    for row, entry in zip(rows, entries, strict=True):
        gain = entry["pool_test_accuracy"] - entry["ticket_test_accuracy"]
        numbers = [100 * entry["density"], entry["ticket_test_accuracy"], entry["pool_test_accuracy"]]
        assert row.split()[:5] == [str(entry["level"]), *(f"{number:.2f}" for number in numbers), f"{gain:+.2f}"]
    assert "\r" not in output + errors, "a bar is for terminals"


def test_a_sparse_ticket_without_its_mask_is_warned_of(small_tickets, tmp_path, capfd):
    for level in (0, 1):
        record = load(small_tickets / f"{level}model_SA_best.pth.tar")
        state, _ = plain_state(record["state_dict"], small_tickets)
        torch.save(state, tmp_path / f"{level}model_SA_best.pth.tar")
    Lottery_pools.main([*SMALL, "--checkpoint", str(tmp_path), "--interpolation_value_list", "0.5"])
    (warning,) = capfd.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {tmp_path / '1model_SA_best.pth.tar'} has no mask")
    assert re.search(r"though (19|20)\.\d\d% of its weights are zero", warning)


def test_quiet_search_prints_its_table_and_nothing_else(small_tickets, capfd):
    Lottery_pools.main([*SMALL, *LIST, "--checkpoint", str(small_tickets), "--levels", "2", "--quiet"])
    output, errors = capfd.readouterr()
    assert table_of(output) == output.splitlines()
    assert errors == ""


def test_missing_level_is_told_and_the_others_are_pooled(small_tickets, tmp_path, capfd):
    (small_tickets / "1model_SA_best.pth.tar").unlink()
    Lottery_pools.main([*SMALL, *LIST, "--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / "pools")])
    assert "without level 1," in capfd.readouterr().out
    tried = [[step["candidate"] for step in entry["steps"]] for entry in pools_json(tmp_path / "pools")["pools"]]
    assert tried == [[2], [0]]


@pytest.mark.parametrize("method", ["Lottery_pools", "uniform_soup", "greedy_soup", "learned", "ensemble"])
def test_one_ticket_alone_is_its_own_pool(small_tickets, tmp_path, method):
    for level in (0, 1):
        (small_tickets / f"{level}model_SA_best.pth.tar").unlink()
    Lottery_pools.main(
        [
            *SMALL,
            "--interpolate_method",
            method,
            "--checkpoint",
            str(small_tickets),
            "--save_dir",
            str(tmp_path / "pools"),
        ]
    )
    (entry,) = pools_json(tmp_path / "pools")["pools"]
    assert (entry["members"], entry["steps"]) == ([{"level": 2, "weight": 1.0}], [])
    assert entry["pool_test_accuracy"] == entry["ticket_test_accuracy"]


def test_a_bfloat16_search_computes_otherwise_and_keeps_float32_weights(search, monkeypatch):
    monkeypatch.setattr("utils.evaluation.has_bfloat16", lambda device: True)
    flags = ("--interpolate_method", "interpolate_swa", "--channels_last", "--levels", "1", "--search_num", "1")
    exact, state = (
        load(search(name, *flags, *more) / "1pool.pth.tar")["state_dict"]
        for name, more in (("exact", []), ("amp", ["--amp"]))
    )
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert not torch.equal(state["bn.running_var"], exact["bn.running_var"])
    assert torch.allclose(state["bn.running_var"], exact["bn.running_var"], rtol=0.05)


def test_fast_stands_for_its_flags_and_flags_after_it_win():
    parse = Lottery_pools.build_parser().parse_args
    fast = ["--bn_images", "256", "--final_bn_images", "2048", "--coefficient_search", "hump", "--amp"]
    assert vars(parse(["--fast"])) == vars(parse(fast))
    assert parse(["--fast", "--bn_images", "512"]).bn_images == 512


def test_the_best_recipe_stands_for_its_flags_and_flags_after_it_win():
    parse = Lottery_pools.build_parser().parse_args
    best = ["--interpolate_method", "average_or_soup", "--denser_num", "1"]
    assert vars(parse(["--recipe", "best"])) == vars(parse(best))
    assert vars(parse(["--recipe", "best", "--recipe", "paper"])) == vars(parse([]))
    assert parse(["--recipe", "best", "--denser_num", "2"]).denser_num == 2


def test_hump_leaves_coefficients_out_of_the_log_and_marks_them_in_the_file(small_tickets, tmp_path, capfd):
    folder = tmp_path / "pools"
    files = ["--checkpoint", str(small_tickets), "--save_dir", str(folder)]
    Lottery_pools.main([*SMALL, *files, "--coefficient_search", "hump", "--levels", "1", "--search_num", "1"])
    (step,) = pools_json(folder)["pools"][0]["steps"]
    assert step["coefficients"] == PAPER_LIST
    tried = [c for c, score in zip(PAPER_LIST, step["scores"], strict=True) if score is not None]
    assert 4 < len(tried) <= 6
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("  with level")]
    assert [float(word) for word in re.findall(r"([\d.]+): ", line.partition("(")[2])] == tried


def test_a_finished_pool_is_recalibrated_on_more_images_than_the_search(small_tickets, tmp_path):
    pools = {}
    for name, flags in (("search", []), ("finished", ["--final_bn_images", "0"])):
        files = ["--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / name)]
        Lottery_pools.main([*SMALL, *LIST, *files, "--bn_images", "32", *flags])
        pools[name] = pools_json(tmp_path / name)["pools"]
    for before, after in zip(pools["search"], pools["finished"], strict=True):
        assert after["steps"] == before["steps"]  # it chooses nothing
        states = [load(tmp_path / name / before["checkpoint"])["state_dict"] for name in pools]
        changed = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
        grown = len(before["members"]) > 1
        assert changed == ({name for name in states[0] if name.rpartition(".")[2] in STATISTICS} if grown else set())
    assert any(len(entry["members"]) > 1 for entry in pools["search"])


def test_without_recalibration_statistics_are_interpolated_like_all_else(search, small_tickets):
    folder = search("pools", "--no_update_bn", "--interpolate_method", "interpolate_swa", "--search_num", "1")
    for level, candidate in ((0, 1), (1, 0), (2, 1)):
        first, second = (
            load(small_tickets / f"{name}model_SA_best.pth.tar")["state_dict"] for name in (level, candidate)
        )
        pool = load(folder / f"{level}pool.pth.tar")["state_dict"]
        statistics = [name for name in pool if name.endswith(STATISTICS[:2])]
        assert statistics
        for name in statistics:
            torch.testing.assert_close(pool[name], (first[name] + second[name]) / 2)


def test_searches_without_recalibration_have_a_folder_of_their_own_and_may_recalibrate_at_the_end(small_tickets):
    flags = [*SMALL, *LIST, "--checkpoint", str(small_tickets), "--no_update_bn"]
    Lottery_pools.main(flags)
    folder = small_tickets / "pools" / "Lottery_pools_0.3_0.7_no_update_bn"
    finished = folder.with_name("finished")
    Lottery_pools.main([*flags, "--final_bn_images", "64", "--save_dir", str(finished)])
    before, after = (pools_json(place)["pools"] for place in (folder, finished))
    assert [entry["steps"] for entry in before] == [entry["steps"] for entry in after]
    assert any(len(entry["members"]) > 1 for entry in before)
    for entry in before:
        plain, recalibrated = (load(place / entry["checkpoint"])["state_dict"] for place in (folder, finished))
        changed = {name.rpartition(".")[2] for name in plain if not torch.equal(plain[name], recalibrated[name])}
        assert changed == ({*STATISTICS} if len(entry["members"]) > 1 else set())


def test_average_and_soup_are_recalibrated_once_each_on_the_images_of_a_finished_pool(search, monkeypatch):
    limits, recalibrate = [], Evaluator.recalibrate

    def counted(self, state, *purpose, bn_images=None):
        limits.append(bn_images)
        return recalibrate(self, state, *purpose, bn_images=bn_images)

    monkeypatch.setattr(Evaluator, "recalibrate", counted)
    folder = search("pools", *METHODS["average_or_soup"], "--bn_images", "32", "--final_bn_images", "64")
    entries = pools_json(folder)["pools"]
    averaged = sum(any(step["accepted"] for step in entry["steps"][:-1]) for entry in entries)
    assert limits.count(None) == 2 * len(entries), "one for each candidate"
    assert limits.count(64) == len(entries) + averaged


def test_the_log_tells_a_soup_that_goes_back_to_its_ticket_from_a_mean_of_all(capfd):
    lines = [_step_line(Step(3, [share], [50.0], share, True), 3, "accuracy") for share in (0.5, 0.0)]
    assert [line.partition(":")[0].strip() for line in lines] == ["with level  3", "with the mean of the members"]


def test_the_number_of_jobs_may_change_between_two_commands_of_one_search(small_tickets, tmp_path):
    files = ["--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / "pools")]
    Lottery_pools.main([*SMALL, *LIST, *files, "--levels", "0", "--jobs", "1"])
    Lottery_pools.main([*SMALL, *LIST, *files, "--jobs", "2"])
    assert [entry["level"] for entry in pools_json(tmp_path / "pools")["pools"]] == [0, 1, 2]


@pytest.mark.pictures
def test_evaluate_draws_and_tabulates_several_methods(small_tickets, capsys):
    folders = []
    for method in ("average", "interpolate_swa"):
        Lottery_pools.main([*SMALL, *METHODS[method], "--checkpoint", str(small_tickets), "--quiet"])
        folders.append(small_tickets / "pools" / {"average": "Lottery_pools_0.5"}.get(method, method))
    capsys.readouterr()
    evaluate.main([*map(str, folders)])
    assert len(table_of(capsys.readouterr().out)) >= 2 + 3
    assert_shows_something(small_tickets / "pools" / "accuracy.png")
    with (small_tickets / "pools" / "comparison.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    for column, folder in enumerate(folders, start=3):
        accuracies = [entry["pool_test_accuracy"] for entry in pools_json(folder)["pools"]]
        assert [float(row[column]) for row in rows] == accuracies


def test_real_openlth_tickets_are_pooled_as_they_are(openlth_tickets, tmp_path):
    draws = np.random.RandomState(0)
    arrays = {}
    for part, count in (("train", 60), ("test", 40)):
        arrays |= {f"x_{part}": draws.randint(0, 256, (count, 32, 32, 3), np.uint8), f"y_{part}": np.arange(count) % 20}
    np.savez(tmp_path / "images.npz", **arrays)
    before = snapshot(openlth_tickets)
    images = ["--dataset", "npz", "--data", str(tmp_path / "images.npz"), "--arch", "imagenet_resnet_18_8"]
    files = ["--checkpoint", str(openlth_tickets), "--save_dir", str(tmp_path / "pools"), "--device", "cpu"]
    Lottery_pools.main([*images, *files, *LIST, "--search_num", "1", "--levels", "3", "4"])
    entries = pools_json(tmp_path / "pools")["pools"]
    assert [(entry["level"], entry["steps"][0]["candidate"]) for entry in entries] == [(3, 2), (4, 3)]
    for entry in entries:
        (reported,) = openlth_tickets.glob(f"*/*/level_{entry['level']}/main/sparsity_report.json")
        report = json.loads(reported.read_text())
        assert entry["density"] == report["unpruned"] / report["total"]
        pool = load(tmp_path / "pools" / entry["checkpoint"])
        assert sum(int(mask.sum()) for mask in pool["mask"].values()) == report["unpruned"]
        assert "fc.weight" in pool["mask"], "OpenLTH prunes linear layers too"
        assert pool["state_dict"]["fc.weight"].shape[0] == 1000
    assert snapshot(openlth_tickets) == before
