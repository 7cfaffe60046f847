"""Kill main_imp.py and Lottery_pools.py again and again, start them again, and compare with a run that never stopped.

    python benchmarks/kills.py --kills 100

Each start runs the same command in the same folder, until one comes to its end. Every other start is killed (SIGKILL)
at a random time after its first line of output, the rest as soon as the temporary file of a random save is seen. Then
every file must have the bytes of a run that was left alone, in processes that were started as a user starts them, and
no temporary file may be left; status 1 otherwise. Writes kills.json and kills.md. Commit nothing meanwhile: files name
the revision that wrote them.

Processes to kill are forked from this one, which has imported all that they need: that spares them seconds of Python's
imports. It is sound while this one computes nothing itself, for then no threads of torch exist that a fork would lose.
"""

import argparse
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot  # noqa: F401  what scripts import late, for the processes that are forked
import sklearn.datasets  # noqa: F401
import torch

from benchmarks import measure
from CIFAR import Lottery_pools, main_imp  # noqa: F401
from utils.checkpoint import TEMPORARY

ROOT = Path(__file__).resolve().parents[1]
NETWORK = ["--dataset", "digits", "--data_limit", "200", "--batch_size", "64", "--arch", "cifar_resnet_8_4"]
NETWORK += ["--save_interval", "0"]  # as many saves as there can be
# Relative to the folder that a command works in, so that files of two folders can be equal.
COMMANDS = {
    "IMP": ["main_imp.py", "--epochs", "5", "--rewind_epoch", "1", "--pruning_times", "4", "--save_dir", "tickets"],
    "search": ["Lottery_pools.py", "--search_num", "2", "--checkpoint", "tickets"],
}
HOW = ON_SIGHT, AT_RANDOM = ("at the sight of a temporary file", "at a random time")
SAVES = 8  # a save to be killed in is one of the first so many of a start


@dataclass
class Tally:
    """What has happened: events by (name, IMP or search), runs and files compared, and what was wrong with them."""

    counts: Counter = field(default_factory=Counter)
    runs: int = 0
    files: int = 0
    differing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def kills(self) -> int:
        return sum(self.counts["kills", stage] for stage in COMMANDS)

    def needs(self, kills: int, stage: str) -> bool:
        """Whether there are less than so many kills, or none in the midst of a save of this stage."""
        return self.kills() < kills or not self.counts["in the midst of a save", stage]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="at least so many; the last run is ended")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the moments")
    parser.add_argument("--out", type=Path, default=measure.RESULTS, metavar="DIR")
    return parser


def command(stage: str) -> list[str]:
    script, *flags = COMMANDS[stage]
    return [str(ROOT / "CIFAR" / script), *NETWORK, "--device", "cpu", *flags]


def run_alone(folder: Path) -> dict[str, float]:
    """Both commands, each in a fresh interpreter; the seconds that each works after its first line of output."""
    folder.mkdir()
    seconds = {}
    for stage in COMMANDS:
        words = [sys.executable, *command(stage)]
        with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            begun = time.monotonic()
            process.stdout.read()
            seconds[stage] = time.monotonic() - begun
        if process.returncode != 0:
            sys.exit(f"{' '.join(words)} failed")
    return seconds


def start(stage: str, folder: Path) -> BaseProcess:
    """The command at work in `folder`, its output in a file beside it."""
    log(folder).write_text("")
    process = multiprocessing.get_context("fork").Process(target=_run_script, args=(command(stage), folder))
    process.start()
    return process


