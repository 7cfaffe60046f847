"""Bad files of every kind: a thousand in a watched child (see fuzz.py), a dozen through the scripts themselves."""

import os
import random
import subprocess
import time
from pathlib import Path

import fuzz
import mutations
import numpy as np
import pytest
import torch
from conftest import IMP, SMALL

from CIFAR import Lottery_pools, evaluate, main_imp
from utils.errors import LONGEST_LINE, UserError


def test_a_thousand_bad_files_do_no_harm(tmp_path):
    found = fuzz.fuzz(tmp_path, 1000, seed=0)
    assert not found.failures, "\n".join(found.failures)
    assert found.outcomes.total() == 1000
    assert found.count("refused") > 800


# What the fuzz test would notice


@pytest.fixture(scope="module")
def watch(tmp_path_factory) -> fuzz.Watch:
    return fuzz.Watch(tmp_path_factory.mktemp("watched"))


@pytest.fixture
def verdict(watch):
    """What is wrong, by the fuzz test, with a program that does this with a file."""

    def judge(read) -> str:
        path = Path(watch.folder, "file.pt")
        path.write_bytes(b"good")
        subject = fuzz.Subject("file", path, read, ())
        subject.found = {"weight": torch.zeros(2)}
        return fuzz.try_one(subject, mutations.flip_bit, random.Random(0), watch)[1]

    return judge


def refuse(message: str) -> None:
    raise UserError(message)


@pytest.mark.parametrize(
    "read, word",
    [
        (lambda: os.system("true") and None, "os.system"),
        (lambda: subprocess.run(["true"], check=True) and None, "subprocess.Popen"),
        (lambda: exec("1 + 1"), "exec"),
        (lambda: Path("/nonexistent/folder").mkdir(), "os.mkdir"),
        (lambda: int("five"), "ValueError"),
        (lambda: {"weight": torch.ones(2)}, "something else"),
        (lambda: {"weight": -torch.zeros(2)}, "something else"),
        (lambda: {"weight": torch.zeros(2, dtype=torch.float64)}, "something else"),
        (lambda: refuse("it is damaged"), "without a line that names it"),
        (lambda: refuse("file.pt is \x1b[2J damaged") or None, ""),
    ],
)
def test_harm_is_noticed(verdict, read, word):
    wrong = verdict(read)
    assert word in wrong and bool(wrong) == bool(word)


def test_writing_elsewhere_is_noticed(verdict, tmp_path, watch):
    assert "open" in verdict(lambda: (tmp_path / "outside").write_text("x") and None)
    assert not verdict(lambda: Path(watch.folder, "inside").write_text("x") and None)


def test_a_file_that_takes_for_ever_is_noticed(verdict, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)

    def read():
        try:
            time.sleep(5)
        except Exception as error:
            raise UserError("file.pt is damaged") from error

    assert "TooLong" in verdict(read)


