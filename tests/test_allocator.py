import subprocess
import sys

import pytest
from conftest import ROOT

FAULTS = """
import resource
import torch
from utils.allocator import keep_freed_memory

if not keep_freed_memory():
    raise SystemExit("no glibc")
for batch in range(40):
    if batch == 20:  # by now there is room for one, wherever it lies
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_there_for_the_next_batch():
    """20 tensors of 64 MiB have 327,680 pages, each of which would be a fault."""
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True)
    if "no glibc" in done.stderr:
        pytest.skip("the C library is not glibc")
    assert int(done.stdout) < 20_000
