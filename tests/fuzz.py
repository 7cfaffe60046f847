"""Reads thousands of bad files and looks for one that does harm: `python tests/fuzz.py --count 20000 --seed 1`.

Good files are written by the project's own functions and changed by `mutations.py`. Each must be refused with a
UserError that names it, or (damage that hits nothing that matters) be read as what it was, bit for bit. All of it
happens in child processes that are watched: code run, programs started, connections and files opened for writing
elsewhere are audited, address space is limited, the peak of resident memory is measured, and when a child dies the file
that it died of is named. `--first K --count 1` with the same seed repeats the K-th mutation alone.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mutations
import numpy as np
import torch
from conftest import IMP, SHARED, SMALL
from PIL import Image
from torchvision import transforms

import models
from CIFAR import main_imp
from CIFAR.corruptions import CorruptedArrays
from CIFAR.dataset import load_data
from ImageNet.dataset import UNREADABLE, Photographs
from utils import comparison, heat_maps, pool_results, report, tickets
from utils.claims import claimed_folder
from utils.connectivity import ConnectivityRun, barrier_table
from utils.distributed import SINGLE
from utils.errors import LONGEST_LINE, UserError, one_line
from utils.evaluation import Evaluator
from utils.imp import ImpRun, ImpSettings
from utils.plain_data import Schema, is_plain
from utils.pool_runs import PoolRun
from utils.pools import Pool, greedy
from utils.pruning import dense_mask
from utils.studies import Study
from utils.tickets import OpenlthRunFiles, RunFiles, TicketFile
from utils.training import Schedule, make_optimizer

ARCH = SMALL[SMALL.index("--arch") + 1]
ADDRESS_SPACE = 8 * 2**30  # bytes beyond what the child has when it begins
MEMORY = 500 * 10**6  # bytes of resident memory that a child's peak may grow by
SECONDS = 30  # for one file
CHILD_COUNT = 2500  # mutations of one child
FORBIDDEN = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "webbrowser.open", "os.startfile"),
}
CHANGES = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate"),
    *("shutil.rmtree", "shutil.copyfile", "shutil.move"),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TooLong(BaseException):
    """A file that takes too long; no `except Exception` may take it for a refusal."""


@dataclass
class Subject:
    """A good file and what the program does with it: `read` gives the tensors that must stay as they were, or None."""

    name: str
    path: Path
    read: Callable[[], Any]
    mutations: Sequence[mutations.Mutation]
    good: bytes = b""
    found: Any = None

    def __post_init__(self):
        self.good = self.path.read_bytes()


@dataclass
class Report:
    """What became of the files."""

    outcomes: Counter = field(default_factory=Counter)  # "subject mutation refused" and the like
    failures: list[str] = field(default_factory=list)
    memory: int = 0  # bytes, the most that a child's resident memory grew by

    def add(self, other: "Report") -> None:
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.memory = max(self.memory, other.memory)

    def count(self, outcome: str) -> int:
        return sum(number for name, number in self.outcomes.items() if name.endswith(outcome))


# Good files


def prepare(folder: Path) -> None:
    """Write good files of every kind, with the project's own scripts and functions."""
    with contextlib.redirect_stdout(io.StringIO()):
        main_imp.main([*SMALL, *IMP, "--pruning_times", "2", "--save_dir", str(folder / "cifar"), "--quiet"])
    published = RunFiles(folder / "cifar")
    openlth = OpenlthRunFiles(folder / "openlth")
    for level in (0, 1):
        ticket = published.load_checkpoint(level)
        ticket.mask = ticket.mask or dense_mask(ticket.state, ["conv.weight", "fc.weight"])
        openlth.begin_level(ticket)
        openlth.save_ticket(ticket)
        ticket.optimizer = momentum()
        published.save_checkpoint(ticket)
    (folder / "old").mkdir()
    record = torch.load(published.ticket(1).path, weights_only=True)
    torch.save(record, folder / "old" / "1model_SA_best.pth.tar", _use_new_zipfile_serialization=False)
    run, evaluator = pool_run(folder)
    run.run([1])
    start = evaluator.read_ticket(published.ticket(1))
    run.files.save_unfinished(published.ticket(1), Pool(start.state, 50.0, {1: 1.0}))
    connectivity_run(folder, evaluator).run([0.5], [0])
    draws = np.random.RandomState(0)
    images = {f"x_{part}": draws.randint(0, 256, (20, 8, 8)).astype(np.uint8) for part in ("train", "test")}
    images |= {f"y_{part}": np.arange(20) % 3 for part in ("train", "test")}
    np.savez(folder / "plain.npz", **images, classes=["ant", "bee", "cat"])
    np.savez_compressed(folder / "deflated.npz", **images)
    (folder / "corrupted").mkdir()
    np.save(folder / "corrupted" / "fog.npy", np.zeros((50, 8, 8, 3), np.uint8))
    labels = load_data("digits", None, "cpu", data_limit=10).test.labels
    np.save(folder / "corrupted" / tickets.CORRUPTED_LABELS, labels.repeat(5).numpy())
    Image.effect_noise((44, 40), 80).convert("RGB").save(folder / "photograph.JPEG")


