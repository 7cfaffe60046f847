"""What may import what."""

import re

import pytest
from conftest import ROOT

SCRIPTS = "CIFAR|ImageNet|benchmarks|tests|multiproc"


@pytest.mark.parametrize(
    "folder, others",
    [("CIFAR", "ImageNet"), ("ImageNet", "CIFAR"), ("utils", SCRIPTS), ("models", SCRIPTS)],
)
def test_no_import_runs_up_or_to_the_sister(folder, others):
    files = [*(ROOT / folder).glob("*.py")]
    assert len(files) > 5
    for path in files:
        assert not re.search(rf"^\s*(from|import) ({others})\b", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize("folder", ["models", "utils"])
def test_torchvision_is_not_imported_by_what_every_script_shares(folder):
    """It takes almost as long as torch, for the sake of torch.compile, which most commands never use."""
    for path in (ROOT / folder).glob("*.py"):
        assert not re.search(r"^(from|import) torchvision", path.read_text(), re.MULTILINE), path
