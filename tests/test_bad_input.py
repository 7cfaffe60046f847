"""A user's mistake: exit status 2, one line that names the file or the flag, nothing written and nothing changed."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMP, ROOT, SMALL, Bomb, free_port, snapshot

from CIFAR import Lottery_pools, evaluate, main_imp
from utils.parser import run_script


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> Path:
    """Where the scripts are run: whatever they write without being told where would land in it."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def pools_fail(fails, small_tickets, tmp_path):
    """Runs Lottery_pools.py on small tickets; returns its line, having checked that nothing was written or changed."""

    def run(*flags: object) -> str:
        before = snapshot(tmp_path)
        line = fails(Lottery_pools, *SMALL, "--checkpoint", small_tickets, *flags)
        assert snapshot(tmp_path) == before
        assert line.startswith("Lottery_pools.py: error: ")
        return line

    return run


@pytest.fixture
def imp_fails(fails, tmp_path):
    """The same with main_imp.py."""

    def run(*flags: object) -> str:
        before = snapshot(tmp_path)
        line = fails(main_imp, *SMALL, *IMP, *flags)
        assert snapshot(tmp_path) == before
        assert line.startswith("main_imp.py: error: ")
        return line

    return run


@pytest.fixture
def unreachable() -> str:
    """An address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}/cifar.tar.gz"


def assert_names(line: str, *words: object) -> None:
    for word in words:
        assert str(word) in line


def change_ticket(path: Path, change) -> None:
    """Write the ticket at `path` again with its state dict changed."""
    record = torch.load(path, weights_only=True)
    change(record["state_dict"])
    torch.save(record, path)


# Images and networks


LONE = ["--arch", "resnet18_8", "--data_limit", "97", "--val_images", "32", "--batch_size", "64"]


def test_last_batch_of_one_image_in_training(fails, tmp_path):
    assert_names(fails(main_imp, *SMALL, *IMP, *LONE, "--save_dir", tmp_path / "new"), "--batch_size", "single image")


def test_last_batch_of_one_image_in_recalibration(fails, tmp_path):
    tickets = tmp_path / "tickets"
    images = [*LONE, "--data_limit", "96"]
    main_imp.main([*SMALL, *IMP, *images, "--pruning_times", "1", "--save_dir", str(tickets)])
    flags = [
        *images,
        "--bn_images",
        "33",
        "--batch_size",
        "32",
        "--interpolate_method",
        "interpolate_swa",
        "--checkpoint",
        tickets,
        "--save_dir",
        tmp_path / "pools",
    ]
    (tickets / "1model_SA_best.pth.tar").write_bytes((tickets / "0model_SA_best.pth.tar").read_bytes())
    assert_names(fails(Lottery_pools, *SMALL, *flags), "--bn_images", "single image")


# Folders and files of tickets


def test_missing_folder(pools_fail, tmp_path):
    assert_names(pools_fail("--checkpoint", tmp_path / "missing"), tmp_path / "missing")


def test_folder_that_the_flags_name_is_missing(fails):
    line = fails(Lottery_pools, *SMALL, "--seed", "5")
    assert_names(line, "checkpoints/rewind_lt/digits/cifar_resnet_8_4/rewind_epoch_9/seed5")


def test_a_path_that_the_system_refuses(fails):
    assert re.fullmatch(r"evaluate\.py: error: a{300}\S*: File name too long", fails(evaluate, "a" * 300))


def test_empty_folder(pools_fail, empty_folder):
    assert_names(pools_fail("--checkpoint", empty_folder), empty_folder, "model_SA_best")


def test_file_for_a_folder(pools_fail, small_tickets):
    path = small_tickets / "0model_SA_best.pth.tar"
    assert_names(pools_fail("--checkpoint", path), path)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pickle with code", "zip with code"])
def test_damaged_ticket(pools_fail, small_tickets, tmp_path, damage):
    path = small_tickets / "1model_SA_best.pth.tar"
    bomb = Bomb(tmp_path / "marker")
    if damage == "zip with code":
        torch.save({"state_dict": bomb}, path)
    else:
        whole = path.read_bytes()
        damaged = {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"a text",
            "pickle with code": pickle.dumps(bomb),
        }
        path.write_bytes(damaged[damage])
    assert_names(pools_fail(), path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state["fc.weight"].view(-1)[:1].fill_(float("nan")), ["NaN", "fc.weight"]),
        (lambda state: state["blocks.0.bn1.running_var"].fill_(float("inf")), ["infinity", "blocks.0.bn1.running_var"]),
        (lambda state: state.update({"conv.weight_mask": torch.ones(4, 3, 3)}), ["mask", "conv.weight"]),
        (lambda state: state["conv.weight_mask"].fill_(0.5), ["mask", "conv.weight", "0 or 1"]),
        (lambda state: state.pop("fc.bias"), ["--arch cifar_resnet_8_4", "fc.bias"]),
        (lambda state: state.clear(), ["state dict"]),
    ],
)
def test_ticket_with_something_wrong_in_it(pools_fail, small_tickets, change, words):
    path = small_tickets / "1model_SA_best.pth.tar"
    change_ticket(path, change)
    assert_names(pools_fail(), path, *words)


def test_last_ticket_is_checked_before_the_first_is_searched(pools_fail, small_tickets, monkeypatch):
    (small_tickets / "2model_SA_best.pth.tar").write_bytes(b"")
    monkeypatch.setattr("utils.evaluation.Evaluator.validate", lambda *_: pytest.fail("hours of work before the error"))
    assert_names(pools_fail(), small_tickets / "2model_SA_best.pth.tar")


def test_level_that_has_no_ticket(pools_fail):
    assert_names(pools_fail("--levels", "0", "7"), "--levels 7", "0 1 2")


# Networks and images


@pytest.mark.parametrize("arch", ["cifar_resnet_14_4", "cifar_resnet_8_8", "resnet20s"])
def test_another_network_than_the_tickets(pools_fail, small_tickets, arch):
    assert_names(pools_fail("--arch", arch), small_tickets / "0model_SA_best.pth.tar", f"--arch {arch}")


@pytest.mark.parametrize("arch", ["resnet19", "cifar_resnet_9"])
def test_unknown_network_and_the_list_of_known_ones(pools_fail, imp_fails, arch):
    for fail in (pools_fail, imp_fails):
        assert_names(fail("--arch", arch), "--arch", arch, "resnet20s", "vgg16_bn", "imagenet_resnet_D")


def test_images_too_small_for_the_network(pools_fail, imp_fails):
    for fail in (pools_fail, imp_fails):
        assert_names(fail("--arch", "vgg16_bn"), "--arch vgg16_bn", "16", "8")


def test_images_of_another_number_of_classes(pools_fail, tmp_path, small_tickets):
    images = {f"x_{part}": np.zeros((8, 8, 8), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "four.npz", **images, y_train=np.arange(8) % 4, y_test=np.arange(8) % 4)
    line = pools_fail("--dataset", "npz", "--data", tmp_path / "four.npz")
    assert_names(line, small_tickets / "0model_SA_best.pth.tar", "10 classes", " 4")


def test_missing_npz_file(pools_fail, imp_fails, tmp_path):
    for fail in (pools_fail, imp_fails):
        assert_names(fail("--dataset", "npz", "--data", tmp_path / "no.npz"), tmp_path / "no.npz", "--data")


def test_cifar_that_is_neither_there_nor_to_be_had(fails, small_tickets, tmp_path, unreachable):
    """The folder is made, into which the error then says to put the archive; there is nothing in it but a lock."""
    before = snapshot(small_tickets)
    flags = ["--dataset", "cifar100", "--data", tmp_path / "images", "--data_url", unreachable]
    line = fails(Lottery_pools, *SMALL, "--checkpoint", small_tickets, *flags)
    assert_names(line, tmp_path / "images", unreachable, "cifar-100-python.tar.gz", "--data_url")
    assert snapshot(small_tickets) == before
    assert [path.name for path in (tmp_path / "images").iterdir()] == [".cifar-100-python.lock"]


@pytest.mark.parametrize("flag, value", [("--val_images", "200"), ("--val_images", "0"), ("--data_limit", "-1")])
def test_number_of_images_that_does_not_fit(pools_fail, flag, value):
    assert_names(pools_fail(flag, value), flag, value)


# Flags


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "inf", "half"])
def test_coefficient_outside_zero_to_one(pools_fail, value):
    for flag in ("--interpolation_value_list", "--EMA_value"):
        assert_names(pools_fail(flag, value), flag, value)


@pytest.mark.parametrize(
    "flag, value",
    [
        *(("--search_num", "-1"), ("--bn_images", "-1"), ("--batch_size", "0"), ("--seed", "-1"), ("--seed", "one")),
        *((flag, "99999999999999999999") for flag in ("--batch_size", "--seed", "--search_num")),
        *(("--interpolate_method", "average"), ("--dataset", "mnist"), ("--prune_type", "lth"), ("--typo", "1")),
    ],
)
def test_value_that_a_flag_does_not_take(pools_fail, flag, value):
    assert_names(pools_fail(flag, value), flag, value)


@pytest.mark.parametrize(
    "flag, value",
    [
        *(("--rate", "0"), ("--rate", "1"), ("--rate", "nan"), ("--rewind_epoch", "2"), ("--rewind_epoch", "-1")),
        *(("--epochs", "0"), ("--pruning_times", "0"), ("--lr", "nan"), ("--lr", "inf"), ("--momentum", "2")),
        *(("--decreasing_lr", "one"), ("--weight_decay", "-1"), ("--warmup", "-1")),
    ],
)
def test_value_that_imp_does_not_take(imp_fails, flag, value):
    assert_names(imp_fails(flag, value), flag, value)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "cuda:256", "cpu:cuda", "cpu:1", "meta", "hpu", "cuda:-1"])
def test_device_that_does_not_exist(pools_fail, imp_fails, device):
    for fail in (pools_fail, imp_fails):
        assert_names(fail("--device", device), "--device", device, "auto")


@pytest.mark.parametrize("number", ["-1", "256", "x"])
def test_gpu_that_is_no_number_of_one(pools_fail, imp_fails, number):
    for fail in (pools_fail, imp_fails):
        assert_names(fail("--gpu", number), "--gpu", f"cuda:{number}")


def test_home_directory_that_does_not_exist(pools_fail):
    assert_names(pools_fail("--dataset", "npz", "--data", "~nobody-of-that-name/images.npz"), "--data ~nobody")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk_under_the_output():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, ROOT / "CIFAR" / "Lottery_pools.py", "--list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["Lottery_pools.py: error: cannot write the output: No space left on device"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_cuda_device(pools_fail):
    assert_names(pools_fail("--device", "cuda"), "--device cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_published_gpu_flag_runs_without_one(small_tickets):
    """The published scripts' commands name a GPU by habit."""
    flags = ["--checkpoint", str(small_tickets), "--levels", "2", "--search_num", "0", "--device", "auto", "--gpu", "0"]
    Lottery_pools.main([*SMALL, *flags])


