"""The benchmarks compare like with like: both sides read the same tickets and images and can do the same work."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from benchmarks import (
    choosing,
    coefficients,
    forward,
    measure,
    published,
    recipes,
    search,
    shortcuts,
    train,
    trials,
    variants,
)
from CIFAR import Lottery_pools, main_imp

ARCH = "cifar_resnet_8_4"


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> dict[str, Path]:
    """150 images in three classes that a network can tell apart, and tickets of levels 0 to 2."""
    folder = tmp_path_factory.mktemp("bench")
    draws = np.random.default_rng(0)
    labels = np.arange(200) % 3
    images = draws.integers(0, 128, (200, 32, 32, 3)) + 40 * labels[:, None, None, None]
    images, labels = images.astype(np.uint8), labels.astype(np.int64)
    data = folder / "images.npz"
    np.savez(data, x_train=images[:150], y_train=labels[:150], x_test=images[150:], y_test=labels[150:])
    flags = ["--dataset", "npz", "--data", str(data), "--val_images", "50", "--arch", ARCH, "--device", "cpu"]
    imp = ["--epochs", "2", "--rewind_epoch", "1", "--pruning_times", "3", "--save_dir", str(folder / "tickets")]
    main_imp.main([*flags, *imp, "--quiet"])
    return {"data": data, "tickets": folder / "tickets"}


def arguments(script, bench, *more: str):
    flags = ["--data", str(bench["data"]), "--arch", ARCH, "--images", "150", "--val_images", "50", *more]
    return script.build_parser().parse_args(flags)


def test_both_searches_score_the_same_ticket_alike_and_do_all_their_trials(bench, monkeypatch):
    monkeypatch.setattr(published, "WORKERS", 0)
    flags = ["--tickets", str(bench["tickets"]), "--levels", "1", "--coefficients", "0.3", "0.7", "--search_num", "2"]
    ((ticket, pool),) = search.run_published(arguments(search, bench, *flags))
    assert 0 <= pool <= 100
    ours = search.run_ours(arguments(search, bench, *flags, "--run", "defaults"))
    assert ours["trials"] == 4
    assert all(ours["clock"][step] > 0 for step in search.STEPS)
    lonely = search.run_ours(arguments(search, bench, *flags[:-1], "0", "--run", "defaults"))
    assert lonely["accuracy"] == [pytest.approx(ticket)]


def test_both_trainings_learn(bench, monkeypatch):
    monkeypatch.setattr(published, "WORKERS", 0)
    for run, flags in ((train.run_published, []), (train.run_ours, ["--run", "defaults"])):
        validation, test = run(arguments(train, bench, "--epochs", "3", *flags))
        assert validation > 40 and test > 40  # a third is chance


def test_runs_come_in_turn_and_ratios_are_taken_round_by_round(capfd):
    def command(name: str, number: int) -> list[str]:
        return [sys.executable, "-c", f"print('x'); print('{{\"seconds\": {(number + 1) * len(name)}}}')"]

    results = measure.interleaved(command, ["aaaa", "b"], 2)
    assert results == {"aaaa": [{"seconds": 4}, {"seconds": 8}], "b": [{"seconds": 1}, {"seconds": 2}]}
    assert measure.ratios(results["b"], results["aaaa"]) == [4.0, 4.0]
    assert [line.split()[2] for line in capfd.readouterr().out.splitlines()] == ["aaaa", "b", "aaaa", "b"]


def test_a_forward_pass_is_counted_by_hand():
    # 32×32 pixels × 16 filters × 27 weights for the first of its convolutions, twice that in FLOP.
    assert measure.forward_flops("resnet20s") == pytest.approx(2 * 40.8e6, rel=0.02)


def test_ways_to_choose_a_coefficient():
    right = np.zeros((4, 80), dtype=bool)
    for place, count in enumerate((20, 60, 70, 10)):
        right[place, :count] = True
    pool = right[2]
    assert coefficients.play_grid(right, pool) == (2, 1.0)
    place, whole = coefficients.play_hump(right, pool)
    assert place == 2
    place, seen = coefficients.play_race(right, pool, 2.0)
    assert place == 2 and seen < 0.7
    place, seen = coefficients.play_exact(right, pool)
    assert place == 2 and 0.8 < seen < 1.0
    assert coefficients.play_behind(right, pool, 100.0) == (2, whole)
    place, seen = coefficients.play_behind(right, pool, 2.0)
    assert place == 2 and seen < whole
    place, seen = coefficients.play_behind(right[:2], pool, 2.0)
    assert place == 1 and seen < 1.0, "all are stopped: the one that is least behind"


def recorded(script, bench, *more: str) -> argparse.Namespace:
    flags = ["--tickets", str(bench["tickets"]), "--data", str(bench["data"]), "--val_images", "50", "--arch", ARCH]
    return script.build_parser().parse_args([*flags, "--bn_images", "60", "--coefficients", "0.3", "0.7", *more])


def test_recorded_trials_are_those_of_the_search(bench, tmp_path):
    args = recorded(coefficients, bench)
    flags = ["--dataset", "npz", "--data", str(bench["data"]), "--val_images", "50", "--arch", ARCH, "--jobs", "1"]
    flags += ["--checkpoint", str(bench["tickets"]), "--save_dir", str(tmp_path), "--device", "cpu", "--quiet"]
    Lottery_pools.main([*flags, "--amp", "--bn_images", "60", "--interpolation_value_list", "0.3", "0.7"])
    entries = json.loads((tmp_path / "pools.json").read_text())["pools"]
    found = coefficients.record(args)
    scores = [step["scores"] for entry in entries for step in entry["steps"]]
    assert [list(100 * right.mean(1)) for right, _ in found] == [pytest.approx(some) for some in scores]
    starts = [100 * pool.mean() for _, pool in found][::2]
    assert starts == [pytest.approx(entry["ticket_val_accuracy"]) for entry in entries]


@pytest.mark.filterwarnings("ignore:An input array is constant", "ignore:Mean of empty slice")
def test_a_measure_chooses_by_its_own_and_is_judged_by_other_images(bench):
    def answers(right: float, nll: float, judged: float) -> trials.PerImage:
        return {name: np.array([value]) for name, value in {"right": right, "nll": nll, "judged": judged}.items()}

    step = trials.RecordedStep(0, 1, answers(0.5, 1.0, 0.4), [answers(0.5, 1.5, 0.2), answers(0.4, 0.9, 0.6)])
    by_accuracy = choosing.play([step], choosing.MEASURES["accuracy"])
    assert by_accuracy["gains"] == [pytest.approx(-20)] and by_accuracy["taken"] == 1
    by_loss = choosing.play([step], choosing.MEASURES["loss"])
    assert by_loss["gains"] == [pytest.approx(20)] and by_loss["rank_correlation"] == 1
    worse = trials.RecordedStep(0, 1, answers(0.6, 0.1, 0.4), step.trials)
    assert choosing.play([worse], choosing.MEASURES["loss"])["gains"] == [0]
    steps = trials.record(recorded(choosing, bench, "--search_num", "1"), choosing.ask)
    assert [(step.start, step.level) for step in steps] == [(0, 1), (1, 0), (2, 1)]
    for worth in choosing.MEASURES.values():
        assert len(choosing.play(steps, worth)["gains"]) == 3


def test_shortcuts_are_compared_start_by_start():
    def entry(accuracy: float, scores: list) -> dict:
        step = {"scores": scores, "coefficient": 0.5, "accepted": True}
        return {"ticket_test_accuracy": 50.0, "pool_test_accuracy": accuracy, "steps": [step]}

    reference = [entry(52.0, [1.0, 2.0, 3.0]), entry(54.0, [3.0, 2.0, 1.0])]
    found = [entry(52.5, [2.0, 4.0, 6.0]), entry(53.0, [3.0, None, 1.0])]
    result = shortcuts.compare(found, reference)
    assert (result["difference"], result["gain"], result["rank_correlation"]) == (-0.25, 2.75, 1.0)
    assert (result["scored"], result["same_verdict"]) == (2.5, 1.0)


def test_searches_from_folders_of_one_name_would_share_their_results(tmp_path):
    args = argparse.Namespace(tickets=[tmp_path / "one" / "tickets", tmp_path / "other" / "tickets"])
    with pytest.raises(SystemExit, match="--tickets: folders need different names"):
        variants.pools(args, "fast", [])


def test_recipes_are_compared_over_all_starts_and_run_by_run(tmp_path):
    def run(*accuracies: float) -> list[dict]:
        steps = [{"scores": [1.0, None]}, {"scores": [2.0, 3.0]}]
        return [{"ticket_test_accuracy": 50.0, "pool_test_accuracy": value, "steps": steps} for value in accuracies]

    result = recipes.compare([run(52, 53), run(56, 57)], [run(51, 53), run(54, 55)])
    assert (result["starts"], result["scored"], result["gain"]) == (4, 3.0, 4.5)
    assert result["differences"] == [1, 0, 2, 2]
    assert result["difference"] == 1.25 and result["difference_error"] == pytest.approx((11 / 12 / 4) ** 0.5)
    assert result["runs"] == [0.5, 2]
    recipes.plot({"one": result, "another": result}, tmp_path / "recipes.png")
    assert (tmp_path / "recipes.pdf").exists()


def test_every_recipe_is_a_command_line():
    for flags in recipes.RECIPES.values():
        Lottery_pools.build_parser().parse_args(flags)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_result_is_written_with_its_machine_and_command(tmp_path, monkeypatch, has_bfloat16):
    monkeypatch.setattr(measure, "matmul_peak", lambda device, dtype: 1e11)
    monkeypatch.setattr(measure, "has_bfloat16", lambda device: has_bfloat16)
    about = measure.machine(torch.device("cpu"))
    measure.save(argparse.Namespace(out=tmp_path), "table", "Title", ["a", "b"], [["x", "1"]], about, runs=[1])
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("# Title") and "| x | 1 |" in text and "100 GFLOP/s in float32" in text
    assert ("bfloat16" in text) == has_bfloat16
    assert json.loads((tmp_path / "table.json").read_text())["machine"]["torch"] == torch.__version__


def test_the_rows_of_a_table_say_what_the_flags_of_a_variant_do(bench):
    args = arguments(search, bench, "--tickets", str(bench["tickets"]), "--coefficients", "0.5")
    ours = {"seconds": 2.0, "memory_mb": 10, "result": {"trials": 3, "clock": {"load": 1.0}}}
    results = {"published": [{"seconds": 6.0, "memory_mb": 20}], "defaults": [ours], "fast": [ours]}
    rows = search.table(args, results, {"peak_gflops": {"float32": 1.0, "bfloat16": 1.0}})
    assert [row[0] for row in rows] == ["published", "defaults", "--fast"]
    assert [row[2] for row in rows] == ["1.00× (1.00–1.00)", *["3.00× (3.00–3.00)"] * 2]
    # 100 training and 50 validation images a trial, and two scores before each candidate of the published protocol.
    assert [row[3] for row in rows] == [f"{(150 + 100) / 6:,.0f}", "225", "225"]
    assert ["bfloat16" in row[4] for row in rows] == [False, False, True]
    rows = search.table(args, results, {"peak_gflops": {"float32": 1.0}})
    assert not any("bfloat16" in row[4] for row in rows), "of a device without it, where --amp computes in float32"


def test_all_ways_to_run_networks_give_the_same_answers():
    args = forward.build_parser().parse_args(["--ways", "plain", "folded", "stacked", "--rounds", "2"])
    nets = [models.build(ARCH, 3, [0.5] * 3, [0.25] * 3) for _ in range(3)]
    images = torch.rand(16, 3, 8, 8)
    for net in nets:
        net(images)  # gives the running statistics something to say
    answers = {}
    for phase in forward.PHASES:
        found = forward.measure_phase(args, nets, images, phase)
        assert all(len(one["seconds"]) == 2 and one["off"] < 1e-5 for one in found.values())
        answers[phase] = forward.make("stacked", nets, phase)(images)
    for answer, net in zip(answers["validation"], nets, strict=True):
        torch.testing.assert_close(answer, net.eval()(images))
    assert (answers["validation"] - answers["recalibration"]).abs().max() > 1e-3
