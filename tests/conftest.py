"""What several test modules share."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from pictures import write_stand_in
from PIL import Image

from CIFAR import Lottery_pools as cifar_pools
from CIFAR import main_imp
from CIFAR.dataset import ImageData, load_data
from ImageNet import Lottery_pools, evaluate
from utils import figures as figures_module
from utils import tickets
from utils.corruptions import SEVERITIES
from utils.folders import hold_lock
from utils.parser import run_script
from utils.randomness import generator

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

pytest.register_assert_rewrite("script_runs", "tiny_imp")

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
# What its Lottery_pools.py knows beside the search.
METHODS = ("uniform_soup", "greedy_soup", "average_or_soup", "ensemble", "learned", "recalibrated")
OTHERS = ["--learned_steps", 3, "--interpolate_method"]
WITH_STARTS = ("greedy_soup", "average_or_soup", "ensemble")  # an ensemble's images are shared all the same
STARTS = ["--parallel", "starts"]


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Pictures are made as ever and not drawn, which would take longer than all else that a small run does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures_module, "write", write_stand_in)
        yield


@pytest.fixture(autouse=True)
def _pictures(request) -> Iterator[None]:
    """Pictures are drawn in tests marked `pictures`, in fixtures of a module or session, and by other processes.

    Those of `in_two_processes` draw none either.
    """
    with contextlib.nullcontext() if request.node.get_closest_marker("pictures") else stand_ins():
        yield


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures drawn, to count what is in them; they are written as ever."""
    drawn, write = [], figures_module.write

    def note(figure, path, **options) -> None:
        drawn.append(figure)
        write(figure, path, **options)

    monkeypatch.setattr(figures_module, "write", note)
    return drawn


