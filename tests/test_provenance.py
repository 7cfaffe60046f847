"""What results say about how they came about."""

import pytest
import torch

from utils.provenance import changed_versions, describe_run


@pytest.mark.parametrize("name", ["revision", "torch", "precision", "device"])
def test_what_bears_on_results_is_noted_and_its_change_told(name):
    now = describe_run({}, torch.device("cpu"), {})["versions"]
    assert {"threads", "command", "python", "numpy"} < {*now}
    assert changed_versions({**now, name: "other"}, now) == f"{name} other (now {now[name]})"


def test_the_change_of_what_bears_on_no_result_is_not_told():
    assert changed_versions({"python": "3.0", "command": "x", "revision": "same"}, {"revision": "same"}) == ""
