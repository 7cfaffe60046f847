"""Searches that stop and go on, or meet other tickets, flags or images than those of the folder."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIST, SAVES, SMALL, snapshot, stand_ins
from script_runs import ENSEMBLE, METHODS, assert_same_pools, change_network, load, pools_json, stop_after, table_of

from CIFAR import Lottery_pools, main_imp
from utils import provenance
from utils.errors import UserError
from utils.evaluation import Evaluator
from utils.method_names import folder_name, method_label
from utils.pool_files import PoolFiles
from utils.pool_runs import ORDERS
from utils.tickets import RunFiles, may_be_missing


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
        (PoolFiles, "save_table", 2),  # after its pool is saved, before the table says so
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


def test_what_a_kill_left_beside_a_finished_pool_is_removed(search, monkeypatch, tmp_path):
    flags = ("--levels", "0", "--save_interval", "0")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, PoolFiles, "remove_unfinished", 0)
        search("stopped", *flags)
    assert list(tmp_path.glob("stopped/*unfinished*"))
    search("stopped", *flags)
    assert not list(tmp_path.glob("stopped/*unfinished*"))


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


@pytest.mark.parametrize("method", ["Lottery_pools", "ensemble", "linear_inter"])
def test_ticket_less_accurate_than_its_file_says_is_reported_where_it_takes_part(search, small_tickets, method, capfd):
    path = small_tickets / "1model_SA_best.pth.tar"
    record = torch.load(path, weights_only=True)
    found, record["best_sa"] = record["best_sa"], record["best_sa"] + 4
    torch.save(record, path)
    flags = ("--interpolate_method", method, "--search_num", "1", "--levels")
    search("tolerant", *flags, "0", "--ticket_tolerance", "4.1")
    assert capfd.readouterr().err == ""
    pairs = {"linear_inter": ("0", "2", "--pairs", "all")}  # between neighbours all of three tickets take part
    search("without", *flags, *pairs.get(method, ("2", "--denser_num", "0")), "--ticket_tolerance", "3.9")
    assert capfd.readouterr().err == ""
    search("strict", *flags, "0", "--ticket_tolerance", "3.9", "--quiet")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: {path} records a validation accuracy of {found + 4:.2f}% and has {found:.2f}% here"
    )


def test_tickets_trained_on_another_part_of_the_images_are_reported(search, small_tickets, capfd):
    path = small_tickets / "settings.json"
    content = json.loads(path.read_text())
    images = content["settings"]["images"]
    given = dict(images)
    images["train"], images["val"] = images["train"] + 5, images["val"] - 5
    path.write_text(json.dumps(content))
    search("pools", "--levels", "0", "--search_num", "1")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: {path} notes {images['train']} training and {images['val']} validation images, here are "
        f"{given['train']} and {given['val']}"
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {"images": {"train": "many"}}}'])
def test_tickets_can_be_pooled_whatever_their_settings_file_holds(search, small_tickets, content, capfd):
    (small_tickets / "settings.json").write_text(content)
    search("pools", "--levels", "0", "--search_num", "1")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("flag, value", [("coefficient_search", "hump"), ("final_bn_images", 64), ("passes", 2)])
def test_pools_older_than_a_flag_do_not_mix_with_those_made_by_it(search, flag, value):
    path = search("pools", "--levels", "0", "--search_num", "1") / "pools.json"
    content = json.loads(path.read_text())
    del content["settings"][flag]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"belongs to a run with(out)? --{flag}\b"):
        search("pools", "--search_num", "1", f"--{flag}", str(value))
    search("pools", "--search_num", "1")


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
def test_another_search_is_kept_out_of_the_folder_of_a_finished_one(whole, search, flags):
    before = snapshot(whole)
    with pytest.raises(UserError, match=rf"pools\.json .*{flags[0]}\b.*another folder"):
        search(str(whole), *flags)
    assert snapshot(whole) == before


def test_flags_that_made_nothing_yet_can_be_corrected(fails, search, small_tickets, tmp_path):
    """Else the advice of a command that failed could not be followed in its folder."""
    learned = ("--interpolate_method", "learned", "--learned_steps", "2", "--levels", "2", "--learned_lr")
    files = ("--checkpoint", small_tickets, "--save_dir", tmp_path / "pools")
    assert "smaller --learned_lr" in fails(Lottery_pools, *SMALL, *files, *learned, "1e308", "--quiet")
    search("pools", *learned, "0.1")
    with pytest.raises(UserError, match=r"pools\.json .*--learned_lr 0\.1, not with --learned_lr 0\.2"):
        search("pools", *learned, "0.2")


def test_candidates_that_would_come_in_another_order_are_tried_anew(search, monkeypatch, capfd):
    """Two tickets may change places where other threads or another device round their scores."""
    flags = ("--levels", "0", "--order", "best")
    with monkeypatch.context() as patch:
        patch.setitem(ORDERS, "best", lambda candidates: candidates)
        stop_after(patch, Evaluator, "validate", 6)
        with pytest.raises(KeyboardInterrupt):
            search("stopped", *flags)
    monkeypatch.setitem(ORDERS, "best", lambda candidates: candidates[::-1])
    capfd.readouterr()
    search("stopped", *flags)
    output = capfd.readouterr().out
    assert "in another order now" in output and re.findall(r"with level +(\d)", output) == ["2", "1"]


def test_a_pool_accepted_at_one_gets_its_last_recalibration(search):
    few = ("--interpolation_value_list", "1", "--levels", "2", "--bn_images", "64")
    once, finished = (
        load(search(f"{len(more)}", *few, *more) / "2pool.pth.tar") for more in ((), ("--final_bn_images", "0"))
    )
    batches = [pool["state_dict"]["bn.num_batches_tracked"].item() for pool in (once, finished)]
    assert batches == [1, 3]


def test_stopped_search_with_other_flags_is_not_gone_on_with(search, tmp_path, monkeypatch):
    stop_after(monkeypatch, Evaluator, "validate", 6)
    with pytest.raises(KeyboardInterrupt):
        search("pools")
    monkeypatch.undo()
    (tmp_path / "pools" / "pools.json").unlink()
    with pytest.raises(UserError, match=r"0pool_unfinished.*--seed 41, not with --seed 7"):
        search("pools", "--seed", "7")


def test_images_of_another_number_are_another_search(search):
    search("pools", "--levels", "2")
    with pytest.raises(UserError, match=r"--data_limit 200, not with --data_limit 150"):
        search("pools", "--levels", "2", "--data_limit", "150")


def test_other_images_of_the_same_number_are_another_search(search, tmp_path):
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 10
    flags = ("--dataset", "npz", "--data", str(tmp_path / "set.npz"), "--data_limit", "0", "--levels", "2")
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    search("pools", *flags)
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images + 1, y_test=labels)
    with pytest.raises(UserError, match=r"pools\.json belongs to a run on other images"):
        search("pools", *flags)


def test_methods_have_folders_of_their_own(small_tickets):
    for flags in (*METHODS.values(), ENSEMBLE):
        Lottery_pools.main([*SMALL, *flags, "--checkpoint", str(small_tickets), "--levels", "2"])
    folders = {path.name for path in (small_tickets / "pools").iterdir()}
    assert folders == {"Lottery_pools_0.3_0.7", "Lottery_pools_0.5", "interpolate_ema_0.6", "interpolate_swa"} | {
        *("uniform_soup", "greedy_soup", "average_or_soup", "learned", "recalibrated", "ensemble")
    }


def test_a_long_list_of_coefficients_has_a_short_folder_of_its_own():
    def name(count: int, first: float = 0.0) -> str:
        values = [first, *(number / count for number in range(1, count))]
        return folder_name({"interpolate_method": "Lottery_pools", "interpolation_value_list": values})

    assert name(20).startswith("Lottery_pools_0_0.05_0.1_")
    assert name(99).startswith("Lottery_pools_99_coefficients_") and len(name(99)) < 50
    assert name(99) != name(99, 0.001)


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


def test_a_start_whose_candidate_changed_is_searched_again(small_tickets):
    command = [*SMALL, *LIST, "--checkpoint", str(small_tickets), "--search_num", "1"]
    Lottery_pools.main(command)
    before = pools_json(small_tickets / "pools" / "Lottery_pools_0.3_0.7")["pools"]
    change_network(small_tickets / "1model_SA_best.pth.tar")
    Lottery_pools.main(command)
    after = pools_json(small_tickets / "pools" / "Lottery_pools_0.3_0.7")["pools"]
    assert before[0]["steps"][0]["candidate"] == 1
    assert before[0]["steps"][0]["scores"] != after[0]["steps"][0]["scores"]


def test_pools_of_other_tickets_are_named_and_only_those_asked_for_are_made_again(search, small_tickets, capfd):
    search("pools")
    change_network(small_tickets / "1model_SA_best.pth.tar")
    capfd.readouterr()
    folder = search("pools", "--levels", "0")
    log = capfd.readouterr().out
    assert "level 0: 0pool.pth.tar is of other tickets, searching again" in log
    assert "level 2: 2pool.pth.tar is of other tickets, left out until --levels names it" in log
    assert [entry["level"] for entry in pools_json(folder)["pools"]] == [0]
    search("pools")
    assert [entry["level"] for entry in pools_json(folder)["pools"]] == [0, 1, 2]


@pytest.mark.parametrize("method", ["Lottery_pools", "uniform_soup", "ensemble", "linear_inter"])
def test_a_ticket_that_is_replaced_while_it_is_in_use_is_noticed(fails, small_tickets, monkeypatch, method):
    def validate_and_replace(*args):
        (small_tickets / "0model_SA_best.pth.tar").write_bytes((small_tickets / "1model_SA_best.pth.tar").read_bytes())
        return score(*args)

    score = Evaluator.validate
    monkeypatch.setattr(Evaluator, "validate", validate_and_replace)
    monkeypatch.setattr("utils.ticket_cache.KEPT_BYTES", 0)
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


@pytest.mark.parametrize("method", ["Lottery_pools", "ensemble", "linear_inter"])
def test_results_keep_the_versions_that_they_were_made_with(search, capfd, monkeypatch, method):
    monkeypatch.setattr(provenance, "git_revision", lambda: "before")
    flags = ("--interpolate_method", method)
    folder = search("results", *flags, "--levels", "0")
    (path,) = (path for path in folder.glob("*.json"))
    written = path.read_bytes()
    monkeypatch.setattr(provenance, "git_revision", lambda: "after")
    search("results", *flags, "--levels", "0", "--save_interval", "5")
    assert path.read_bytes() == written
    assert "what is there already was made with revision before (now after)" in capfd.readouterr().out
    search("results", *flags)
    assert json.loads(path.read_text())["versions"]["revision"] == "after", "new results came"


def test_tickets_keep_the_flags_and_versions_that_they_were_found_with(tmp_path, capfd, monkeypatch):
    flags = [*SMALL, "--epochs", "2", "--rewind_epoch", "1", "--save_dir", str(tmp_path)]
    monkeypatch.setattr(provenance, "git_revision", lambda: "before")
    main_imp.main([*flags, "--pruning_times", "2"])
    written = (tmp_path / "settings.json").read_bytes()
    monkeypatch.setattr(provenance, "git_revision", lambda: "after")
    main_imp.main([*flags, "--pruning_times", "1"])
    assert (tmp_path / "settings.json").read_bytes() == written
    assert "what is there already was made with revision before (now after)" in capfd.readouterr().out
    main_imp.main([*flags, "--pruning_times", "3"])
    content = json.loads((tmp_path / "settings.json").read_text())
    assert (content["versions"]["revision"], content["settings"]["pruning_times"]) == ("after", 3)


def test_a_level_that_is_still_trained_is_no_ticket(tmp_path, capfd, monkeypatch):
    """Its best epoch so far is in the file of its ticket."""
    tickets, pools = tmp_path / "tickets", tmp_path / "pools"
    stop_after(monkeypatch, RunFiles, "save_checkpoint", 5)  # four of the first level, one of the second
    with pytest.raises(KeyboardInterrupt):
        imp = ["--epochs", "4", "--rewind_epoch", "1", "--pruning_times", "2", *SAVES]
        main_imp.main([*SMALL, *imp, "--save_dir", str(tickets)])
    monkeypatch.undo()
    assert (tickets / "1model_SA_best.pth.tar").exists()
    Lottery_pools.main([*SMALL, *LIST, "--checkpoint", str(tickets), "--save_dir", str(pools)])
    assert [entry["level"] for entry in pools_json(pools)["pools"]] == [0]
    assert "1model_SA_best.pth.tar: its level was stopped after 2 of 4 epochs" in capfd.readouterr().err


def test_flags_of_other_methods_make_no_difference(search, fails, tmp_path):
    """A loop over methods gives its flags to all; two such loops have the same SWA."""
    swa = ("--interpolate_method", "interpolate_swa")
    folder = search("pools", *swa, "--EMA_value", "0.5")
    before = (folder / "pools.json").read_bytes()
    search("pools", *swa, "--EMA_value", "0.7", "--learned_steps", "3", "--interpolation_value_list", "0.5")
    assert (folder / "pools.json").read_bytes() == before
    ema = ("--interpolate_method", "interpolate_ema")
    files = ["--checkpoint", tmp_path / "tickets", "--save_dir", search("ema", *ema)]
    line = fails(Lottery_pools, *SMALL, *files, *ema, "--EMA_value", "0.5")
    assert "--EMA_value 0.95, not with --EMA_value 0.5" in line


@pytest.mark.parametrize(
    "method, flags",
    [
        ("interpolate_swa", ["--coefficient_search", "hump"]),
        ("linear_inter", ["--final_bn_images", "3", "--search_num", "1"]),
        ("ensemble", ["--final_bn_images", "3", "--bn_images", "4", "--batch_size", "1"]),
    ],
)
def test_flags_that_a_method_does_not_heed_make_no_difference(method, flags, small_tickets):
    command = [*SMALL, "--checkpoint", str(small_tickets), "--interpolate_method", method, *LIST]
    Lottery_pools.main([*command, *flags])
    (results,) = [*small_tickets.glob("pools/*/pools.json"), *small_tickets.glob("pools/*/connectivity.json")]
    before = results.read_bytes()
    Lottery_pools.main(command)
    assert results.read_bytes() == before


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
