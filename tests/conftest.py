"""What several test modules share."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))


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
