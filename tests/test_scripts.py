"""Both CIFAR scripts from their command lines to their files, on digits, in seconds."""

import argparse
import csv
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DIGITS, IMP, ROOT, SAVES, SMALL, snapshot, stand_ins
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import prune

import models
from CIFAR import Lottery_pools, evaluate, main_imp
from CIFAR.dataset import ImageData, load_data
from utils import imp
from utils.connectivity import ConnectivityRun
from utils.errors import UserError
from utils.evaluation import Evaluator
from utils.methods import method_label
from utils.pool_runs import PoolRun
from utils.tickets import RunFiles, may_be_missing, plain_state

PAPER_LIST = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
KEPT = [267_696, 214_157, 171_326]  # of a resnet20s, each a fifth less than the one before
LIST = ["--interpolation_value_list", "0.3", "0.7"]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
METHODS = {
    "Lottery_pools": ["--interpolate_method", "Lottery_pools", *LIST],
    "average": ["--interpolate_method", "Lottery_pools", "--interpolation_value_list", "0.5", "--search_num", "1"],
    "interpolate_swa": ["--interpolate_method", "interpolate_swa"],
    "interpolate_ema": ["--interpolate_method", "interpolate_ema", "--EMA_value", "0.6"],
    "uniform_soup": ["--interpolate_method", "uniform_soup"],
    "greedy_soup": ["--interpolate_method", "greedy_soup"],
    "average_or_soup": ["--interpolate_method", "average_or_soup"],
    "learned": ["--interpolate_method", "learned", "--learned_steps", "2"],
}
ENSEMBLE = ["--interpolate_method", "ensemble"]
RESULTS = ["accuracy.pdf", "accuracy.png", "pools.csv", "pools.json"]
TEST_FIELDS = ("ticket_test_accuracy", "pool_test_accuracy")


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def pools_json(folder: Path) -> dict:
    return json.loads((folder / "pools.json").read_text())