def test_a_child_that_dies_names_the_file_that_it_died_of(tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text(
        f"import os\nopen({str(tmp_path / 'progress')!r}, 'w').write('mutation 7')\nos.kill(os.getpid(), 11)"
    )
    monkeypatch.setattr(fuzz, "__file__", script)
    monkeypatch.setattr(fuzz, "prepare", lambda folder: None)
    (failure,) = fuzz.fuzz(tmp_path, 10, seed=0).failures
    assert "-11" in failure and "mutation 7" in failure


# Through the scripts


def spoil(path: Path, mutation: mutations.Mutation, seed: int = 0) -> None:
    path.write_bytes(mutation(random.Random(seed), path.read_bytes()))


def flip_weight(draws: random.Random, data: bytes) -> bytes:
    """One bit of one weight, which torch itself would not notice."""
    weights = torch.load(mutations.io.BytesIO(data), weights_only=True)["state_dict"]["fc.weight"].numpy().tobytes()
    place = data.index(weights) + draws.randrange(len(weights))
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def check_line(line: str, path: Path) -> None:
    assert path.name in line and line.isprintable() and len(line) <= LONGEST_LINE


@pytest.mark.parametrize(
    "mutation",
    [
        *(flip_weight, mutations.truncate, mutations.call_foreign_code, mutations.nest_in_key, mutations.claim_storage),
        *(mutations.repeat_without_end, mutations.deflate_records, mutations.giant_of_one_number, mutations.sparse),
        *(mutations.other_type, mutations.add_weight, mutations.mask_value),
    ],
)
def test_bad_ticket_ends_the_search_in_one_line(fails, small_tickets, mutation):
    path = small_tickets / "1model_SA_best.pth.tar"
    spoil(path, mutation)
    check_line(fails(Lottery_pools, *SMALL, "--checkpoint", small_tickets), path)


@pytest.mark.parametrize("name", ["x" * 10**6, "\x1b[2J\x07", "a\nb", "\ud800"])
def test_names_inside_a_file_do_not_reach_the_terminal(fails, small_tickets, name):
    path = small_tickets / "0model_SA_best.pth.tar"
    record = torch.load(path, weights_only=True)
    record["state_dict"][name] = torch.ones(3)
    torch.save(record, path)
    check_line(fails(Lottery_pools, *SMALL, "--checkpoint", small_tickets), path)


def test_file_of_an_absurd_level_is_not_counted_up_to(fails, small_tickets):
    (small_tickets / "0model_SA_best.pth.tar").rename(small_tickets / f"{10**12}model_SA_best.pth.tar")
    assert str(10**12) in fails(Lottery_pools, *SMALL, "--checkpoint", small_tickets)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(epoch="2"),
        lambda record: record.update(epoch=10**12),
        lambda record: record.update(best_sa=float("nan")),
        lambda record: record["result"]["val_ta"].append(50.0),
        lambda record: record["result"].update(val_ta=[None, None]),
        lambda record: record.update(result={name: [] for name in record["result"]}),
        lambda record: record["init_weight"].pop("fc.weight"),
        lambda record: record["init_weight"].update({"fc.weight": torch.zeros(3)}),
        lambda record: record["init_weight"]["fc.weight"].fill_(float("inf")),
        lambda record: record["optimizer"]["state"].pop(1),
        lambda record: record["optimizer"]["state"][0].update(momentum_buffer=torch.ones(2)),
        lambda record: record["optimizer"]["state"][0]["momentum_buffer"].fill_(float("nan")),
        lambda record: record["optimizer"]["state"][0].update(momentum_buffer="large"),
        lambda record: record["state_dict"].update({"fc.weight": record["state_dict"]["fc.weight"].long()}),
    ],
)
def test_bad_checkpoint_ends_training_in_one_line(fails, small_tickets, change):
    path = small_tickets / "2checkpoint.pth.tar"
    record = torch.load(path, weights_only=True)
    record["optimizer"] = fuzz.momentum()
    change(record)
    torch.save(record, path)
    check_line(fails(main_imp, *SMALL, *IMP, "--save_dir", small_tickets), path)


@pytest.mark.parametrize("mutation", [mutations.deep_json, mutations.text, mutations.nothing])
def test_bad_settings_end_training_in_one_line(fails, small_tickets, mutation):
    path = small_tickets / "settings.json"
    spoil(path, mutation)
    check_line(fails(main_imp, *SMALL, *IMP, "--save_dir", small_tickets), path)


@pytest.mark.parametrize(
    "mutation", [mutations.truncate, mutations.claim_shape, mutations.objects, mutations.claim_sizes]
)
def test_bad_images_end_training_in_one_line(fails, tmp_path, mutation):
    path = tmp_path / "images.npz"
    images = {f"x_{part}": np.zeros((20, 8, 8), np.uint8) for part in ("train", "test")}
    np.savez(path, **images, **{f"y_{part}": np.arange(20) % 4 for part in ("train", "test")})
    spoil(path, mutation)
    flags = ["--dataset", "npz", "--data", path, "--save_dir", tmp_path / "run"]
    check_line(fails(main_imp, *SMALL, *IMP, *flags), path)