@pytest.fixture
def quick(monkeypatch):
    """Hundreds of runs: without pictures, without waiting for the disk, and on one thread, which suits tiny tensors."""
    monkeypatch.setattr("utils.report.plot_curves", lambda *args, **kwargs: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
def built_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Lets a function fill a folder in the first of xdist's workers that asks for it; the others wait and share it.

    Nobody may write into it later.
    """
    top = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder of its own in that of all
        top = top.parent

    def build(name: str, fill: Callable[[Path], object]) -> Path:
        with hold_lock(top / f"{name}.lock"):
            if not (top / f"{name}.done").exists():
                shutil.rmtree(top / name, ignore_errors=True)  # what a worker left that failed
                fill(top / name)
                (top / f"{name}.done").touch()
        return top / name

    return build


@pytest.fixture(scope="session")
def photographs(built_once) -> Path:
    return built_once("photographs", write_photographs)


def write_corrupted(folder: Path, photographs: Path) -> Path:
    """ImageNet-C's layout: `fog` holds the test photographs as they are, `spatter` those of another class."""
    for name, classes in (("fog", CLASSES), ("spatter", (*CLASSES[1:], CLASSES[0]))):
        for severity in SEVERITIES:
            for target, source in zip(CLASSES, classes, strict=True):
                shutil.copytree(photographs / "test" / source, folder / name / str(severity) / target)
    return folder


def script(name: str | Path, *arguments: object, processes: int = 0, **variables: str) -> subprocess.CompletedProcess:
    """Run a script of ImageNet/ as a user does, under multiproc.py if `processes` is given."""
    launcher = ["../multiproc.py", f"--nproc_per_node={processes}"] if processes else []
    command = [sys.executable, *launcher, str(name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
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


def in_two_processes(*runs: tuple[str, Sequence[object]]) -> subprocess.CompletedProcess:
    """Run these in turn in the same two processes: scripts of ImageNet/, or what else in_turn.py can do."""
    words = json.dumps([(name, [*map(str, arguments)]) for name, arguments in runs])
    return script(ROOT / "tests" / "in_turn.py", words, processes=2, PYTHONPATH=str(ROOT))


def _searches(folder: Path, photographs: Path) -> dict[str, tuple[str, list[object]]]:
    """What processes can do with the tickets in `folder`, by the folders in it where that is to be left."""
    lists = {
        "searches/two": [],
        "searches/starts": STARTS,
        "others/one start": ["--levels", 1, *STARTS],
        **{f"others/{method}": [*OTHERS, method] for method in METHODS},
        **{f"others/{method} starts": [*OTHERS, method, *STARTS] for method in WITH_STARTS},
        "others/line": [*OTHERS, "linear_inter", "--interpolation_value_list", 0.5],
        "mistake": ["--arch", "imagenet_resnet_34_4"],
    }
    search = ["--save_dir", folder / "tickets", photographs, *IMAGENET_SEARCH]
    return {name: ("Lottery_pools", [*search, *flags, "--output_dir", folder / name]) for name, flags in lists.items()}


def _use_photographs(folder: Path, photographs: Path) -> None:
    """Two processes find tickets, pool and evaluate them, and end with a mistake; then one process does the like."""
    found, searches = folder / "tickets", _searches(folder, photographs)
    mistake = searches.pop("mistake")
    corrupted = write_corrupted(folder / "corrupted", photographs)
    # The pools of a start each: one process makes its own, which have to be the same to the bit, later.
    score = [found, folder / "searches" / "starts", "--data", photographs, *IMAGENET, "--batch_size", 4]
    score += ["--corruptions", corrupted, "--save_dir"]
    done = in_two_processes(
        ("main_imp", [photographs, *IMAGENET_IMP, "--save_dir", found]),
        *searches.values(),
        ("evaluate", [*score, folder / "evaluations" / "2"]),
        mistake,
    )
    assert done.returncode == 2 and (folder / "evaluations" / "2" / tickets.EVALUATION_JSON).exists(), done.stderr
    (folder / "mistake.txt").write_text(done.stderr)
    _, arguments = searches["searches/two"]
    in_one_process(Lottery_pools, *arguments, "--output_dir", folder / "searches" / "one")
    in_one_process(evaluate, *score, folder / "evaluations" / "1")


@pytest.fixture(scope="session")
def imagenet(photographs, built_once) -> Path:
    """What two processes make of photographs, all in one start, which takes longer than a run; and one process."""
    return built_once("imagenet", lambda folder: _use_photographs(folder, photographs))


@pytest.fixture(scope="session")
def imagenet_tickets(imagenet) -> Path:
    """Two levels, found by two processes. Nobody may write into it."""
    return imagenet / "tickets"


@pytest.fixture(scope="session")
def imagenet_pools(imagenet) -> Path:
    """The same search by one process (`one`), by two that share the images (`two`), by two with a start each."""
    return imagenet / "searches"


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
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("OMP_NUM_THREADS", None)
        self.process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)

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


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[Callable[..., Launched]]:
    """A block that is given a function to start multiproc.py in `folder` with; ends what is left of it afterwards."""
    runs = []

    def run(*argv: object) -> Launched:
        runs.append(Launched(folder, argv))
        return runs[-1]

    try:
        yield run
    finally:
        for left in runs:
            left.process.kill()
            left.process.communicate()


@pytest.fixture
def launch(tmp_path) -> Iterator[Callable[..., Launched]]:
    """Starts multiproc.py in the folder of the test, until its end."""
    with launched(tmp_path) as run:
        yield run


class Script:
    """A script of CIFAR/ in a process of its own."""

    def __init__(self, name: str, *arguments: object):
        command = [sys.executable, name, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(
            command, cwd=ROOT / "CIFAR", env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes
        )

    def wait_for(self, word: str) -> None:
        for line in self.process.stdout:
            if word in line:
                return
        raise AssertionError(f"the script ended without {word}: {self.process.stderr.read()}")

    def end(self) -> tuple[int, str]:
        """Exit status and standard error."""
        errors = self.process.communicate(timeout=120)[1]
        return self.process.returncode, errors


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def gone(pid: int) -> bool:
    """Whether a process has ended, whoever has to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(autouse=True)
def _sigterm() -> Iterator[None]:
    """A script leaves SIGTERM ignored at its end, and so would be all processes that later tests start."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


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


class Bomb:
    """Writes a file when it is unpickled carelessly."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "code ran")
