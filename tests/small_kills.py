"""benchmarks/kills.py on runs of a second: `small_kills.py --kills 5 --out FOLDER`, with the repository on PYTHONPATH.

Small enough that starting interpreters, drawing pictures and measuring the machine would take most of the time. So
there are stand-ins for pictures and for the measurement, and the reference is forked from here, as what is killed is:
that fresh interpreters write the same bytes, pictures too, is test_reproducibility.py's.
"""

import time
from pathlib import Path

from pictures import write_stand_in

from benchmarks import kills, measure
from utils import figures


def run_alone(folder: Path) -> dict[str, float]:
    """In the place of `kills.run_alone`, in forked processes."""
    folder.mkdir()
    seconds = {}
    for stage in kills.COMMANDS:
        process = kills.start(stage, folder)
        kills.work_until(process, lambda: kills.log(folder).stat().st_size > 0)
        begun = time.monotonic()
        process.join()
        seconds[stage] = time.monotonic() - begun
        assert process.exitcode == 0, kills.log(folder).read_text()
    return seconds


figures.write, kills.run_alone = write_stand_in, run_alone
measure.matmul_peak = lambda device, dtype: 0.0
kills.COMMANDS["IMP"] += ["--epochs", "3", "--pruning_times", "3"]
kills.COMMANDS["search"] += ["--interpolation_value_list", "0.3", "0.7"]
kills.main()