def momentum() -> dict:
    """What an optimizer keeps within a level."""
    net = models.build(ARCH, 10, [0.5] * 3, [0.5] * 3)
    optimizer = make_optimizer(net, 0.1, 0.9, 1e-4)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def pool_run(folder: Path) -> tuple[PoolRun, Evaluator]:
    """A search over the tickets in `folder`, which has its pools there too."""
    data = load_data("digits", None, "cpu", data_limit=200)
    evaluator = Evaluator(ARCH, [models.build(ARCH, 10, data.mean, data.std)], data, 64)
    files = tickets.find_tickets(folder / "cifar")
    description = {"settings": {"seed": 41, "interpolate_method": "Lottery_pools"}, "versions": {}}
    description["settings"] |= {"interpolation_value_list": [0.5], "EMA_value": 0.95}
    return PoolRun(Study(files, evaluator, 1, 41, folder / "pools", description), greedy([0.5])), evaluator


def connectivity_run(folder: Path, evaluator: Evaluator) -> ConnectivityRun:
    """A walk between the tickets in `folder`."""
    files, settings = tickets.find_tickets(folder / "cifar"), {"seed": 41}
    description = {"settings": settings, "versions": {}}
    return ConnectivityRun(Study(files, evaluator, 1, 41, folder / "lines", description))


def subjects(folder: Path) -> list[Subject]:
    """All good files in `folder`, each with what the program does with it and the ways to spoil it."""
    run, evaluator = pool_run(folder)
    found = [*ticket_subjects(folder, evaluator), *run_subjects(folder, run, evaluator), *image_subjects(folder)]
    for subject in found:
        subject.found = subject.read()
    return found


def ticket_subjects(folder: Path, evaluator: Evaluator) -> Iterator[Subject]:
    def reads(file: TicketFile, reader: Evaluator = evaluator) -> Callable[[], Any]:
        def read() -> Any:
            ticket = reader.read_ticket(file)
            return {**ticket.state, **{f"{name} mask": mask for name, mask in ticket.mask.items()}}

        return read

    files, damage = mutations, (*mutations.DAMAGE, *mutations.ZIP, *mutations.PICKLE)
    published = RunFiles(folder / "cifar")
    for level, more in ((0, ()), (1, files.MASK)):
        file = published.ticket(level)
        yield Subject(f"ticket of level {level}", file.path, reads(file), (*damage, *files.STATE, *more))
    file = OpenlthRunFiles(folder / "openlth").ticket(1)
    yield Subject("OpenLTH's ticket", file.path, reads(file), (*damage, *files.STATE))
    yield Subject("OpenLTH's mask", file.mask_path, reads(file), (*damage, *files.MASK_FILE))
    old = TicketFile(1, folder / "old" / "1model_SA_best.pth.tar")
    # Its format has no checksums: some damage is not to be seen.
    yield Subject("ticket of an old torch", old.path, lambda: reads(old)() and None, files.DAMAGE)
    if (SHARED / "tickets").is_dir():
        shutil.copytree(SHARED / "tickets" / "published_cifar", folder / "shared", dirs_exist_ok=True)
        other = Evaluator("resnet20s", [models.build("resnet20s", 100, [0.5] * 3, [0.5] * 3)], None, 64)
        file = tickets.find_tickets(folder / "shared")[1]
        yield Subject("published ticket", file.path, reads(file, other), (*files.DAMAGE, *files.ZIP))


