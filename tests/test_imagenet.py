"""ImageNet's scripts on small photographs: the same tickets, pools and scores from one process or two."""

import functools
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
import torch
from conftest import (
    IMAGENET,
    IMAGENET_IMP,
    IMAGENET_SEARCH,
    METHODS,
    OTHERS,
    SHARED,
    WITH_STARTS,
    in_one_process,
)
from script_runs import entries

import models
from ImageNet import Lottery_pools, evaluate, main_imp
from ImageNet.dataset import ImageFolders
from utils import tickets
from utils.distributed import SINGLE
from utils.evaluation import Evaluator


def test_published_command_means_what_it_meant(photographs):
    command = (
        "--save_dir tickets data --interpolation_value_list 0.5 --seed 17 --master_port 8020 -j32 -p 500 "
        "--arch imagenet_resnet_18 --interpolate_method Lottery_pools"
    )
    args = Lottery_pools.build_parser().parse_args(command.split())
    assert (args.checkpoint, args.data, args.workers) == (Path("tickets"), Path("data"), 32)
    assert (args.arch, args.interpolation_value_list, args.seed) == ("imagenet_resnet_18", [0.5], 17)


def test_defaults_of_imp_are_the_papers():
    args = main_imp.build_parser().parse_args(["data"])
    assert (args.epochs, args.batch_size, args.lr, args.warmup, args.rewind_epoch) == (90, 1024, 0.4, 5, 5)
    assert (args.decreasing_lr, args.momentum, args.weight_decay) == ((30, 60, 80), 0.9, 1e-4)


@pytest.mark.parametrize("script", [main_imp, Lottery_pools, evaluate])
def test_images_smaller_than_their_crops_are_refused(fails, photographs, imagenet_tickets, tmp_path, script):
    arguments = {
        main_imp: [photographs, *IMAGENET_IMP, "--save_dir", tmp_path / "new"],
        Lottery_pools: ["--save_dir", imagenet_tickets, photographs, *IMAGENET, "--output_dir", tmp_path / "new"],
        evaluate: [imagenet_tickets, "--data", photographs, *IMAGENET, "--save_dir", tmp_path / "new"],
    }
    line = fails(script, *arguments[script], "--image_size", 32, "--resize", 31)
    assert "--resize 31" in line and "--image_size 32" in line
    assert not (tmp_path / "new").exists()


def test_tickets_are_in_openlths_layout(imagenet_tickets, openlth_tickets):
    files = tickets.find_tickets(imagenet_tickets)
    assert [file.level for file in files] == [0, 1]
    theirs = openlth_tickets / "lottery_9f60a888b3adb730b60ee83ee1fc72c3" / "replicate_1" / "level_1" / "main"
    for ours, other in ((files[1].path, theirs / "model_ep3_it0.pth"), (files[1].mask_path, theirs / "mask.pth")):
        mine, yours = (torch.load(path, weights_only=True) for path in (ours, other))
        assert set(mine) == set(yours)
        assert {name: value.dtype for name, value in mine.items()} == {
            name: value.dtype for name, value in yours.items()
        }
    report = json.loads((imagenet_tickets / "level_1" / "main" / "sparsity_report.json").read_text())
    assert tickets.read_ticket(files[1]).kept == report["unpruned"] == report["total"] - round(0.2 * report["total"])


def test_ticket_is_the_last_model_of_its_level_and_zero_where_pruned(imagenet_tickets):
    record = torch.load(imagenet_tickets / "level_1" / "main" / "resume.pth.tar", weights_only=True)
    best = record["result"]["val_ta"].index(record["best_sa"]) + 2  # level 1 starts after epoch 1
    assert tickets.find_tickets(imagenet_tickets)[1].path.name == f"model_ep{best}_it0.pth"
    state, mask = (
        torch.load(path, weights_only=True)
        for path in (tickets.find_tickets(imagenet_tickets)[1].path, imagenet_tickets / "level_1/main/mask.pth")
    )
    assert all((state[name][part == 0] == 0).all() for name, part in mask.items())


def test_going_on_with_another_number_of_processes_says_so(photographs, imagenet_tickets, tmp_path, capsys):
    copy = tmp_path / "tickets"
    subprocess.run(["cp", "-r", str(imagenet_tickets), str(copy)], check=True)
    in_one_process(main_imp, photographs, *IMAGENET_IMP, "--pruning_times", 3, "--save_dir", copy)
    assert "not bit for bit" in capsys.readouterr().out
    assert [file.level for file in tickets.find_tickets(copy)] == [0, 1, 2]


def test_one_and_two_processes_give_the_same_accuracies(imagenet_pools):
    for one, two in zip(entries(imagenet_pools / "one"), entries(imagenet_pools / "two"), strict=True):
        assert one == two


