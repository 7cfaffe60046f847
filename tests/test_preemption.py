"""SIGTERM: an epoch is saved as far as it has come, the exit status says so, and nothing of it is computed again."""

import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import IMP, ROOT, SMALL, Script
from PIL import Image
from tiny_imp import SELDOM, Data, assert_equal, contents, last, make_net, make_settings

from CIFAR import Lottery_pools
from ImageNet.dataset import ImageFolders
from utils import preemption
from utils.distributed import SINGLE, Processes
from utils.imp import ImpRun
from utils.tickets import RunFiles
from utils.training import Schedule

pytestmark = pytest.mark.usefixtures("quick")
TWO_EPOCHS = {"epochs": 2, "schedule": Schedule(0.1, (1,)), "batch_size": 12}


def run_until_stopped(folder: Path, at: int | None, data: Data | None = None, **changes) -> int:
    """A run that is told to stop from the `at`-th time that it asks on; returns how often it asked."""
    asked = count()
    settings = make_settings(**{**TWO_EPOCHS, **changes})
    stop = (lambda: next(asked) >= at) if at is not None else lambda: next(asked) < 0
    run = ImpRun(make_net(), data or Data(), settings, RunFiles(folder), print, stop=stop)
    if at is None:
        run.run()
    else:
        with pytest.raises(preemption.Preempted):
            run.run()
    return next(asked)


class CountedData(Data):
    """Counts the training batches that were asked for."""

    batches = 0

    def train_batches(self, batch_size, *purpose, first=0):
        for batch in super().train_batches(batch_size, *purpose, first=first):
            self.batches += 1
            yield batch


@pytest.mark.parametrize("changes", [{}, {"prune_type": "pt"}, {"prune_type": "lt", "eval_freq": 2}, SELDOM], ids=str)
def test_a_run_stopped_anywhere_goes_on_in_the_same_batch_to_the_same_files(changes, tmp_path, capsys):
    """In every batch of training, validation and test."""
    data = CountedData()
    times = run_until_stopped(tmp_path / "whole", None, data, **changes)
    whole, trained = contents(tmp_path / "whole"), data.batches
    assert times > 15
    for at in range(times):
        folder, data = tmp_path / str(at), CountedData()
        run_until_stopped(folder, at, data, **changes)
        run_until_stopped(folder, None, data, **changes)
        assert_equal(contents(folder), whole, f"stopped at {at}:")
        assert data.batches - trained in (0, 1), "the batch at which it stopped is made twice, none is trained twice"


def test_a_run_stopped_again_and_again_ends_in_the_same_files(tmp_path):
    """Each life has a few batches, of training or of scoring."""
    run_until_stopped(tmp_path / "whole", None)
    lives = 0
    while True:
        asked = count()
        run = ImpRun(make_net(), Data(), make_settings(**TWO_EPOCHS), RunFiles(tmp_path / "dying"), print)
        run.stop = lambda asked=asked: next(asked) >= 5
        try:
            run.run()
            break
        except preemption.Preempted:
            lives += 1
    assert lives >= 5
    assert_equal(contents(tmp_path / "dying"), contents(tmp_path / "whole"))


@pytest.mark.parametrize("at, epochs, batches", [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 1, 0)])
def test_a_run_stops_where_any_process_is_told_to(at, epochs, batches, tmp_path):
    """The processes ask each other before both batches of training, and after validation and test."""
    asked = count()

    class Told(Processes):
        def any(self, flag: bool) -> bool:
            return next(asked) == at

    settings = make_settings(**TWO_EPOCHS)
    with pytest.raises(preemption.Preempted):
        ImpRun(make_net(), Data(), settings, RunFiles(tmp_path / "stopped"), print, Told()).run()
    record = last(tmp_path / "stopped", 0)
    assert (record["epoch"], record["underway"]["batches"]) == (epochs, batches)
    for folder in ("stopped", "whole"):
        run_until_stopped(tmp_path / folder, None)
    assert_equal(contents(tmp_path / "stopped"), contents(tmp_path / "whole"))


def test_an_epoch_is_saved_when_the_signal_comes_while_its_scored_images_are_decoded(tmp_path):
    class Decoding(Data):
        def eval_batches(self, split):
            raise preemption.Preempted

    settings = make_settings(**TWO_EPOCHS)
    with pytest.raises(preemption.Preempted):
        ImpRun(make_net(), Decoding(), settings, RunFiles(tmp_path / "stopped"), print).run()
    record = last(tmp_path / "stopped", 0)
    assert (record["epoch"], record["underway"]["batches"]) == (0, 2)
    for folder in ("stopped", "whole"):
        run_until_stopped(tmp_path / folder, None)
    assert_equal(contents(tmp_path / "stopped"), contents(tmp_path / "whole"))


def test_decoding_ends_at_the_next_batch(photographs, monkeypatch):
    data, read = ImageFolders(photographs, SINGLE, image_size=32, resize=36, workers=0, cache_gb=1), []
    data.samples["val"] *= 10
    monkeypatch.setattr(
        "ImageNet.dataset._read_photograph", lambda path: read.append(path) or Image.new("RGB", (40, 44))
    )
    monkeypatch.setattr("ImageNet.dataset.stop_requested", lambda: True)
    with pytest.raises(preemption.Preempted):
        data.eval_batches("val")
    assert len(read) == 64 < len(data.samples["val"])


def test_the_signal_waits_for_a_block_that_asks_for_it_itself():
    code = (
        "import os, signal\n"
        "from utils import preemption\n"
        "preemption.handle_sigterm()\n"
        "with preemption.defer_sigterm() as stop:\n"
        "    print(stop())\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop())\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('the second signal is nothing new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["False", "True", "the second signal is nothing new"]


@pytest.mark.parametrize("end", ["pass", "raise UserError('a mistake')", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_the_signal_changes_nothing_once_a_script_is_done(end):
    """It comes when all handlers of Python are gone, which is so before the first modules are."""
    code = (
        "import atexit, os, signal, sys\n"
        "from utils.errors import UserError\n"
        "from utils.parser import run_script\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid()):\n"
        "        kill(pid, 15)\n"
        "sys.late = Late()\n"
        f"def main(argv):\n    {end}\n"
        "run_script(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == {"pass": 0, "rais": 2}.get(end[:4], 75), done.stderr


def test_scripts_stop_with_a_status_of_their_own_and_go_on(small_tickets, tmp_path):
    imp = [*SMALL, *IMP, "--epochs", "40", "--pruning_times", "1", "--save_dir", tmp_path / "imp"]
    search = [*SMALL, "--checkpoint", small_tickets, "--save_dir", tmp_path / "pools", "--bn_images", "0"]
    commands = {"main_imp.py": (imp, "epoch   2"), "Lottery_pools.py": (search, "level 1: ")}
    for name, (flags, word) in commands.items():
        script = Script(name, *flags)
        script.wait_for(word)
        begin = time.monotonic()
        script.process.send_signal(signal.SIGTERM)
        status, errors = script.end()
        assert (status, errors) == (75, "stopped by SIGTERM; give the same command again\n")
        assert time.monotonic() - begin < 20
    assert not list(tmp_path.rglob(".*")), "neither a lock nor a half-written file"
    record = torch.load(tmp_path / "imp" / "0checkpoint.pth.tar", weights_only=True)
    assert 2 <= record["epoch"] < 40
    assert (tmp_path / "pools" / "0pool_unfinished.pth.tar").exists() or list(
        (tmp_path / "pools").glob("*pool.pth.tar")
    )
    Lottery_pools.main([*map(str, search)])
    assert len(list((tmp_path / "pools").glob("*pool.pth.tar"))) == 3
