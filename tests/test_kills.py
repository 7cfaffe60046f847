"""Killed in the midst of their work and started again, both CIFAR scripts end in the files of a run left alone."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import kills


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> dict[str, dict[str, int]]:
    """A handful of kills, in IMP and the search and in a save of each; more are `benchmarks/kills.py`'s.

    With two threads, so that a search tries two coefficients at the same time; threads that spin while they wait would
    keep the cores from the tests beside this one.
    """
    folder = tmp_path_factory.mktemp("kills")
    command = [sys.executable, "tests/small_kills.py", "--kills", "5", "--out", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (folder / "kills.json").exists(), done.stderr
    counts = json.loads((folder / "kills.json").read_text())["counts"]
    wrong = counts["files that differ"]["all"] + counts["temporary files left over"]["all"]
    assert done.returncode == (1 if wrong else 0), done.stderr
    return counts


def test_killed_runs_end_in_the_same_bytes(study):
    assert study["kills"]["all"] >= 5
    assert min(study["in the midst of a save"].values()) >= 1
    assert study["files that differ"]["all"] == 0 < study["files compared"]["all"]


def test_killed_saves_leave_no_temporary_file(study):
    assert study["temporary files left over"]["all"] == 0


def test_whatever_differs_is_found(tmp_path):
    for name in ("killed", "reference"):
        (tmp_path / name / "pools").mkdir(parents=True)
        for file in ("same", "other", "pools/missing", "pools/.0pool.pth.tar.x.tmp"):
            (tmp_path / name / file).write_bytes(b"1")
    (tmp_path / "killed" / "other").write_bytes(b"2")
    (tmp_path / "killed" / "pools" / "missing").unlink()
    (tmp_path / "killed" / "more").touch()
    study = kills.Tally()
    kills.compare(tmp_path / "killed", tmp_path / "reference", study)
    assert study.differing == [f"killed: {name} differs" for name in ("more", "other", "pools/missing")]
    assert study.left_over == ["killed: pools/.0pool.pth.tar.x.tmp is left over"]
    assert study.files == 4
