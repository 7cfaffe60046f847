"""What several test modules share."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from CIFAR import main_imp
from utils.parser import run_script

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Flags of runs that take a second or two. Later flags win over these.
DIGITS = ["--dataset", "digits", "--data_limit", "200", "--batch_size", "64", "--device", "cpu"]
SMALL = [*DIGITS, "--arch", "cifar_resnet_8_4"]
IMP = ["--epochs", "2", "--rewind_epoch", "1", "--pruning_times", "3"]


@pytest.fixture(scope="session")
def published_tickets() -> Path:
    """Tickets that the paper's own scripts wrote: resnet20s on CIFAR-100, levels 0 to 5."""
    folder = SHARED / "tickets" / "published_cifar"
    if not folder.is_dir():
        pytest.skip(f"the published tickets are not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def openlth_tickets() -> Path:
    """A run of OpenLTH: imagenet_resnet_18_8, levels 0 to 4."""
    folder = SHARED / "tickets" / "openlth_imagenet"
    if not folder.is_dir():
        pytest.skip(f"the OpenLTH tickets are not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def digits_tickets(tmp_path_factory) -> Path:
    """A run of main_imp.py on digits: resnet20s, levels 0 to 2. Nobody may write into it."""
    folder = tmp_path_factory.mktemp("digits") / "tickets"
    main_imp.main([*DIGITS, *IMP, "--arch", "resnet20s", "--epochs", "3", "--save_dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def _small_tickets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "tickets"
    main_imp.main([*SMALL, *IMP, "--save_dir", str(folder)])
    return folder


@pytest.fixture
def small_tickets(_small_tickets, tmp_path) -> Path:
    """Tickets of a tiny network on digits, levels 0 to 2, in a folder that a test may do anything with."""
    return Path(shutil.copytree(_small_tickets, tmp_path / "tickets"))


@pytest.fixture
def fails(monkeypatch, capfd) -> Callable[..., str]:
    """Runs a script as its file does, checks that it ends in status 2 and one line on standard error; returns that."""

    def run(script: ModuleType, *argv: object) -> str:
        monkeypatch.setattr(sys, "argv", [f"{script.__name__.rpartition('.')[2]}.py", *map(str, argv)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_script(script.main)
        lines = capfd.readouterr().err.splitlines()
        assert stop.value.code == 2
        assert len(lines) == 1, "\n".join(lines)
        return lines[0]

    return run


def snapshot(*folders: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below `folders` with its time and its bytes, and every folder: equal if nothing was touched."""
    paths = [path for folder in folders for path in (folder, *sorted(folder.rglob("*")))]
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}