# Folders to write into


def test_pools_that_cannot_be_written(pools_fail, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("utils.evaluation.Evaluator.validate", lambda *_: pytest.fail("hours of work before the error"))
    assert_names(pools_fail("--save_dir", tmp_path / "file" / "pools"), tmp_path / "file" / "pools")


def test_tickets_that_cannot_be_written(imp_fails, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_names(imp_fails("--save_dir", tmp_path / "file" / "run"), tmp_path / "file" / "run")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"settings": {}}', '{"settings": 3}'])
def test_damaged_list_of_pools(pools_fail, tmp_path, content):
    (tmp_path / "pools").mkdir()
    (tmp_path / "pools" / "pools.json").write_text(content)
    assert_names(pools_fail("--save_dir", tmp_path / "pools"), tmp_path / "pools" / "pools.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(networks="many"),
        lambda entry: entry.update(weights=None),
        lambda entry: entry.update(level="0"),
        lambda entry: entry.update(more=1),
        lambda entry: entry.pop("tickets"),
        lambda entry: entry.update(tickets=None, level=9),
        lambda entry: entry["members"].append(3),
    ],
)
def test_damaged_list_of_ensembles(fails, small_tickets, tmp_path, change):
    method = ["--interpolate_method", "ensemble", "--save_dir", str(tmp_path / "pools")]
    command = [*SMALL, *method, "--checkpoint", str(small_tickets), "--quiet"]
    Lottery_pools.main(command)
    path = tmp_path / "pools" / "pools.json"
    content = json.loads(path.read_text())
    change(content["pools"][1])
    path.write_text(json.dumps(content))
    assert_names(fails(Lottery_pools, *command), path)
    assert json.loads(path.read_text())["pools"] == content["pools"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {}}'])