def run_subjects(folder: Path, run: PoolRun, evaluator: Evaluator) -> Iterator[Subject]:
    records = (*mutations.DAMAGE, *mutations.ZIP, *mutations.PICKLE, *mutations.RECORD)
    start = run.study.files[1]
    ticket = evaluator.read_ticket(start)
    settings = folder / "cifar" / tickets.SETTINGS
    flags = json.loads(settings.read_text())
    pools = folder / "pools" / tickets.POOLS_JSON

    def finished() -> None:
        run.files.save_table(run.files.read_entries([1]))

    def unfinished() -> Any:
        pool = run.files.read_unfinished(start, ticket, [file.level for file in run.study.candidates(start)])
        return pool and pool.state

    yield Subject("checkpoint", RunFiles(folder / "cifar").checkpoint(1), resumption(folder, evaluator.data), records)
    yield Subject("pool", tickets.pool_path(folder / "pools", 1), finished, records)
    yield Subject("unfinished pool", tickets.unfinished_pool_path(folder / "pools", 1), unfinished, records)
    documents = (*mutations.DAMAGE, *mutations.JSON)
    yield Subject("settings.json", settings, lambda: claim(settings, flags), documents)

    def compared() -> None:
        claim(pools, run.study.description, pools=is_plain)
        comparison.compare([pool_results.read_results(pools)], folder / "compared")

    yield Subject("pools.json", pools, compared, documents)
    walk = connectivity_run(folder, evaluator)
    # What does not fit these tickets is walked again.
    lines = folder / "lines" / tickets.CONNECTIVITY_JSON
    yield Subject("connectivity.json", lines, lambda: barrier_table(walk.run([0.5], [0])) and None, documents)


def claim(path: Path, description: dict, **items: Schema) -> None:
    """What a script does with its folder before it works in it."""
    with claimed_folder(path, description, SINGLE, **items):
        pass


def resumption(folder: Path, data: Any) -> Callable[[], Any]:
    """What a run of main_imp.py goes on with."""
    net = models.build(ARCH, 10, data.mean, data.std)
    schedule = Schedule(0.1, (91, 136))
    settings = ImpSettings("rewind_lt", 3, 0.2, False, 1, 2, 64, schedule, 0.9, 1e-4, 41)
    run = ImpRun(net, data, settings, RunFiles(folder / "cifar"), lambda line: None)

    def resume() -> Any:
        progress = run._resume()
        report.plot_curves(progress.curves, folder / "curves.png")
        return {**progress.state, **{f"{name} rewound": value for name, value in progress.rewind.items()}}

    return resume


def image_subjects(folder: Path) -> Iterator[Subject]:
    arrays = (*mutations.DAMAGE, *mutations.ZIP, *mutations.ARRAYS)
    for name in ("plain.npz", "deflated.npz"):

        def read(path: Path = folder / name) -> Any:
            data = load_data("npz", path, "cpu")
            parts = (data.train, data.val, data.test)
            return {str(i): value for i, part in enumerate(parts) for value in (part.images, part.labels)}

        # Arrays may be left out of the file, or have other contents that are as good.
        yield Subject(name, folder / name, read, arrays)
    small = load_data("digits", None, "cpu", data_limit=200)
    for name in ("fog.npy", tickets.CORRUPTED_LABELS):

        def score(path: Path = folder / "corrupted") -> None:
            for images, labels in CorruptedArrays(path, small).batches("fog", 5, 10):
                assert images.shape[1:] == (3, 8, 8) and labels.max() < 10

        # These have no checksums: some damage is not to be seen.
        yield Subject(name, folder / "corrupted" / name, score, mutations.DAMAGE)
    photograph = folder / "photograph.JPEG"
    plain = transforms.Compose([transforms.Resize(36), transforms.CenterCrop(32)])

    def decode() -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            image, label = Photographs([(str(photograph), 0)], 32, plain)[0]
        assert image.shape == (3, 32, 32)
        if label == UNREADABLE:
            raise UserError(said.getvalue())

    yield Subject("photograph", photograph, decode, (*mutations.DAMAGE, *mutations.PHOTOGRAPH))


# Spoiling and reading them


