"""--help and --list of every script: pages that one can read."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import models
from utils.method_names import METHODS

SCRIPTS = [(folder, name) for folder in ("CIFAR", "ImageNet") for name in ("main_imp", "Lottery_pools", "evaluate")]
SCRIPTS.append(("CIFAR", "corrupt"))
PROGRAMS = [*SCRIPTS, ("CIFAR", "export"), ("ImageNet", "export")]
# Each script in a process without anything of ours: a fork of one that has imported what takes seconds.
ASK_ALL = """
import os, runpy, sys
import matplotlib.figure, torchvision

for number, path in enumerate(sys.argv[1:]):
    if os.fork() == 0:
        for stream, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{number}.{kind}", os.O_WRONLY | os.O_CREAT), stream)
        folder, name = os.path.split(path)
        os.chdir(folder)
        sys.path[0], sys.argv = folder, [name, "--help"]
        runpy.run_path(name, run_name="__main__")
        sys.exit("the script did not end")
    with open(f"{number}.status", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.wait()[1])))
"""


@pytest.mark.parametrize("folder, name", SCRIPTS)
def test_list_names_what_flags_can_name(folder, name, capsys):
    parser = importlib.import_module(f"{folder}.{name}").build_parser()
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--list"])  # without what the script needs otherwise
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    named = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    datasets = ["cifar10", "cifar100", "digits", "npz"] if folder == "CIFAR" else ["DIR"]
    assert [*named] == [*models.described_archs(), *datasets, *METHODS]
    assert all(len(words.split()) > 2 for words in named.values())
    assert max(map(len, lines)) <= 120


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """What `--help` of every script writes, in NUMBER.out and NUMBER.err, and its exit status, in NUMBER.status."""
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-c", ASK_ALL, *(str(ROOT / place / f"{name}.py") for place, name in PROGRAMS)]
    subprocess.run(command, cwd=folder, env={**os.environ, "COLUMNS": "100"}, check=True)
    return folder


@pytest.mark.parametrize("folder, name", PROGRAMS)
def test_help_says_what_a_script_does_and_shows_a_command(pages, folder, name):
    number = PROGRAMS.index((folder, name))
    status, errors, page = ((pages / f"{number}.{kind}").read_text() for kind in ("status", "err", "out"))
    assert (status, errors) == ("0", "")
    lines = page.splitlines()
    assert lines[0].startswith(f"usage: {name}.py") and max(map(len, lines)) <= 120
    assert any(line.startswith("    python ") and f"{name}.py" in line for line in lines)
