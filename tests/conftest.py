"""What several test modules share."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from CIFAR import Lottery_pools as cifar_pools
from CIFAR import main_imp
from CIFAR.dataset import ImageData, load_data
from ImageNet import Lottery_pools
from utils import figures
from utils.checkpoint import write_atomically
from utils.parser import run_script
from utils.randomness import generator

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

pytest.register_assert_rewrite("script_runs")

# As many as make test gives, for a plain pytest too: what one thread sums up and what two do differs in the last bits.
torch.set_num_threads(1)

# Flags of runs that take a second or two. Later flags win over these.
DIGITS = ["--dataset", "digits", "--data_limit", "200", "--batch_size", "64", "--device", "cpu"]
SMALL = [*DIGITS, "--arch", "cifar_resnet_8_4"]
SAVES = ["--save_interval", "0"]  # as many as there can be
IMP = ["--epochs", "2", "--rewind_epoch", "1", "--pruning_times", "3", *SAVES]
LIST = ["--interpolation_value_list", "0.3", "0.7"]
# The same for ImageNet's scripts, on photographs.
CLASSES = ("ant", "bee", "cat")
IMAGES = {"train": 20, "val": 7, "test": 7}
IMAGENET = ["--arch", "imagenet_resnet_18_4", "--image_size", "32", "--batch_size", "16", "-j0"]
IMAGENET_SEARCH = [*IMAGENET, "--interpolation_value_list", "0.3", "0.7", "--bn_images", "40", *SAVES]
IMAGENET_IMP = [
    *(*IMAGENET, "--epochs", "3", "--decreasing_lr", "2", "--warmup", "1", "--rewind_epoch", "1", "--lr", "0.05"),
    *("--pruning_times", "2", *SAVES),
]


def write_stand_in(figure: Figure, path: Path, pdf: bool = True) -> None:
    """In the place of `utils.figures.write`: files of the same names, nothing drawn in them."""
    for name in (path, path.with_suffix(".pdf"))[: 1 + pdf]:
        write_atomically(name, lambda file: file.write(b"a stand-in"))


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Pictures are made as ever and not drawn, which would take longer than all else that a small run does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "write", write_stand_in)
        yield


@pytest.fixture(autouse=True)
def _pictures(request) -> Iterator[None]:
    """Pictures are drawn in tests marked `pictures`, in fixtures of a module or session, and by other processes."""
    with contextlib.nullcontext() if request.node.get_closest_marker("pictures") else stand_ins():
        yield


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


def write_photographs(folder: Path, splits: dict[str, int] = IMAGES, classes=CLASSES) -> Path:
    """JPEG files of 40×44 pixels: noise around a colour of its own for each class."""
    draws = generator("photographs")
    for split, count in splits.items():
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 120, (40, 44, 3), generator=draws)
                pixels[..., label % 3] += 100
                image = Image.fromarray(pixels.to(torch.uint8).numpy())
                image.save(folder / split / name / f"{number}.JPEG", quality=95)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def script(name: str | Path, *arguments: object, processes: int = 0) -> subprocess.CompletedProcess:
    """Run a script of ImageNet/ as a user does, under multiproc.py if `processes` is given."""
    launcher = ["../multiproc.py", f"--nproc_per_node={processes}"] if processes else []
    command = [sys.executable, *launcher, str(name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT / "ImageNet", env=environment, capture_output=True, text=True, timeout=300)


def in_one_process(script: ModuleType, *arguments: object) -> None:
    """Run a script of ImageNet/ here, as a process of its own would: with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with stand_ins():
            script.main([*map(str, arguments)])
    finally:
        torch.set_num_threads(threads)


def in_two_processes(*runs: Sequence[object]) -> None:
    """Run Lottery_pools.py of ImageNet/ in turn with each of these arguments, in the same two processes."""
    words = json.dumps([[*map(str, arguments)] for arguments in runs])
    done = script(ROOT / "tests" / "in_turn.py", "Lottery_pools", words, processes=2)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def imagenet_tickets(photographs, tmp_path_factory) -> Path:
    """Two levels, found by two processes. Nobody may write into it."""
    folder = tmp_path_factory.mktemp("imagenet") / "tickets"
    done = script("main_imp.py", photographs, *IMAGENET_IMP, "--save_dir", folder, processes=2)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def imagenet_pools(photographs, imagenet_tickets, tmp_path_factory) -> dict[str, Path]:
    """The same search by one process, by two that share the images, and by two with a start each."""
    folder = tmp_path_factory.mktemp("imagenet_pools")
    search = ["--save_dir", imagenet_tickets, photographs, *IMAGENET_SEARCH]
    runs = {name: [*search, "--output_dir", folder / name] for name in ("one", "two", "starts")}
    in_one_process(Lottery_pools, *runs["one"])
    in_two_processes(runs["two"], [*runs["starts"], "--parallel", "starts"])
    return {name: folder / name for name in ("one", "two", "starts")}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 300 kB, where one can be had."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class Launched:
    """A launcher at work in `folder`, where its scripts may be."""

    def __init__(self, folder: Path, argv: tuple[object, ...]):
        self.folder = folder
        command = [sys.executable, ROOT / "multiproc.py", *map(str, argv)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=folder, **pipes)

    def end(self) -> SimpleNamespace:
        """Its exit status and the lines that it printed."""
        output, errors = self.process.communicate(timeout=60)
        assert "torch/distributed/elastic" not in errors
        assert "ChildFailedError" not in errors
        return SimpleNamespace(
            status=self.process.returncode, out=output.splitlines(), err=errors.splitlines(), errors=errors
        )

    def pids(self, kind: str) -> list[int]:
        """The process numbers of both ranks, as soon as their script has written them to files of this kind."""
        files = [self.folder / f"pid{rank}.{kind}" for rank in range(2)]
        end = time.monotonic() + 30
        while not all(file.exists() for file in files):
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.05)
        return [int(file.read_text()) for file in files]


@pytest.fixture
def launch(tmp_path, monkeypatch) -> Iterator[Callable[..., Launched]]:
    """Starts multiproc.py in an empty folder; ends what is left of it after the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runs = []

    def run(*argv: object) -> Launched:
        runs.append(Launched(tmp_path, argv))
        return runs[-1]

    yield run
    for left in runs:
        left.process.kill()
        left.process.communicate()


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


@pytest.fixture
def search(small_tickets, tmp_path):
    """Runs Lottery_pools.py on small tickets, into a folder of tmp_path; returns the folder."""

    def run(folder: str, *flags: str) -> Path:
        files = ["--checkpoint", str(small_tickets), "--save_dir", str(tmp_path / folder)]
        cifar_pools.main([*SMALL, *LIST, *SAVES, *files, "--jobs", "2", *flags])
        return tmp_path / folder

    return run


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", None, "cpu", data_limit=200)