def test_damaged_list_of_paths(pools_fail, tmp_path, content):
    (tmp_path / "pools").mkdir()
    (tmp_path / "pools" / "connectivity.json").write_text(content)
    line = pools_fail("--save_dir", tmp_path / "pools", "--interpolate_method", "liner_inter")
    assert_names(line, tmp_path / "pools" / "connectivity.json")


@pytest.mark.parametrize("content", [{}, [], {"settings": {}}, {"settings": {}, "pool": {"score": 1.0, "steps": []}}])
def test_damaged_unfinished_pool(fails, small_tickets, tmp_path, content):
    path = tmp_path / "pools" / "0pool_unfinished.pth.tar"
    path.parent.mkdir()
    torch.save(content, path)
    assert_names(fails(Lottery_pools, *SMALL, "--checkpoint", small_tickets, "--save_dir", path.parent), path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": 3}'])
def test_damaged_settings(imp_fails, small_tickets, content):
    (small_tickets / "settings.json").write_text(content)
    assert_names(imp_fails("--save_dir", small_tickets), small_tickets / "settings.json")


@pytest.mark.parametrize("content", [[], {}, {"state_dict": []}, {"state_dict": {"conv.weight": torch.ones(1)}}])
def test_damaged_checkpoint(fails, small_tickets, content):
    path = small_tickets / "2checkpoint.pth.tar"
    torch.save(content, path)
    before = {path: path.read_bytes() for path in small_tickets.glob("*.tar")}
    line = fails(main_imp, *SMALL, *IMP, "--save_dir", small_tickets)
    assert_names(line, path)
    assert {path: path.read_bytes() for path in small_tickets.glob("*.tar")} == before


def test_training_that_diverges(fails, tmp_path):
    line = fails(main_imp, *SMALL, *IMP, "--lr", "1e30", "--save_dir", tmp_path / "run", "--quiet")
    assert_names(line, "--lr", "loss")
    assert not [*(tmp_path / "run").glob("*.tar")]


def test_lower_learning_rate_may_follow_the_advice_in_the_same_folder(fails, tmp_path):
    fails(main_imp, *SMALL, *IMP, "--lr", "1e30", "--save_dir", tmp_path / "run", "--quiet")
    main_imp.main([*SMALL, *IMP, "--pruning_times", "1", "--save_dir", str(tmp_path / "run")])
    assert (tmp_path / "run" / "0model_SA_best.pth.tar").exists()


@pytest.mark.parametrize("content", [None, "{}", '{"settings": {}, "pools": []}'])
def test_evaluating_a_folder_without_pools(fails, tmp_path, content):
    if content is not None:
        (tmp_path / "pools.json").write_text(content)
    before = snapshot(tmp_path)
    assert_names(fails(evaluate, tmp_path), tmp_path / "pools.json")
    assert snapshot(tmp_path) == before


# What a shell sees


def test_program_ends_in_status_two_and_one_line(small_tickets):
    """A ticket of another pickle protocol, about which torch would warn too."""
    path = small_tickets / "0model_SA_best.pth.tar"
    path.write_bytes(pickle.dumps(Bomb(small_tickets / "marker")))
    command = [sys.executable, "Lottery_pools.py", *SMALL, "--checkpoint", small_tickets]
    done = subprocess.run(command, cwd=ROOT / "CIFAR", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert_names(done.stderr, "Lottery_pools.py: error: ", path)


def test_debug_shows_where_the_error_was_found(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["main_imp.py", *SMALL, "--arch", "resnet19", "--debug"])
    with pytest.raises(SystemExit) as stop:
        run_script(main_imp.main)
    errors = capfd.readouterr().err
    assert stop.value.code == 2
    assert_names(errors, "Traceback (most recent call last)", "models/__init__.py")
    assert errors.splitlines()[-1].startswith("main_imp.py: error: --arch")


@pytest.mark.parametrize(
    "shortage",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("debug", [False, True])
def test_too_little_memory_is_one_line(monkeypatch, capfd, shortage, debug):
    def main(argv):
        raise shortage

    monkeypatch.setattr(sys, "argv", ["main_imp.py", *(["--debug"] if debug else [])])
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    *trace, line = capfd.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith("main_imp.py: error: out of memory: try a smaller --batch_size")
    assert any("Traceback" in line for line in trace) if debug else not trace


def test_memory_that_is_not_there_is_known_by_torchs_words(capfd):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda argv: torch.empty(2**50))
    assert stop.value.code == 2 and "out of memory" in capfd.readouterr().err


def test_a_bug_is_a_traceback():
    def main(argv):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        run_script(main)


def test_interrupted_program_says_how_to_go_on(capfd):
    def interrupt(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_script(interrupt)
    assert stop.value.code == 130
    assert capfd.readouterr().err.splitlines() == ["interrupted; give the same command again"]