def test_starts_of_their_own_give_the_very_same_pools(imagenet_pools):
    assert entries(imagenet_pools / "starts") == entries(imagenet_pools / "one")
    for level in (0, 1):
        alone, shared = (
            torch.load(tickets.pool_path(imagenet_pools / name, level), weights_only=True)["state_dict"]
            for name in ("one", "starts")
        )
        assert all(torch.equal(alone[name], shared[name]) for name in alone)


@pytest.fixture(scope="module")
def others(imagenet) -> Path:
    """What else two processes can do with the tickets, each in a folder of its own."""
    return imagenet / "others"


@pytest.fixture(scope="module")
def alone(photographs, imagenet_tickets, tmp_path_factory) -> Callable[[str], list[dict]]:
    """The entries of one rival by one process."""
    folder = tmp_path_factory.mktemp("alone")

    @functools.cache
    def run(method: str) -> list[dict]:
        search = ["--save_dir", imagenet_tickets, photographs, *IMAGENET_SEARCH]
        in_one_process(Lottery_pools, *search, *OTHERS, method, "--output_dir", folder / method)
        return entries(folder / method)

    return run


def test_a_process_without_a_start_waits_for_the_others(others):
    assert [entry["level"] for entry in entries(others / "one start")] == [1]


def test_recalibrated_statistics_agree_to_rounding(imagenet_pools):
    for level in (0, 1):
        one, two = (
            torch.load(tickets.pool_path(imagenet_pools / name, level), weights_only=True)["state_dict"]
            for name in ("one", "two")
        )
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_rivals_over_two_processes(others, alone, method):
    """The same accuracies as one process; learned shares to rounding."""
    for one, two in zip(alone(method), entries(others / method), strict=True):
        shares = [{member["level"]: member["weight"] for member in entry["members"]} for entry in (one, two)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-5)
        assert {**one, "members": None} == {**two, "members": None}


@pytest.mark.parametrize("method", WITH_STARTS)
def test_rivals_with_a_start_each_give_the_same(others, alone, method):
    assert entries(others / f"{method} starts") == alone(method)


def test_connectivity_over_two_processes(photographs, imagenet_tickets, others, tmp_path):
    line = [*OTHERS, "linear_inter", "--interpolation_value_list", 0.5, "--output_dir", tmp_path]
    in_one_process(Lottery_pools, "--save_dir", imagenet_tickets, photographs, *IMAGENET_SEARCH, *line)
    (one,), (two,) = (
        json.loads((folder / tickets.CONNECTIVITY_JSON).read_text())["paths"] for folder in (tmp_path, others / "line")
    )
    assert two["coefficients"] == [0.0, 0.5, 1.0]
    assert one["test_accuracy"] == two["test_accuracy"]
    assert one["test_loss"] == pytest.approx(two["test_loss"], rel=1e-5)


def test_mistake_of_two_processes_is_one_line_and_status_2(imagenet):
    """What all the runs of `imagenet` said; it was built only if the last one, the mistake, had that status."""
    said = (imagenet / "mistake.txt").read_text()
    errors = [line for line in said.splitlines() if line.startswith("Lottery_pools.py: error:")]
    assert len(errors) == 1 and "is no --arch imagenet_resnet_34_4" in errors[0]
    assert "Traceback" not in said and not (imagenet / "mistake").exists()


def test_missing_level_is_said_and_pooled_without(photographs, imagenet_tickets, tmp_path, capsys):
    copy = tmp_path / "tickets"
    subprocess.run(["cp", "-r", str(imagenet_tickets), str(copy)], check=True)
    (copy / "level_1").rename(copy / "level_3")
    search = ["--save_dir", str(copy), str(photographs), *IMAGENET, "--bn_images", "40", "--output_dir", str(tmp_path)]
    Lottery_pools.main([*search, "--interpolation_value_list", "0.5"])
    assert "without level 1 2, for which there is no ticket" in capsys.readouterr().out
    assert [(entry["level"], entry["steps"][0]["candidate"]) for entry in entries(tmp_path)] == [(0, 3), (3, 0)]


def test_two_processes_recorded_what_one_measures(imagenet_tickets, imagenet_pools):
    """Batch-norm statistics of both went into the ticket that both scored."""
    for level in (0, 1):
        record = torch.load(imagenet_tickets / f"level_{level}" / "main" / "resume.pth.tar", weights_only=True)
        assert entries(imagenet_pools / "one")[level]["ticket_val_accuracy"] == record["best_sa"]


# What networks are worth


@pytest.fixture(scope="module")
def corrupted(imagenet) -> Path:
    """Corrupted photographs, as `write_corrupted` has them."""
    return imagenet / "corrupted"


