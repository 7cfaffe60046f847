"""CIFAR/main_imp.py from its command line to its files, on digits, in seconds."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import IMP, SMALL, snapshot
from script_runs import KEPT, assert_shows_something, load, names, published_file, stop_after
from torch import Tensor, nn
from torch.nn.utils import prune

import models
from CIFAR import main_imp
from utils import imp
from utils.errors import UserError
from utils.tickets import OpenlthRunFiles, find_tickets


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
    assert_shows_something(digits_tickets / f"{level}net_train.png")


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


# Runs that stop and go on


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


def test_killed_run_ends_in_the_same_bytes(tmp_path, monkeypatch):
    flags = ["--epochs", "3", "--pruning_times", "2"]
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
    with pytest.raises(UserError, match=rf"settings.json .*{flags[0]}\b.*another folder"):
        run_imp(small_tickets, *flags)
    assert snapshot(small_tickets) == before


@pytest.mark.parametrize("named", [".", "0checkpoint.pth.tar"])
def test_checkpoint_names_the_run_to_go_on_with(small_tickets, tmp_path, named):
    one_level = run_imp(tmp_path / "run", "--pruning_times", "1").rename(tmp_path / "moved")
    main_imp.main([*SMALL, *IMP, "--checkpoint", str(one_level / named), "--resume"])
    assert_same_tickets(small_tickets, one_level)


def in_openlths_layout(monkeypatch) -> None:
    """From now on CIFAR's script writes it, as ImageNet's does."""
    monkeypatch.setattr(main_imp, "RunFiles", OpenlthRunFiles)


@pytest.mark.parametrize("named", [".", "level_0/main/resume.pth.tar"])
def test_checkpoint_names_the_run_in_openlths_layout_too(tmp_path, monkeypatch, named):
    in_openlths_layout(monkeypatch)
    one_level = run_imp(tmp_path / "run", "--pruning_times", "1")
    monkeypatch.chdir((one_level / named).parent)
    file = Path(named).name
    main_imp.main([*SMALL, *IMP, "--pruning_times", "2", "--checkpoint", file if named != "." else str(one_level)])
    assert [found.level for found in find_tickets(one_level)] == [0, 1]


def test_checkpoint_of_an_earlier_level_is_told_from_the_newest_by_its_folder(tmp_path, monkeypatch):
    in_openlths_layout(monkeypatch)
    folder = run_imp(tmp_path / "run", "--pruning_times", "2")
    before = snapshot(folder)
    first, newest = (folder / f"level_{level}" / "main" / "resume.pth.tar" for level in (0, 1))
    with pytest.raises(UserError, match=f"--checkpoint {first} is not the newest: name {newest}"):
        main_imp.main([*SMALL, *IMP, "--checkpoint", str(first)])
    assert snapshot(folder) == before


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


def test_tickets_of_the_other_layout_are_not_written_beside(tmp_path):
    (tmp_path / "level_0" / "main").mkdir(parents=True)
    (tmp_path / "level_0" / "main" / "model_ep3_it0.pth").touch()
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} holds tickets that are not this run's"):
        run_imp(tmp_path)
    assert snapshot(tmp_path) == before


def test_tickets_without_checkpoints_are_not_written_over(small_tickets):
    """Such a folder holds tickets of another program, which wrote no settings either."""
    for path in (*small_tickets.glob("*checkpoint.pth.tar"), small_tickets / "settings.json"):
        path.unlink()
    before = {path: path.read_bytes() for path in small_tickets.iterdir()}
    with pytest.raises(UserError, match=str(small_tickets)):
        run_imp(small_tickets, "--seed", "3")
    assert {path: path.read_bytes() for path in small_tickets.iterdir()} == before


def test_tickets_whose_checkpoints_were_deleted_are_not_written_over_by_another_run(small_tickets):
    for path in small_tickets.glob("*checkpoint.pth.tar"):
        path.unlink()
    before = snapshot(small_tickets)
    with pytest.raises(UserError, match=r"settings\.json belongs to a run with --seed"):
        run_imp(small_tickets, "--seed", "3")
    assert snapshot(small_tickets) == before
