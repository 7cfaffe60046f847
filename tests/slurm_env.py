"""The variables of a Slurm step, and a stand-in for its scontrol."""

from pathlib import Path

SLURM = {
    "SLURM_JOB_ID": "1000",
    "SLURM_JOB_NODELIST": "node[07-08]",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
SCONTROL = """#!/bin/sh
[ "$1 $2" = "show hostnames" ] || exit 1
case "$3" in "node[07-08]") echo node07; echo node08 ;; localhost) echo localhost ;; *) exit 1 ;; esac
"""


def add_scontrol(folder: Path) -> None:
    """Put a stand-in for Slurm's program that spells lists of hosts out into `folder`."""
    (folder / "scontrol").write_text(SCONTROL)
    (folder / "scontrol").chmod(0o755)