def networks(folder: Path) -> list[dict]:
    return json.loads((folder / tickets.EVALUATION_JSON).read_text())["networks"]


@pytest.fixture(scope="module")
def evaluations(imagenet) -> dict[int, list[dict]]:
    """The networks of one evaluation, by one process and by two, which cannot share 21 images evenly."""
    return {processes: networks(imagenet / "evaluations" / str(processes)) for processes in (1, 2)}


def test_evaluation_agrees_with_what_the_search_recorded(evaluations, imagenet_pools):
    found = {(network["method"], network["level"]): network for network in evaluations[1]}
    assert len(found) == 4
    for entry in entries(imagenet_pools / "one"):
        ticket, pool = (found[method, entry["level"]] for method in ("ticket", "Lottery Pools (2 coefficients)"))
        assert ticket["accuracy"] == entry["ticket_test_accuracy"]
        assert pool["accuracy"] == entry["pool_test_accuracy"]
        assert pool["gain"] == pool["accuracy"] - ticket["accuracy"]
        assert pool["p_value"] <= 1


def test_evaluation_is_the_same_over_several_processes(evaluations):
    for one, two in zip(evaluations[1], evaluations[2], strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"bins", "nll", "ece", "brier"}:
            assert one[name] == two[name], name
        for name in ("nll", "ece", "brier"):
            assert one[name] == pytest.approx(two[name], rel=1e-5)


def test_corrupted_photographs_are_scored_by_corruption_and_severity(evaluations):
    for network in evaluations[1]:
        assert list(network["corruptions"]) == ["fog", "spatter"]
        assert network["corrupted_accuracy"] == mean(network["corruptions"]["fog"])
        assert len({*network["corruptions"]["spatter"]}) == 1


def test_recorded_results_need_no_photographs(imagenet_pools, tmp_path, capsys):
    evaluate.main([str(imagenet_pools / "one"), "--save_dir", str(tmp_path)])
    assert "mean gain" in capsys.readouterr().out and (tmp_path / tickets.COMPARISON_CSV).exists()


@pytest.mark.parametrize(
    "damage, words",
    [
        (shutil.rmtree, ["no such folder"]),
        (lambda folder: [shutil.rmtree(folder / name) for name in ("fog", "spatter")], ["<corruption>"]),
        (lambda folder: shutil.rmtree(folder / "fog" / "4"), ["fog/4"]),
        (lambda folder: shutil.rmtree(folder / "fog" / "4" / "bee"), ["fog/4", "bee"]),
        (lambda folder: [path.unlink() for path in (folder / "fog/1/bee").iterdir()], ["fog/1", "bee"]),
    ],
)
def test_corrupted_folders_that_are_not_as_they_must_be(
    fails, photographs, imagenet_tickets, corrupted, tmp_path, damage, words
):
    folder = Path(shutil.copytree(corrupted, tmp_path / "corrupted"))
    damage(folder)
    images = ["--data", photographs, *IMAGENET, "--quiet"]
    line = fails(evaluate, imagenet_tickets, *images, "--corruptions", folder, "--save_dir", tmp_path / "out")
    for word in (str(folder), *words):
        assert word in line
    assert not (tmp_path / "out" / tickets.EVALUATION_JSON).exists()


def test_photographs_that_are_not_named(fails, imagenet_tickets):
    assert "train/" in fails(evaluate, imagenet_tickets, *IMAGENET)


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory) -> Path:
    """20 classes of Tiny ImageNet, on which the OpenLTH tickets were trained."""
    archive = SHARED / "data" / "tiny-imagenet-20.tar"
    if not archive.is_file():
        pytest.skip(f"Tiny ImageNet is not there: {archive}")
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run(["tar", "xf", str(archive), "-C", str(folder)], check=True)
    return folder / "tiny-imagenet-20"


@pytest.mark.parametrize("level", [0, 4])
def test_openlths_tickets_have_openlths_accuracy_to_the_image(openlth_tickets, tiny_imagenet, level):
    file = tickets.find_tickets(openlth_tickets)[level]
    logged = [line.split(",") for line in (file.path.parent / "logger").read_text().split()]
    theirs = [float(value) for name, _, value in logged if name == "test_accuracy"][-1]
    data = ImageFolders(tiny_imagenet, SINGLE, image_size=224, resize=256, workers=0, cache_gb=1)
    net = models.build("imagenet_resnet_18_8", 20, data.mean, data.std)
    evaluator = Evaluator("imagenet_resnet_18_8", [net], data, 250)
    ours = evaluator.validate(evaluator.read_ticket(file).state)
    assert ours.images == 1000 and ours.correct == round(1000 * theirs)