class Watch:
    """Notes, while it is `on`, what no file may make the program do."""

    def __init__(self, folder: Path):
        self.folder, self.on, self.seen = str(folder.resolve()), False, []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple) -> None:
        if self.on and self._is_harm(event, arguments):
            self.seen.append(f"{event} {arguments!r:.200}")

    def _is_harm(self, event: str, arguments: tuple) -> bool:
        if event == "open":
            return bool((arguments[2] or 0) & WRITING) and self._is_elsewhere(arguments[0])
        if event == "exec":
            known = (sys.prefix, sys.base_prefix, str(ROOT), "<frozen", "<__array_function__")
            return not arguments[0].co_filename.startswith(known)
        return event in FORBIDDEN or (event in CHANGES and self._is_elsewhere(arguments[0]))

    def _is_elsewhere(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and not os.path.realpath(os.fsdecode(path)).startswith(
            (self.folder, os.devnull)
        )


def try_one(subject: Subject, mutation: mutations.Mutation, draws: random.Random, watch: Watch) -> tuple[str, str]:
    """Spoil the file, have it read, make it good again; returns the outcome, and what is wrong with it if anything."""
    subject.path.write_bytes(mutation(draws, subject.good))
    watch.seen.clear()
    outcome, wrong = "read", ""
    try:
        with _time_limit():
            watch.on = True
            found = subject.read()
        if found is not None and mutation not in mutations.FORGED and not same(found, subject.found):
            wrong = "was read as something else than it was"
    except UserError as error:
        outcome, line = "refused", one_line(error)
        if subject.path.name not in line or len(line) > LONGEST_LINE or not line.isprintable():
            wrong = f"was refused without a line that names it: {line}"
    except (Exception, TooLong) as error:
        outcome, wrong = "crashed", f"ended in {type(error).__name__}: {error!s:.300}"
    finally:
        watch.on = False
        subject.path.write_bytes(subject.good)
    return outcome, "; ".join([*filter(None, [wrong]), *watch.seen])


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number, frame):
        raise TooLong(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def same(first: Any, second: Any) -> bool:
    """Whether both are the same tensors, bit for bit."""
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype
        and value.shape == second[name].shape
        and value.numpy().tobytes() == second[name].numpy().tobytes()
        for name, value in first.items()
    )


def child(folder: Path, first: int, count: int, seed: int) -> Report:
    """Try the mutations from the `first` on; each is told by its number and the seed alone."""
    torch.set_num_threads(1)
    for module in (report, heat_maps):  # pictures take longer than all the rest
        for name in filter(lambda name: name.startswith("plot_"), vars(module)):
            setattr(module, name, lambda *_: None)
    pairs = [(subject, mutation) for subject in subjects(folder) for mutation in subject.mutations]
    Image.init()  # its plugins, which are imported late, run code of their own
    watch, found = Watch(folder), Report()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit = ADDRESS_SPACE + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, first + count):
        draws = random.Random(f"{seed}:{number}")
        subject, mutation = pairs[number % len(pairs)] if number < len(pairs) else draws.choice(pairs)
        name = f"seed {seed}, mutation {number}: {subject.name}, {mutation.__name__}"
        (folder / "progress").write_text(name)
        outcome, wrong = try_one(subject, mutation, draws, watch)
        found.outcomes[f"{subject.name} {mutation.__name__} {outcome}"] += 1
        if wrong:
            found.failures.append(f"{name}: {wrong}")
    found.memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return found


def fuzz(folder: Path, count: int, seed: int, first: int = 0) -> Report:
    """Write good files into `folder` and have children try `count` mutations of them."""
    prepare(folder)
    total = Report()
    for begin in range(first, first + count, CHILD_COUNT):
        number = min(CHILD_COUNT, first + count - begin)
        command = [
            sys.executable,
            __file__,
            "--child",
            folder,
            f"--first={begin}",
            f"--count={number}",
            f"--seed={seed}",
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            last = (folder / "progress").read_text() if (folder / "progress").exists() else "before the first mutation"
            total.failures.append(f"the child ended with {done.returncode} in {last}: {done.stderr[-2000:]}")
        else:
            total.add(Report(**{**(result := json.loads(done.stdout)), "outcomes": Counter(result["outcomes"])}))
    if total.memory > MEMORY:
        total.failures.append(f"a child's memory grew by {total.memory / 1e6:.0f} MB")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="mutations to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(vars(child(args.child, args.first, args.count, args.seed))))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), args.count, args.seed, args.first)
    print(
        f"{args.count} files: {found.count('refused')} refused, {found.count('read')} read as they were, "
        f"{found.count('crashed')} crashed; memory grew by {found.memory / 1e6:.0f} MB at most"
    )
    for failure in found.failures:
        print(failure)
    sys.exit(bool(found.failures))


if __name__ == "__main__":
    main()