@pytest.fixture(scope="module")
def pools(_small_tickets, tmp_path_factory) -> Path:
    """Two pools of two candidates each. Nobody may write into it."""
    folder = tmp_path_factory.mktemp("pools")
    flags = ["--checkpoint", str(_small_tickets), "--save_dir", str(folder), "--levels", "0", "1", "--quiet"]
    Lottery_pools.main([*SMALL, *flags, "--interpolation_value_list", "0.5"])
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["pools"][0].update(density="all"),
        lambda content: content["pools"][1].update(pool_test_accuracy=None),
        lambda content: content["pools"][0].update(level=10**400),
        lambda content: content["pools"].append([]),
        lambda content: content.update(pools={}),
        lambda content: content["settings"].update(interpolate_method="guess"),
        lambda content: content["settings"].update(interpolation_value_list=7),
        lambda content: content.pop("settings"),
    ],
)
def test_bad_list_of_pools_ends_the_comparison_in_one_line(fails, pools, tmp_path, change):
    content = mutations.json.loads((pools / "pools.json").read_text())
    change(content)
    path = tmp_path / "pools.json"
    path.write_text(mutations.json.dumps(content))
    check_line(fails(evaluate, tmp_path), path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["recipe"].update(level=1),
        lambda content: content["recipe"].update(density=float("nan")),
        lambda content: content["recipe"]["members"].append(None),
        lambda content: content["recipe"]["steps"][0].update(more=torch.ones(2)),
        lambda content: content["recipe"].update(more=1),
        lambda content: content.update(settings={"seed": torch.ones(2)}),
        lambda content: content.update(tickets=torch.ones(2)),
    ],
)
def test_bad_pool_ends_the_search_in_one_line(fails, pools, _small_tickets, tmp_path, change):
    path = tmp_path / "0pool.pth.tar"
    content = torch.load(pools / path.name, weights_only=True)
    change(content)
    torch.save(content, path)
    flags = ["--checkpoint", _small_tickets, "--save_dir", tmp_path, "--levels", "0", "1"]
    check_line(fails(Lottery_pools, *SMALL, *flags, "--interpolation_value_list", "0.5"), path)


@pytest.mark.parametrize(
    "change",
    [
        lambda pool: pool.update(score="high"),
        lambda pool: pool["state"].pop("fc.weight"),
        lambda pool: pool["state"]["fc.weight"].fill_(float("nan")),
        lambda pool: pool["state"].update({"fc.weight": pool["state"]["fc.weight"].double()}),
        lambda pool: pool["steps"].append({}),
        lambda pool: pool["steps"][0].update(candidate=77),
        lambda pool: pool.update(shares={0: 2.0}),
        lambda pool: pool.update(shares={9: 1.0}),
    ],
)
def test_bad_unfinished_pool_ends_the_search_in_one_line(fails, pools, _small_tickets, tmp_path, change):
    path = tmp_path / "0pool_unfinished.pth.tar"
    content = torch.load(pools / "0pool.pth.tar", weights_only=True)
    recipe = content.pop("recipe")
    shares = {member["level"]: member["weight"] for member in recipe["members"]}
    pool = {"state": content["state_dict"], "score": 50.0, "shares": shares, "steps": recipe["steps"]}
    change(pool)
    torch.save({**content, "pool": pool}, path)
    flags = ["--checkpoint", _small_tickets, "--save_dir", tmp_path, "--levels", "0", "1"]
    check_line(fails(Lottery_pools, *SMALL, *flags, "--interpolation_value_list", "0.5"), path)


def test_unfinished_pool_that_is_good_is_gone_on_with(pools, _small_tickets, tmp_path, capsys):
    content = torch.load(pools / "0pool.pth.tar", weights_only=True)
    recipe = content.pop("recipe")
    shares = {member["level"]: member["weight"] for member in recipe["members"]}
    pool = {"state": content["state_dict"], "score": recipe["pool_val_accuracy"], "shares": shares}
    torch.save({**content, "pool": {**pool, "steps": recipe["steps"]}}, tmp_path / "0pool_unfinished.pth.tar")
    flags = ["--checkpoint", str(_small_tickets), "--save_dir", str(tmp_path), "--levels", "0"]
    Lottery_pools.main([*SMALL, *flags, "--interpolation_value_list", "0.5"])
    assert "going on after 2 of 2 candidates" in capsys.readouterr().out
    assert torch.load(tmp_path / "0pool.pth.tar", weights_only=True)["recipe"] == recipe
