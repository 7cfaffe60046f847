"""The programs in README run as printed."""

import re

import pytest
import torch
from conftest import ROOT

from utils.export import write_sparse
from utils.pruning import count_kept


def program(section: str, number: int = 0) -> str:
    """A block of Python of README's `section`."""
    readme = (ROOT / "README.md").read_text()
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", readme, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[number]


def test_networks_that_have_nothing_to_do_with_images_are_pooled(capsys):
    found = {}
    exec(program("Pooling networks of your own"), found)
    pool, networks, loss, val = (found[name] for name in ("pool", "networks", "loss", "val"))
    losses = {number: loss(network, val).item() for number, network in networks.items()}
    assert len(networks) == 3 and len({*losses.values()}) == 3
    assert pool.score == -loss(pool.state, val).item() > -losses[0]
    assert [step.candidate for step in pool.steps] == [1, 2] and sum(pool.shares.values()) == pytest.approx(1)
    for network in (pool.state, *networks.values()):
        assert count_kept({name: network[name] != 0 for name in ("0.weight", "2.weight")}) == 256
    assert any(not torch.equal(pool.state[name], networks[0][name]) for name in pool.state)
    assert re.search(r"test loss 0\.\d+, of the pool 0\.\d+", capsys.readouterr().out)


def test_sparse_file_is_read_without_anything_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"fc.weight": torch.eye(9) * -0.5, "fc.bias": torch.ones(3), "count": torch.tensor(7)}
    write_sparse(state, tmp_path / "5pool.npz")
    found = {}
    exec(program("Networks for other programs"), found)
    assert found["state"].keys() == state.keys()
    assert all(torch.equal(found["state"][name], value) for name, value in state.items())
