"""The Slurm scripts, with the commands of Slurm and the interpreter replaced by ones that note how they were called."""

import os
import subprocess

import pytest
from conftest import ROOT

NOTE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$NOTES"
case "$(basename "$0")" in
  srun) echo "$SRUN_CPUS_PER_TASK" > "$NOTES.cores"; "$@" ;;
  python) exit "$STATUS" ;;
  scontrol) [ "$1" = show ] && echo node0 || true ;;
esac
"""


@pytest.fixture
def job(tmp_path):
    """Runs a script with a `python` that ends with `status`; returns its status and the commands that it called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol", "python"):
        (folder / name).write_text(NOTE)
        (folder / name).chmod(0o755)

    def run(script: str, status: int, *arguments: object, **env: str) -> tuple[int, list[str]]:
        notes = tmp_path / "notes"
        notes.write_text("")
        variables = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        variables |= {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "NOTES": str(notes), "STATUS": str(status)}
        command = ["bash", f"scripts/{script}", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env={**variables, **env}, capture_output=True, text=True, check=False)
        return done.returncode, notes.read_text().splitlines()

    return run


JOBS = ["cifar_imp.sh", "cifar_pools.sh", "imagenet_slurm.sh"]
ONE = {"ARCHS": "resnet20s", "DATASETS": "cifar10", "SEEDS": "1"}
SLURM = {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "node0"}
SLURM |= {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_CPUS_PER_TASK": "64"}


@pytest.mark.parametrize("told", [75, 143])
@pytest.mark.parametrize("script", JOBS)
def test_a_job_that_was_told_to_stop_goes_back_into_the_queue(job, script, told, tmp_path):
    status, calls = job(script, told, tmp_path, **ONE, **SLURM)
    assert status == told
    assert any(call.startswith("srun ") for call in calls)
    assert sum(call.startswith("python ") for call in calls) == 1, "the command that was stopped is the last one"
    assert calls[-1] == "scontrol requeue 17"


@pytest.mark.parametrize("script", JOBS)
def test_a_virtual_environments_interpreter_is_found_from_the_repository_and_stays_a_link(job, script, tmp_path):
    (tmp_path / "bin" / "python").rename(tmp_path / "bin" / "python3")
    (tmp_path / "bin" / "python").symlink_to("python3")
    status, calls = job(script, 0, tmp_path, **ONE, **SLURM, PYTHON=os.path.relpath(tmp_path / "bin" / "python", ROOT))
    assert status == 0
    assert any(call.startswith("python ") for call in calls)


@pytest.mark.parametrize("status", [0, 2])
def test_a_job_that_ends_by_itself_stays_out_of_the_queue(job, status):
    found, calls = job("cifar_imp.sh", status, "--amp", **ONE, **SLURM)
    assert found == status
    assert [call.split()[0] for call in calls] == ["srun", "python"]
    assert calls[-1].endswith(
        "--arch resnet20s --seed 1 --prune_type rewind_lt --rewind_epoch 9 --pruning_times 19 --amp"
    )


@pytest.mark.parametrize(("step", "called"), [("0", ["python"]), ("4294967290", ["srun", "python"])])
def test_a_shell_that_srun_has_started_starts_no_step_within_its_own(job, step, called):
    _, calls = job("cifar_imp.sh", 0, **ONE, **SLURM, SLURM_STEP_ID=step)
    assert [call.split()[0] for call in calls] == called


@pytest.mark.parametrize("script", JOBS)
def test_steps_have_the_cores_that_the_job_asked_for(job, script, tmp_path):
    job(script, 0, tmp_path, **ONE, **SLURM)
    assert (tmp_path / "notes.cores").read_text() == "64\n"


@pytest.mark.parametrize("script, each", [("cifar_imp.sh", 1), ("cifar_pools.sh", 6)])
def test_the_tasks_of_an_array_do_together_what_one_command_does(job, script, each):
    _, whole = job(script, 0)
    tasks = [job(script, 0, SLURM_ARRAY_TASK_ID=str(number))[1] for number in range(12)]
    assert [call for task in tasks for call in task] == whole
    assert {len(task) for task in tasks} == {each} and len({*whole}) == 12 * each
    assert job(script, 0, SLURM_ARRAY_TASK_ID="12") == (2, [])


def test_by_hand_nothing_of_slurm_is_called(job):
    assert [call.split()[0] for call in job("cifar_imp.sh", 75, **ONE)[1]] == ["python"]


def test_scripts_ask_for_the_signal_and_the_queue():
    texts = {path.name: path.read_text() for path in (ROOT / "scripts").glob("*.sh")}
    jobs = {name for name, text in texts.items() if "#SBATCH" in text}
    assert jobs == {*JOBS}
    for name in jobs:
        assert "#SBATCH --requeue\n" in texts[name] and "#SBATCH --signal=TERM@120\n" in texts[name], name
