"""--help and --list of every script: pages that one can read."""

import importlib
import os
import subprocess
import sys

import pytest
from conftest import ROOT

import models
from utils.methods import METHODS

SCRIPTS = [(folder, name) for folder in ("CIFAR", "ImageNet") for name in ("main_imp", "Lottery_pools", "evaluate")]
SCRIPTS.append(("CIFAR", "corrupt"))


@pytest.mark.parametrize("folder, name", SCRIPTS)
def test_list_names_what_flags_can_name(folder, name, capsys):
    parser = importlib.import_module(f"{folder}.{name}").build_parser()
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--list"])  # without what the script needs otherwise
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    named = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    datasets = ["cifar10", "cifar100", "digits", "npz"] if folder == "CIFAR" else ["DIR"]
    assert [*named] == [*models.arch_names(), *datasets, *METHODS]
    assert all(len(words.split()) > 2 for words in named.values())
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("folder, name", [*SCRIPTS, ("CIFAR", "export"), ("ImageNet", "export")])
def test_help_says_what_a_script_does_and_shows_a_command(folder, name):
    command, environment = [sys.executable, f"{name}.py", "--help"], {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"usage: {name}.py") and max(map(len, lines)) <= 120
    assert any(line.startswith("    python ") and f"{name}.py" in line for line in lines)
