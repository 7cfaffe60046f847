"""README and docs/ keep their word: programs and commands run as printed; flags, files and links are there."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import models
import multiproc
from CIFAR import Lottery_pools
from utils.export import write_sparse
from utils.parser import Parser
from utils.pruning import count_kept

PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
SCRIPTS = {
    "CIFAR": {"main_imp.py", "Lottery_pools.py", "evaluate.py", "corrupt.py"},
    "ImageNet": {"main_imp.py", "Lottery_pools.py", "evaluate.py"},
}
FOLDERS = ("CIFAR", "ImageNet", "benchmarks", "models", "scripts", "tests", "utils")


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def program(section: str) -> str:
    """The first block of Python of this section of docs/using-pools.md."""
    page = PAGES[ROOT / "docs" / "using-pools.md"]
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return blocks("python", text)[0]


def test_networks_that_have_nothing_to_do_with_images_are_pooled(capsys):
    found = {}
    exec(program("Pooling networks of your own"), found)
    pool, networks, loss, val = (found[name] for name in ("pool", "networks", "loss", "val"))
    losses = {number: loss(network, val).item() for number, network in networks.items()}
    assert len(networks) == 3 and len({*losses.values()}) == 3
    assert pool.score == -loss(pool.state, val).item() > -losses[0]
    assert [step.candidate for step in pool.steps] == [1, 2] and sum(pool.shares.values()) == pytest.approx(1)
    for network in (pool.state, *networks.values()):
        assert count_kept({name: network[name] != 0 for name in ("0.weight", "2.weight")}) == 256
    assert any(not torch.equal(pool.state[name], networks[0][name]) for name in pool.state)
    assert re.search(r"test loss 0\.\d+, of the pool 0\.\d+", capsys.readouterr().out)


def test_sparse_file_is_read_without_anything_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"fc.weight": torch.eye(9) * -0.5, "fc.bias": torch.ones(3), "count": torch.tensor(7)}
    write_sparse(state, tmp_path / "5pool.npz")
    found = {}
    exec(program("Networks for other programs"), found)
    assert found["state"].keys() == state.keys()
    assert all(torch.equal(found["state"][name], value) for name, value in state.items())


def test_pool_is_read_with_nothing_of_ours_but_the_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"state_dict": models.build("resnet18", 100, [0.5] * 3, [0.2] * 3).state_dict()}, "3model_SA_best.pth.tar"
    )
    images, labels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8), np.arange(9)
    classes = [str(label) for label in range(100)]
    np.savez("images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, classes=classes)
    search = "--checkpoint . --save_dir . --dataset npz --data images.npz --arch resnet18 --search_num 0 --device cpu"
    Lottery_pools.main(search.split())
    found = {}
    exec(program("Reading a pool"), found)
    state, pool = found["net"].state_dict(), torch.load("3pool.pth.tar", weights_only=True)
    assert state.keys() == pool["state_dict"].keys()
    assert all(torch.equal(value, pool["state_dict"][name]) for name, value in state.items())
    assert state["normalize.mean"].flatten().tolist() == [0.5] * 3


def commands() -> list[tuple[str, str]]:
    """The lines of shell that call a script, and the folder that they are given in: the last `cd` of their section."""
    found = []
    for section in (part for page in PAGES.values() for part in re.split(r"^## ", page, flags=re.MULTILINE)):
        folder = "."
        for line in "".join(blocks("sh", section)).replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cd"]:
                folder = words[1]
            elif any(word.endswith(".py") for word in words):
                found.append((folder, line))
    return found


def script_of(line: str) -> tuple[str, list[str]]:
    """The script that a command starts, by itself or through the launcher, and what the script is given."""
    words = shlex.split(line, comments=True)
    at = next(number for number, word in enumerate(words) if word.endswith(".py"))
    assert "python" in words[:at], line
    name, *arguments = words[at:]
    if name == "../multiproc.py":
        args = multiproc.parse(arguments)
        return args.script, args.script_args
    return name, arguments


def parser_of(folder: str, name: str) -> Parser:
    return importlib.import_module(f"{folder}.{Path(name).stem}").build_parser()


@pytest.mark.parametrize("folder, line", commands())
def test_commands_are_such_as_the_scripts_take(folder, line):
    """With shell variables as words, and a list in braces as one."""
    name, arguments = script_of(line)
    path = (ROOT / folder / name).resolve()
    assert path.is_file()
    if path.name in SCRIPTS.get(path.parent.name, ()):
        parser_of(path.parent.name, path.name).parse_args(arguments)


def test_commands_call_every_script_that_makes_something():
    called = {(folder, script_of(line)[0]) for folder, line in commands()}
    assert called >= {("CIFAR", name) for name in SCRIPTS["CIFAR"]}
    assert called >= {("ImageNet", name) for name in ("main_imp.py", "Lottery_pools.py")}


def test_flags_of_the_tables_are_flags_of_the_scripts():
    parsers = [parser_of(folder, name) for folder, names in SCRIPTS.items() for name in names]
    known = {flag for parser in parsers for flag in parser._option_string_actions}
    tables = re.findall(r"^\| flag \|.*\n(?:\|.*\n)+", "\n".join(PAGES.values()), re.MULTILINE)
    named = {flag for table in tables for row in table.splitlines() for flag in re.findall(r"--\w+", row.split("|")[1])}
    assert len(tables) >= 2 and len(named) > 20
    assert named <= known, named - known


def test_files_that_are_named_are_there():
    text = "\n".join(PAGES.values())
    named = {*re.findall(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w/]+\.(?:py|sh)\b", text)}
    assert len(named) >= 10
    assert not [name for name in sorted(named) if not (ROOT / name).is_file()]


def anchors(page: Path) -> set[str]:
    """What links to the headings of a page end in, as GitHub makes it of them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [*(str(page.relative_to(ROOT)) for page in PAGES), "benchmarks/results/README.md"])
def test_links_lead_somewhere(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for path, _, anchor in (link.partition("#") for link in links if not link.startswith("https://")):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