def searches(*levels: int) -> list[str]:
    """The pictures of the searches from these levels."""
    return [f"search_level{level}.{kind}" for level in levels for kind in ("pdf", "png")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return {*first} == {*second} and all(torch.equal(first[name], second[name]) for name in first)


def assert_same_pools(first: Path, second: Path) -> None:
    assert pools_json(first)["pools"] == pools_json(second)["pools"]
    assert names(first) == names(second)
    for path in first.glob("*pool.pth.tar"):
        assert same_tensors(load(path)["state_dict"], load(second / path.name)["state_dict"])


def table_of(output: str) -> list[str]:
    """The last lines that a script printed: from the table's header on."""
    lines = output.splitlines()
    (start,) = (number for number, line in enumerate(lines) if re.fullmatch("-+", line))
    return lines[start - 1 :]


def assert_is_picture(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(2**24)) > 10, "blank"


# Tickets


def published_file(folder: Path, level: int) -> dict:
    return load(folder / f"{level}model_SA_best.pth.tar")


def test_imp_writes_the_published_files_and_its_settings(digits_tickets):
    each = ("model_SA_best.pth.tar", "checkpoint.pth.tar", "net_train.png")
    expected = [f"{level}{name}" for level in range(3) for name in each]
    assert names(digits_tickets) == sorted([*expected, "epoch_1_rewind_weight.pt", "settings.json"])


@pytest.mark.parametrize("name", ["model_SA_best", "checkpoint"])
@pytest.mark.parametrize("level", range(3))
def test_files_of_a_level_hold_what_the_published_ones_do(digits_tickets, level, name):
    record = load(digits_tickets / f"{level}{name}.pth.tar")
    assert {*record} == {"state", "epoch", "state_dict", "init_weight", "optimizer", "scheduler", "best_sa", "result"}
    assert record["state"] == level
    assert {*record["result"]} == {"train_ta", "val_ta", "test_ta"}
    assert {len(curve) for curve in record["result"].values()} == {record["epoch"] - (1 if level else 0)}
    assert {*record["optimizer"]} == {"state", "param_groups"}
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    torch.optim.lr_scheduler.MultiStepLR(optimizer, [91, 136]).load_state_dict(record["scheduler"])


@pytest.mark.parametrize("level", range(3))
def test_ticket_names_are_those_of_torchs_pruning(digits_tickets, level):
    net = models.build("resnet20s", 10, [0.0] * 3, [1.0] * 3)
    if level:
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                prune.identity(module, "weight")
    expected = {name: (value.shape, value.dtype) for name, value in net.state_dict().items()}
    written = {
        name: (value.shape, value.dtype) for name, value in published_file(digits_tickets, level)["state_dict"].items()
    }
    assert written == expected


def kinds(state: dict[str, Tensor]) -> dict[str, tuple]:
    """Type and shape of each tensor, however many classes the head tells apart."""
    return {name: (value.dtype, value.shape[name.startswith("fc.") :]) for name, value in state.items()}


@pytest.mark.parametrize("level", range(3))
def test_tickets_have_the_names_and_types_of_published_ones(digits_tickets, published_tickets, level):
    ours, published = (published_file(folder, level) for folder in (digits_tickets, published_tickets))
    assert {*ours} == {*published}
    for part in ("state_dict", "init_weight"):
        assert kinds(ours[part]) == kinds(published[part])
    assert [type(ours[key]) for key in ("state", "epoch", "best_sa")] == [int, int, float]
    assert {*published["scheduler"]} >= {*ours["scheduler"]}
    assert {*ours["optimizer"]["param_groups"][0]} >= {"lr", "momentum", "weight_decay", "params"}


@pytest.mark.parametrize("level", range(3))
def test_a_level_keeps_four_fifths_of_the_one_before(digits_tickets, level):
    masks = [
        value for name, value in published_file(digits_tickets, level)["state_dict"].items() if name.endswith("_mask")
    ]
    assert sum(int(mask.sum()) for mask in masks) == (KEPT[level] if level else 0)


@pytest.mark.parametrize("level", [1, 2])
def test_mask_is_what_torch_prunes_from_the_last_epoch_before(digits_tickets, level):
    last = load(digits_tickets / f"{level - 1}checkpoint.pth.tar")["state_dict"]
    net = models.build("resnet20s", 10, [0.0] * 3, [1.0] * 3)
    convolutions = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    if level > 1:
        for module in convolutions.values():
            prune.identity(module, "weight")
    net.load_state_dict(last)
    net(torch.zeros(2, 3, 8, 8))  # torch computes a pruned layer's weight when it is used
    parameters = [(module, "weight") for module in convolutions.values()]
    prune.global_unstructured(parameters, prune.L1Unstructured, amount=0.2)
    written = published_file(digits_tickets, level)["state_dict"]
    assert all(torch.equal(written[f"{name}.weight_mask"], module.weight_mask) for name, module in convolutions.items())


@pytest.mark.parametrize("level", range(3))
def test_ticket_is_the_first_epoch_of_the_best_validation_accuracy(digits_tickets, level):
    curve = load(digits_tickets / f"{level}checkpoint.pth.tar")["result"]["val_ta"]
    ticket = published_file(digits_tickets, level)
    assert ticket["best_sa"] == max(curve)
    assert ticket["result"]["val_ta"] == curve[: 1 + curve.index(max(curve))]


@pytest.mark.parametrize("level", range(3))
def test_training_curves_can_be_looked_at(digits_tickets, level):
    assert_is_picture(digits_tickets / f"{level}net_train.png")


def test_settings_hold_every_flag(digits_tickets):
    settings = json.loads((digits_tickets / "settings.json").read_text())["settings"]
    assert {*settings} >= {*vars(main_imp.build_parser().parse_args([]))}
    assert (settings["epochs"], settings["decreasing_lr"], settings["images"]["train"]) == (3, [91, 136], 180)


def test_imp_tells_each_epoch_and_each_levels_density(tmp_path, capfd):
    main_imp.main([*SMALL, *IMP, "--pruning_times", "2", "--save_dir", str(tmp_path)])
    output, errors = capfd.readouterr()
    epochs = re.findall(r"^level (\d) epoch +(\d)/2 .*train .*%  val .*%  test .*%", output, re.MULTILINE)
    assert epochs == [("0", "1"), ("0", "2"), ("1", "2")]
    assert re.search(r"^level 1: 80\.\d\d% of .* prunable weights remain", output, re.MULTILINE)
    assert re.search(r"^  blocks\.0\.conv1 +\d+\.\d\d% of 144$", output, re.MULTILINE)
    assert "\r" not in output + errors, "a bar is for terminals"


def test_quiet_imp_prints_where_the_tickets_are_and_nothing_else(tmp_path, capfd):
    main_imp.main([*SMALL, *IMP, "--pruning_times", "1", "--save_dir", str(tmp_path), "--quiet"])
    output, errors = capfd.readouterr()
    assert output.splitlines() == [f"tickets of 1 levels are in {tmp_path}"]
    assert errors == ""


# Pools


@pytest.fixture(scope="module", params=METHODS)
def pool_run(request, digits_tickets, tmp_path_factory) -> SimpleNamespace:
    """One method on the tickets of `digits_tickets`: its folder, and its entries of `pools.json`."""
    folder = tmp_path_factory.mktemp(request.param) / "pools"
    files = ["--checkpoint", str(digits_tickets), "--save_dir", str(folder)]
    Lottery_pools.main([*DIGITS, "--arch", "resnet20s", *METHODS[request.param], *files])
    return SimpleNamespace(method=request.param, folder=folder, entries=pools_json(folder)["pools"])


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", None, "cpu", data_limit=200)


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
    for name in ("accuracy.png", *pictures[1::2]):
        assert_is_picture(pool_run.folder / name)


def test_pools_json_says_what_was_done(pool_run):
    content = pools_json(pool_run.folder)
    assert {*content} == {"settings", "versions", "tickets", "pools"}
    assert [level for level, _ in content["tickets"]] == [0, 1, 2]
    assert {*content["settings"]} >= {*vars(Lottery_pools.build_parser().parse_args([]))}
    assert content["versions"]["torch"] == torch.__version__
    assert [entry["level"] for entry in content["pools"]] == [0, 1, 2]


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
    elif pool_run.method in ("uniform_soup", "learned"):
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
        if pool_run.method == "average_or_soup" and entry["steps"][-1]["accepted"]:
            shares = dict.fromkeys(range(3), 1 / 3)
        if entry["steps"]:
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
        if pool_run.method not in ("uniform_soup", "average_or_soup", "learned"):
            assert entry["pool_val_accuracy"] == score


def test_swa_and_ema_have_their_shares(pool_run):
    weights = {level: [member["weight"] for member in pool_run.entries[level]["members"]] for level in range(3)}
    if pool_run.method in ("interpolate_swa", "uniform_soup"):
        assert weights[1] == pytest.approx([1 / 3] * 3)
    if pool_run.method == "interpolate_ema":
        assert weights[1] == pytest.approx([0.36, 0.24, 0.4])


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


def test_bfloat16_search_runs_and_keeps_float32_weights(small_tickets, tmp_path):
    flags = ["--amp", "--channels_last", "--levels", "1", "--search_num", "1"]
    Lottery_pools.main([*SMALL, *LIST, *flags, "--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / "p")])
    state = load(tmp_path / "p" / "1pool.pth.tar")["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


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


def test_the_number_of_jobs_may_change_between_two_commands_of_one_search(small_tickets, tmp_path):
    files = ["--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / "pools")]
    Lottery_pools.main([*SMALL, *LIST, *files, "--levels", "0", "--jobs", "1"])
    Lottery_pools.main([*SMALL, *LIST, *files, "--jobs", "2"])
    assert [entry["level"] for entry in pools_json(tmp_path / "pools")["pools"]] == [0, 1, 2]


# The line between tickets


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
    assert_is_picture(walked / "connectivity.png")
    with (walked / "connectivity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = json.loads((walked / "connectivity.json").read_text())["paths"]
    losses = [loss for path in paths for loss in path["test_loss"]]
    assert [float(row["test_loss"]) for row in rows] == losses


def test_both_spellings_of_linear_walk_the_same_line(walked, digits_tickets, tmp_path):
    files = ["--checkpoint", str(digits_tickets), "--save_dir", str(tmp_path)]
    Lottery_pools.main([*DIGITS, "--arch", "resnet20s", "--interpolate_method", "linear_inter", *LIST, *files])
    paths = [json.loads((folder / "connectivity.json").read_text())["paths"] for folder in (walked, tmp_path)]
    assert paths[0] == paths[1]


@pytest.mark.pictures
def test_all_pairs_are_asked_for_in_the_folder_of_the_neighbours(walked, digits_tickets, tmp_path, capfd):
    folder = tmp_path / "lines"
    shutil.copytree(walked, folder)
    files = ["--checkpoint", str(digits_tickets), "--save_dir", str(folder), "--pairs", "all"]
    Lottery_pools.main([*DIGITS, "--arch", "resnet20s", "--interpolate_method", "linear_inter", *LIST, *files])
    assert [row.split()[0] for row in table_of(capfd.readouterr().out)[2:]] == ["0-1", "0-2", "1-2"]
    before, after = (json.loads((path / "connectivity.json").read_text())["paths"] for path in (walked, folder))
    assert [after[0], after[2]] == before and after[1]["levels"] == [0, 2]
    assert_is_picture(folder / "barriers.png")


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


# Command lines


def defaults(script) -> dict:
    return vars(script.build_parser().parse_args([]))


IMAGES_AND_NETWORK = {"dataset": "cifar100", "data": "../data", "val_images": None, "data_limit": 0, "no_flip": False}
IMAGES_AND_NETWORK |= {"arch": "resnet18", "seed": 41, "batch_size": 128, "amp": False, "device": "auto"}
TRAINING = {"epochs": 182, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "warmup": 0, "decreasing_lr": (91, 136)}
PRUNING = {"pruning_times": 19, "rate": 0.2, "prune_type": "rewind_lt", "rewind_epoch": 9, "random_prune": False}
POOLS = {"interpolate_method": "Lottery_pools", "interpolation_value_list": PAPER_LIST, "search_num": 19}
POOLS |= {"learned_steps": 50, "learned_lr": 0.1}
POOLS |= {"coefficient_search": "grid", "final_bn_images": None, "jobs": None}
POOLS |= {"EMA_value": 0.95, "bn_images": 0, "levels": None, "prune_type": "rewind_lt", "rewind_epoch": 9}


@pytest.mark.parametrize(
    "script, expected",
    [(main_imp, {**IMAGES_AND_NETWORK, **TRAINING, **PRUNING}), (Lottery_pools, {**IMAGES_AND_NETWORK, **POOLS})],
)
def test_defaults_are_the_papers(script, expected):
    found = defaults(script)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("script", [main_imp, Lottery_pools])
def test_help_names_the_default_of_every_flag_that_has_one(script):
    parser = script.build_parser()
    formatter = parser._get_formatter()
    # A preset stands for other flags and has no value of its own.
    flags = [action for action in parser._actions if action.default is not argparse.SUPPRESS]
    assert len(flags) == len(defaults(script))
    for action in flags:
        says_something = action.default is not None and action.default is not False
        assert (f"(default: {action.default})" in formatter._expand_help(action)) == says_something, action.dest


IMP_COMMAND = (
    "python -u main_imp.py --data ../data --dataset cifar100 --arch resnet18 --seed 41 --prune_type rewind_lt "
    "--rewind_epoch 9 --pruning_times 19"
)
POOLS_COMMAND = (
    "python Lottery_pools.py --interpolate_method {} --rewind_epoch 9 --search_num 19 {} --arch resnet18 "
    "--data ../data --dataset cifar100 --seed 41 --inference --checkpoint {}"
)
ALL = f"--interpolation_value_list {' '.join(map(str, PAPER_LIST))}"


def arguments(command: str) -> list[str]:
    """What a shell would hand to the script that `command` names."""
    words = shlex.split(command)
    return words[1 + next(number for number, word in enumerate(words) if word.endswith(".py")) :]


def test_papers_imp_command_means_the_defaults():
    assert vars(main_imp.build_parser().parse_args(arguments(IMP_COMMAND))) == defaults(main_imp)


@pytest.mark.parametrize(
    "method, flags, changed",
    [
        ("Lottery_pools", "--interpolation_value_list 0.5", {"interpolation_value_list": [0.5]}),
        ("Lottery_pools", ALL, {}),
        ("Lottery_pools", "", {}),
        ("interpolate_swa", "", {}),
        ("interpolate_swa", ALL, {}),
        ("interpolate_ema", "--EMA_value 0.95", {"EMA_value": 0.95}),
        ("interpolate_ema", "", {}),
        ("liner_inter", "", {"interpolate_method": "linear_inter"}),
        ("liner_inter", ALL, {"interpolate_method": "linear_inter"}),
        ("linear_inter", ALL, {}),
    ],
)
def test_papers_pool_commands_mean_what_they_say(method, flags, changed):
    argv = arguments(POOLS_COMMAND.format(method, flags, "runs/seed41"))
    expected = {"interpolate_method": method, "checkpoint": Path("runs/seed41"), "inference": True, **changed}
    assert vars(Lottery_pools.build_parser().parse_args(argv)) == {**defaults(Lottery_pools), **expected}


@pytest.fixture
def small_images(tmp_path) -> Path:
    """Sixty digits of 8 by 8 pixels as an .npz file."""
    data = load_data("digits", None, "cpu")
    arrays = {}
    for part, split in (("train", data.train[:60]), ("test", data.test[:30])):
        arrays |= {f"x_{part}": split.images.numpy(), f"y_{part}": split.labels.numpy()}
    np.savez(tmp_path / "images.npz", **arrays, classes=[str(digit) for digit in range(10)])
    return tmp_path / "images.npz"


def test_papers_commands_run_as_printed_one_after_the_other(small_images, tmp_path, monkeypatch, capfd):
    """Smaller in data, network and epochs alone; the second finds the first one's tickets where the paper puts them."""
    (tmp_path / "CIFAR").mkdir()
    monkeypatch.chdir(tmp_path / "CIFAR")
    small = ["--dataset", "npz", "--data", "../images.npz", "--arch", "cifar_resnet_8_4", "--device", "cpu"]
    main_imp.main([*arguments(IMP_COMMAND), *small, "--epochs", "10", "--pruning_times", "2"])
    tickets = Path("checkpoints/rewind_lt/npz/cifar_resnet_8_4/rewind_epoch_9/seed41")
    assert {"0model_SA_best.pth.tar", "1model_SA_best.pth.tar", "epoch_9_rewind_weight.pt"} <= {*names(tickets)}
    capfd.readouterr()
    Lottery_pools.main([*arguments(POOLS_COMMAND.format("interpolate_ema", "--EMA_value 0.95", tickets)), *small])
    with_checkpoint = table_of(capfd.readouterr().out)
    Lottery_pools.main(["--interpolate_method", "interpolate_ema", *small, "--save_dir", "elsewhere"])
    assert table_of(capfd.readouterr().out) == with_checkpoint
    assert names(tickets / "pools" / "interpolate_ema_0.95")[:2] == ["0pool.pth.tar", "1pool.pth.tar"]


def test_papers_pool_command_runs_on_a_resnet18(small_images, tmp_path):
    torch.manual_seed(0)
    for level in (0, 1):
        net = models.build("resnet18", 10, [0.5] * 3, [0.5] * 3)
        torch.save({"state_dict": net.state_dict()}, tmp_path / f"{level}model_SA_best.pth.tar")
    command = POOLS_COMMAND.format("Lottery_pools", "--interpolation_value_list 0.5", tmp_path)
    images = ["--dataset", "npz", "--data", str(small_images), "--data_limit", "20", "--levels", "1"]
    Lottery_pools.main([*arguments(command), *images, "--device", "cpu"])
    pool = load(tmp_path / "pools" / "Lottery_pools_0.5" / "1pool.pth.tar")["state_dict"]
    assert same_names(pool, models.build("resnet18", 10, [0.5] * 3, [0.5] * 3).state_dict())


def same_names(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return {name: value.shape for name, value in first.items()} == {name: v.shape for name, v in second.items()}


def test_scripts_run_as_programs_from_their_folder(tmp_path):
    for script, flags in (
        ("main_imp.py", [*IMP, "--pruning_times", "2", "--save_dir"]),
        ("Lottery_pools.py", [*LIST, "--checkpoint"]),
    ):
        command = [sys.executable, script, *SMALL, *flags, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT / "CIFAR", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    written = tmp_path / "pools" / "Lottery_pools_0.3_0.7"
    assert names(written) == ["0pool.pth.tar", "1pool.pth.tar", *RESULTS, *searches(0, 1)]


# Ensembles


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
    assert_is_picture(ensembles.folder / "accuracy.png")
    with (ensembles.folder / "pools.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["pool_test_accuracy"]) for row in rows] == [
        entry["pool_test_accuracy"] for entry in ensembles.entries
    ]


def change_ticket(folder: Path, level: int) -> None:
    path = RunFiles(folder).ticket(level).path
    record = load(path)
    record["state_dict"]["fc.bias"] += torch.arange(10.0)
    torch.save(record, path)


def test_ensemble_of_a_ticket_that_changed_is_scored_again(small_tickets):
    command = [*SMALL, *ENSEMBLE, "--search_num", "1", "--checkpoint", str(small_tickets)]
    Lottery_pools.main(command)
    before = pools_json(small_tickets / "pools" / "ensemble")["pools"]
    change_ticket(small_tickets, 2)
    Lottery_pools.main(command)
    after = pools_json(small_tickets / "pools" / "ensemble")["pools"]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False]


# Searches that stop and go on


def stop_after(monkeypatch, owner: type, name: str, calls: int) -> None:
    """Let method `name` of `owner` work `calls` times; the next call is a Ctrl-C."""
    method, left = getattr(owner, name), itertools.count(calls, -1)

    def stopping(self, *args, **kwargs):
        if next(left) <= 0:
            raise KeyboardInterrupt
        return method(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, stopping)


@pytest.fixture
def search(small_tickets, tmp_path):
    """Runs Lottery_pools.py on small tickets, into a folder of tmp_path; returns the folder."""

    def run(folder: str, *flags: str) -> Path:
        files = ["--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / folder)]
        Lottery_pools.main([*SMALL, *LIST, *SAVES, *files, "--jobs", "2", *flags])
        return tmp_path / folder

    return run


@pytest.fixture(scope="module")
def whole(_small_tickets, tmp_path_factory) -> Path:
    """What the search above finds if nothing stops it. Nobody may write into it."""
    folder = tmp_path_factory.mktemp("whole") / "pools"
    with stand_ins():
        files = ["--checkpoint", str(_small_tickets), "--save_dir", str(folder)]
        Lottery_pools.main([*SMALL, *LIST, *files, "--jobs", "2"])
    return folder


@pytest.mark.parametrize(
    "owner, name, calls",
    [
        (Evaluator, "validate", 2),  # while the accuracies of the three tickets are checked
        (Evaluator, "validate", 4),  # within the first candidate of the first start
        (Evaluator, "validate", 6),  # within its second one
        (Evaluator, "recalibrate", 7),
        (Evaluator, "test", 3),  # after the second search, before its pool is saved
        (PoolRun, "_save_table", 2),  # after its pool is saved, before the table says so
    ],
)
def test_interrupted_search_goes_on_to_the_same_pools(whole, search, monkeypatch, owner, name, calls):
    stop_after(monkeypatch, owner, name, calls)
    with pytest.raises(KeyboardInterrupt):
        search("stopped")
    monkeypatch.undo()
    assert_same_pools(whole, search("stopped"))


@pytest.mark.parametrize(
    "method, name, calls",
    [
        *(("interpolate_swa", "validate", 7), ("interpolate_ema", "validate", 7)),
        *(("uniform_soup", "validate", 4), ("greedy_soup", "validate", 6)),  # within the second start
        ("average_or_soup", "validate", 8),
        *(("learned", "loss_gradient", 12), ("ensemble", "test", 1)),
    ],
)
def test_interrupted_methods_go_on_to_the_same_pools(search, monkeypatch, method, name, calls):
    flags = ("--interpolate_method", method, "--learned_steps", "8")
    whole = search("whole", *flags)
    stop_after(monkeypatch, Evaluator, name, calls)
    with pytest.raises(KeyboardInterrupt):
        search("stopped", *flags)
    monkeypatch.undo()
    stop_after(monkeypatch, Evaluator, "test", 4)  # two of the three starts are left
    assert_same_pools(whole, search("stopped", *flags))


def test_candidates_tried_before_an_interruption_are_not_tried_again(search, monkeypatch, capfd):
    stop_after(monkeypatch, Evaluator, "validate", 6)
    with pytest.raises(KeyboardInterrupt):
        search("stopped", "--levels", "0")
    monkeypatch.undo()
    capfd.readouterr()
    search("stopped", "--levels", "0")
    assert re.findall(r"with level +(\d)", capfd.readouterr().out) == ["2"]


def test_finished_search_does_nothing_anew_and_prints_the_same_table(search, monkeypatch, capfd):
    folder = search("pools")
    table = table_of(capfd.readouterr().out)
    before = snapshot(folder)
    for name in ("validate", "recalibrate", "test"):
        stop_after(monkeypatch, Evaluator, name, 0)
    search("pools")
    assert table_of(capfd.readouterr().out) == table
    after = snapshot(folder)
    pools = [path for path in before if path.name.endswith("pool.pth.tar")]
    assert [before[path] for path in pools] == [after[path] for path in pools]


@pytest.mark.parametrize("method", ["Lottery_pools", "linear_inter"])
def test_ticket_less_accurate_than_its_file_says_is_reported(search, small_tickets, method, capfd):
    path = small_tickets / "1model_SA_best.pth.tar"
    record = torch.load(path, weights_only=True)
    found, record["best_sa"] = record["best_sa"], record["best_sa"] + 4
    torch.save(record, path)
    flags = ("--interpolate_method", method, "--levels", "0", "--ticket_tolerance")
    search("tolerant", *flags, "4.1")
    assert capfd.readouterr().err == ""
    search("strict", *flags, "3.9", "--quiet")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: {path} records a validation accuracy of {found + 4:.2f}% and has {found:.2f}% here"
    )


def test_tickets_trained_in_this_folder_are_as_accurate_as_they_say(search, capfd):
    search("pools", "--ticket_tolerance", "0")
    assert capfd.readouterr().err == ""


def test_levels_one_after_the_other_give_what_all_at_once_do(whole, search):
    for level in ("2", "0", "1"):
        by_level = search("by_level", "--levels", level, "--quiet")
    assert_same_pools(whole, by_level)


def test_level_asked_for_alone_leaves_the_finished_ones_in_the_table(search, capfd):
    search("pools")
    table = table_of(capfd.readouterr().out)
    search("pools", "--levels", "1")
    assert table_of(capfd.readouterr().out) == table


@pytest.mark.parametrize(
    "flags",
    [
        *(["--bn_images", "50"], ["--seed", "7"], ["--search_num", "1"], ["--batch_size", "32"]),
        *(["--interpolation_value_list", "0.5"], ["--interpolate_method", "interpolate_swa"], ["--amp"]),
    ],
)
def test_another_search_is_kept_out_of_the_folder_of_a_finished_one(search, flags):
    folder = search("pools", "--levels", "2")
    before = snapshot(folder)
    with pytest.raises(UserError, match=rf"pools\.json .*{flags[0]} ") as error:
        search("pools", *flags)
    assert "another folder" in str(error.value)
    assert snapshot(folder) == before


def test_stopped_search_with_other_flags_is_not_gone_on_with(search, tmp_path, monkeypatch):
    stop_after(monkeypatch, Evaluator, "validate", 6)
    with pytest.raises(KeyboardInterrupt):
        search("pools")
    monkeypatch.undo()
    (tmp_path / "pools" / "pools.json").unlink()
    with pytest.raises(UserError, match=r"0pool_unfinished.*--seed 41, not 7"):
        search("pools", "--seed", "7")


def test_images_of_another_number_are_another_search(search):
    search("pools", "--levels", "2")
    with pytest.raises(UserError, match=r"--data_limit|images"):
        search("pools", "--levels", "2", "--data_limit", "150")


def test_methods_have_folders_of_their_own(small_tickets):
    for flags in (*METHODS.values(), ENSEMBLE):
        Lottery_pools.main([*SMALL, *flags, "--checkpoint", str(small_tickets), "--levels", "2"])
    folders = {path.name for path in (small_tickets / "pools").iterdir()}
    assert folders == {"Lottery_pools_0.3_0.7", "Lottery_pools_0.5", "interpolate_ema_0.6", "interpolate_swa"} | {
        *("uniform_soup", "greedy_soup", "average_or_soup", "learned", "ensemble")
    }


def test_ticket_that_comes_later_is_a_candidate_of_all_starts(whole, search, small_tickets):
    ticket = small_tickets / "2model_SA_best.pth.tar"
    ticket.rename(ticket.with_name("later"))
    growing = search("growing")
    assert len(pools_json(growing)["pools"]) == 2
    ticket.with_name("later").rename(ticket)
    assert_same_pools(whole, search("growing"))


def test_starts_whose_candidates_are_the_same_are_not_searched_again(search, small_tickets):
    ticket = small_tickets / "2model_SA_best.pth.tar"
    ticket.rename(ticket.with_name("later"))
    folder = search("pools", "--search_num", "1")
    before = snapshot(folder)
    ticket.with_name("later").rename(ticket)
    search("pools", "--search_num", "1")
    after = snapshot(folder)
    assert all(after[folder / name] == before[folder / name] for name in ("0pool.pth.tar", "1pool.pth.tar"))
    assert len(pools_json(folder)["pools"]) == 3


def test_search_goes_on_without_a_ticket_that_was_removed(search, small_tickets):
    folder = search("pools")
    (small_tickets / "2model_SA_best.pth.tar").unlink()
    search("pools")
    tried = {entry["level"]: [step["candidate"] for step in entry["steps"]] for entry in pools_json(folder)["pools"]}
    assert (tried[0], tried[1]) == ([1], [0])


# IMP that stops and goes on


def run_imp(folder: Path, *flags: str) -> Path:
    main_imp.main([*SMALL, *IMP, "--save_dir", str(folder), *flags])
    return folder


def assert_same_tickets(first: Path, second: Path) -> None:
    assert names(first) == names(second)
    for name in names(first):
        if name.endswith((".tar", ".pt")):
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_finished_run_changes_no_file(tmp_path):
    def files() -> dict:
        return {
            path: found for path, found in snapshot(run_imp(tmp_path, "--pruning_times", "2")).items() if path.is_file()
        }

    assert files() == files()


@pytest.mark.parametrize("prune_type", ["lt", "rewind_lt", "pt"])
def test_killed_run_ends_in_the_same_bytes(tmp_path, monkeypatch, prune_type):
    flags = ["--prune_type", prune_type, "--epochs", "3", "--pruning_times", "2"]
    whole = run_imp(tmp_path / "whole", *flags)
    for calls in (2, 1):  # within level 0, then within level 1
        stop_after(monkeypatch, imp.ImpRun, "_train_pass", calls)
        with pytest.raises(KeyboardInterrupt):
            run_imp(tmp_path / "killed", *flags)
        monkeypatch.undo()
    assert_same_tickets(whole, run_imp(tmp_path / "killed", *flags))


def test_more_levels_can_be_asked_for_later(small_tickets, tmp_path):
    run_imp(tmp_path / "grown", "--pruning_times", "1")
    assert_same_tickets(small_tickets, run_imp(tmp_path / "grown"))


def test_seed_zero_is_a_seed(tmp_path):
    first, again, other = (
        run_imp(tmp_path / name, "--seed", seed, "--pruning_times", "1")
        for name, seed in (("first", "0"), ("again", "0"), ("other", "1"))
    )
    assert_same_tickets(first, again)
    weights = [published_file(folder, 0)["init_weight"]["conv.weight"] for folder in (first, other)]
    assert not torch.equal(*weights)
    assert json.loads((first / "settings.json").read_text())["settings"]["seed"] == 0


@pytest.mark.parametrize(
    "flags", [["--rate", "0.5"], ["--seed", "7"], ["--lr", "0.01"], ["--epochs", "3"], ["--random_prune"]]
)
def test_another_run_is_kept_out_of_the_folder(small_tickets, flags):
    before = snapshot(small_tickets)
    with pytest.raises(UserError, match=f"settings.json .*{flags[0]} .*another folder"):
        run_imp(small_tickets, *flags)
    assert snapshot(small_tickets) == before


@pytest.mark.parametrize("named", [".", "0checkpoint.pth.tar"])
def test_checkpoint_names_the_run_to_go_on_with(small_tickets, tmp_path, named):
    one_level = run_imp(tmp_path / "run", "--pruning_times", "1")
    main_imp.main([*SMALL, *IMP, "--checkpoint", str(one_level / named), "--resume"])
    assert_same_tickets(small_tickets, one_level)


@pytest.mark.parametrize(
    "checkpoint, flags, message",
    [
        ("tickets/0checkpoint.pth.tar", [], "not the newest"),
        ("tickets/missing", [], "does not exist"),
        (".", [], "nothing to go on from"),
        ("tickets", ["--save_dir", "other"], "leave --save_dir"),
    ],
)
def test_checkpoint_that_is_not_a_runs_newest_is_refused(small_tickets, checkpoint, flags, message):
    before = snapshot(small_tickets)
    with pytest.raises(UserError, match=f"--checkpoint.*{message}"):
        main_imp.main([*SMALL, *IMP, "--checkpoint", str(small_tickets.parent / checkpoint), *flags])
    assert snapshot(small_tickets) == before


def test_tickets_without_checkpoints_are_not_written_over(small_tickets):
    """Such a folder holds tickets of another program, which wrote no settings either."""
    for path in (*small_tickets.glob("*checkpoint.pth.tar"), small_tickets / "settings.json"):
        path.unlink()
    before = {path: path.read_bytes() for path in small_tickets.iterdir()}
    with pytest.raises(UserError, match=str(small_tickets)):
        run_imp(small_tickets, "--seed", "3")
    assert {path: path.read_bytes() for path in small_tickets.iterdir()} == before


# Test images choose nothing

LEAK_METHODS = ("Lottery_pools", "interpolate_swa", "interpolate_ema", "greedy_soup", "learned")


@pytest.fixture(scope="module")
def leak(tmp_path_factory) -> list[Path]:
    """The same run of tickets and all pools twice, the second time with its test labels shuffled."""
    data = load_data("digits", None, "cpu", data_limit=200)
    arrays = {"x_train": torch.cat([data.train.images, data.val.images]).numpy(), "x_test": data.test.images.numpy()}
    arrays |= {"y_train": torch.cat([data.train.labels, data.val.labels]).numpy(), "y_test": data.test.labels.numpy()}
    runs = []
    for name, order in (("true", np.arange(200)), ("shuffled", np.random.RandomState(0).permutation(200))):
        folder = tmp_path_factory.mktemp(name)
        np.savez(folder / "images.npz", **{**arrays, "y_test": arrays["y_test"][order]})
        flags = [*SMALL, "--dataset", "npz", "--data", str(folder / "images.npz")]
        with stand_ins():
            main_imp.main(
                [*flags, *IMP, "--epochs", "6", "--pruning_times", "2", "--save_dir", str(folder / "tickets")]
            )
            for method in LEAK_METHODS:
                Lottery_pools.main([*flags, *METHODS[method], "--checkpoint", str(folder / "tickets")])
        runs.append(folder / "tickets")
    return runs


def test_tickets_do_not_depend_on_test_labels(leak):
    for name in (f"{level}{kind}.pth.tar" for level in range(2) for kind in ("model_SA_best", "checkpoint")):
        true, shuffled = (load(folder / name) for folder in leak)
        assert true["result"].pop("test_ta") != shuffled["result"].pop("test_ta"), "they were not shuffled"
        for part in ("state_dict", "init_weight"):
            assert same_tensors(true.pop(part), shuffled.pop(part))
        for key in ("result", "epoch", "best_sa", "scheduler"):
            assert true[key] == shuffled[key]


def test_pools_do_not_depend_on_test_labels(leak):
    folders = sorted(path.relative_to(leak[0]) for path in (leak[0] / "pools").iterdir())
    assert len(folders) == len(LEAK_METHODS)
    for folder in folders:
        true, shuffled = (pools_json(run / folder)["pools"] for run in leak)
        assert [[entry.pop(name) for name in TEST_FIELDS] for entry in true] != [
            [entry.pop(name) for name in TEST_FIELDS] for entry in shuffled
        ], "they were not shuffled"
        assert true == shuffled
        for entry in true:
            pools = [load(run / folder / entry["checkpoint"]) for run in leak]
            assert same_tensors(pools[0]["state_dict"], pools[1]["state_dict"])
            assert same_tensors(pools[0]["mask"], pools[1]["mask"])


# Tickets of OpenLTH


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


# Methods side by side


@pytest.mark.pictures
def test_evaluate_draws_and_tabulates_several_methods(small_tickets, capsys):
    folders = []
    for method in ("average", "interpolate_swa"):
        Lottery_pools.main([*SMALL, *METHODS[method], "--checkpoint", str(small_tickets), "--quiet"])
        folders.append(small_tickets / "pools" / {"average": "Lottery_pools_0.5"}.get(method, method))
    capsys.readouterr()
    evaluate.main([*map(str, folders)])
    assert len(table_of(capsys.readouterr().out)) >= 2 + 3
    assert_is_picture(small_tickets / "pools" / "accuracy.png")
    with (small_tickets / "pools" / "comparison.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    for column, folder in enumerate(folders, start=3):
        accuracies = [entry["pool_test_accuracy"] for entry in pools_json(folder)["pools"]]
        assert [float(row[column]) for row in rows] == accuracies


def test_a_start_whose_candidate_changed_is_searched_again(small_tickets):
    command = [*SMALL, *LIST, "--checkpoint", str(small_tickets), "--search_num", "1"]
    Lottery_pools.main(command)
    before = pools_json(small_tickets / "pools" / "Lottery_pools_0.3_0.7")["pools"]
    change_ticket(small_tickets, 1)
    Lottery_pools.main(command)
    after = pools_json(small_tickets / "pools" / "Lottery_pools_0.3_0.7")["pools"]
    assert before[0]["steps"][0]["candidate"] == 1
    assert before[0]["steps"][0]["scores"] != after[0]["steps"][0]["scores"]


@pytest.mark.parametrize("method", ["Lottery_pools", "uniform_soup", "ensemble", "linear_inter"])
def test_a_ticket_that_is_replaced_while_it_is_in_use_is_noticed(fails, small_tickets, monkeypatch, method):
    def validate_and_replace(*args):
        (small_tickets / "0model_SA_best.pth.tar").write_bytes((small_tickets / "1model_SA_best.pth.tar").read_bytes())
        return score(*args)

    score = Evaluator.validate
    monkeypatch.setattr(Evaluator, "validate", validate_and_replace)
    monkeypatch.setattr("utils.studies.KEPT_BYTES", 0)
    line = fails(Lottery_pools, *SMALL, "--checkpoint", small_tickets, "--interpolate_method", method)
    assert f"{small_tickets / '0model_SA_best.pth.tar'} was replaced" in line


@pytest.mark.parametrize("method", ["average", "average_or_soup", "learned"])
def test_tickets_without_counters_and_normalisation_give_the_same_pools(search, small_tickets, method):
    whole = pools_json(search("whole", *METHODS[method]))["pools"]
    for level in range(3):
        path = small_tickets / f"{level}model_SA_best.pth.tar"
        content = load(path)
        kept = {name: value for name, value in content["state_dict"].items() if not may_be_missing(name)}
        assert len(kept) < len(content["state_dict"])
        torch.save({**content, "state_dict": kept}, path)
    assert pools_json(search("stripped", *METHODS[method]))["pools"] == whole


def test_departures_have_folders_and_names_of_their_own(small_tickets, capfd):
    flags = [*SMALL, *LIST, "--checkpoint", str(small_tickets), "--levels", "0", "--quiet"]
    for more in (["--passes", "2", "--even_out"], ["--interpolate_method", "interpolate_swa", "--passes", "2"]):
        Lottery_pools.main([*flags, *more])
    folders = sorted(path.name for path in (small_tickets / "pools").iterdir())
    assert folders == ["Lottery_pools_0.3_0.7_passes_2_even_out", "interpolate_swa"], "SWA heeds no --passes"
    assert capfd.readouterr().err == "warning: interpolate_swa has no use for --passes\n"
    Lottery_pools.main([*flags, "--interpolate_method", "interpolate_swa"])  # is not refused
    settings = json.loads((small_tickets / "pools" / folders[0] / "pools.json").read_text())["settings"]
    assert method_label(settings) == "Lottery Pools (2 coefficients), passes 2, even out"
    for name in ("passes", "even_out", "select_by"):  # as files have it that are older than the flags
        del settings[name]
    assert method_label(settings) == "Lottery Pools (2 coefficients)"


@pytest.mark.parametrize("method", ["Lottery_pools", "interpolate_swa", "uniform_soup", "ensemble"])
def test_denser_tickets_stay_out(small_tickets, method):
    flags = [*SMALL, "--checkpoint", str(small_tickets), "--denser_num", "0", "--interpolate_method", method]
    Lottery_pools.main([*flags, "--interpolation_value_list", "0.5"])
    name = {"Lottery_pools": "Lottery_pools_0.5"}.get(method, method)
    entries = pools_json(small_tickets / "pools" / f"{name}_denser_num_0")["pools"]
    levels = {entry["level"] for entry in entries}
    for entry in entries:
        tried = {step["candidate"] for step in entry["steps"]} | {member["level"] for member in entry["members"]}
        assert tried | {entry["level"]} == {level for level in levels if level >= entry["level"]}


def test_a_folder_of_before_a_flag_was_there_counts_as_made_without_it(search, fails, tmp_path):
    folder = search("pools", "--levels", "0")
    path = folder / "pools.json"
    content = json.loads(path.read_text())
    del content["settings"]["passes"]
    path.write_text(json.dumps(content))
    flags = [*SMALL, *LIST, "--checkpoint", tmp_path / "tickets", "--save_dir", folder, "--levels", "0"]
    assert "--passes 1, not 2" in fails(Lottery_pools, *flags, "--passes", "2")
    search("pools", "--levels", "0")