def _run_script(words: list[str], folder: Path) -> None:
    os.chdir(folder)
    output = os.open(log(folder), os.O_WRONLY | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def log(folder: Path) -> Path:
    return folder.with_suffix(".log")


def files(folder: Path) -> list[Path]:
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def temporaries(folder: Path) -> set[Path]:
    """Files that saves have begun and not renamed yet."""
    return {path for path in files(folder) if path.name.endswith(TEMPORARY)}


def work_until(process: BaseProcess, is_time: Callable[[], bool]) -> bool:
    """Wait until it is time; False if the process has come to its end before."""
    while not is_time():
        if not process.is_alive():
            return False
        time.sleep(0.0002)
    return True


def work_for(process: BaseProcess, folder: Path, seconds: float) -> bool:
    """Let the process work so long from the first line that it says."""
    if not work_until(process, lambda: log(folder).stat().st_size > 0):
        return False
    end = time.monotonic() + seconds
    return work_until(process, lambda: time.monotonic() > end)


def work_to_save(process: BaseProcess, folder: Path, number: int) -> bool:
    """Let the process work until it is in the midst of its save of this number, or of a later one."""
    before, seen = temporaries(folder), set()

    def is_saving() -> bool:
        now = temporaries(folder) - before
        seen.update(now)
        return len(seen) >= number and bool(now)

    return work_until(process, is_saving)


def attack(stage: str, folder: Path, seconds: float, draws: random.Random, tally: Tally, kills: int) -> None:
    """Run one command to its end, whatever number of starts that takes while `tally` needs kills."""
    while True:
        before = temporaries(folder)
        process = start(stage, folder)
        tally.counts["starts", stage] += 1
        how = HOW[tally.counts["starts", stage] % 2]
        if not tally.needs(kills, stage):
            met = False
        elif how == ON_SIGHT:
            met = work_to_save(process, folder, draws.randint(1, SAVES))
        else:
            met = work_for(process, folder, draws.uniform(0, seconds / 2))
        if met:
            process.kill()
        process.join()
        if process.exitcode == 0:
            return
        if process.exitcode != -signal.SIGKILL:
            sys.exit(f"{' '.join(command(stage))} failed:\n{log(folder).read_text()[-4000:]}")
        tally.counts["kills", stage] += 1
        tally.counts[how, stage] += 1
        tally.counts["in the midst of a save", stage] += bool(temporaries(folder) - before)


def compare(folder: Path, reference: Path, tally: Tally) -> None:
    """Note which files are in one folder alone or have other bytes, and which temporary files are left."""
    ours, theirs = ({path.relative_to(top): path for path in files(top)} for top in (folder, reference))
    left_over = {path.relative_to(folder) for path in temporaries(folder)}
    names = ({*ours} | {*theirs}) - left_over
    equal = {name for name in {*ours} & {*theirs} if ours[name].read_bytes() == theirs[name].read_bytes()}
    tally.runs += 1
    tally.files += len(names)
    tally.differing += [f"{folder.name}: {name} differs" for name in sorted(names - equal)]
    tally.left_over += [f"{folder.name}: {name} is left over" for name in sorted(left_over)]


def run(kills: int, seed: int, place: Path) -> Tally:
    tally, draws, reference = Tally(), random.Random(seed), place / "reference"
    seconds = run_alone(reference)
    while any(tally.needs(kills, stage) for stage in COMMANDS):
        folder = place / f"run{tally.runs + 1}"
        folder.mkdir()
        for stage in COMMANDS:
            attack(stage, folder, seconds[stage], draws, tally, kills)
        compare(folder, reference, tally)
        faults = f"{len(tally.differing)} files differ, {len(tally.left_over)} are left over"
        print(f"{tally.kills():4d} kills, {tally.runs} runs compared: {faults}", flush=True)
    return tally


def table(tally: Tally) -> list[list]:
    rows = []
    for event in ("starts", "kills", *HOW, "in the midst of a save"):
        counts = [tally.counts[event, stage] for stage in COMMANDS]
        rows.append([event, *counts, sum(counts)])
    found = {"runs compared": tally.runs, "files compared": tally.files, "files that differ": len(tally.differing)}
    found["temporary files left over"] = len(tally.left_over)
    return [*rows, *([name, "", "", count] for name, count in found.items())]


def main() -> None:
    args = build_parser().parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        tally = run(args.kills, args.seed, Path(place))
    seconds = time.perf_counter() - begun
    header, rows = ["", *COMMANDS, "all"], table(tally)
    counts = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    about = measure.machine(torch.device("cpu"))
    title = "Killed anywhere: what is left of a run that never stopped"
    faults = tally.differing + tally.left_over
    measure.save(args, "kills", title, header, rows, about, counts=counts, faults=faults, seconds=seconds)
    if faults:
        sys.exit("\n".join(faults[:20]))


if __name__ == "__main__":
    main()
