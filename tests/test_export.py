"""Networks for other programs: what is written can be read without this one, bit for bit; sizes; bad files."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMP, SMALL, script, snapshot
from torch import Tensor

from CIFAR import Lottery_pools, export, main_imp
from utils import tickets
from utils.errors import UserError
from utils.export import read_sparse, write_sparse
from utils.tickets import TicketFile


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return [*first] == [*second] and all(
        value.dtype == second[name].dtype
        and value.shape == second[name].shape
        and value.numpy().tobytes() == second[name].numpy().tobytes()
        for name, value in first.items()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tickets of a tiny network and a pool of level 2. Nobody may write into it."""
    folder = tmp_path_factory.mktemp("run") / "tickets"
    main_imp.main([*SMALL, *IMP, "--rate", "0.6", "--save_dir", str(folder)])
    search = ["--interpolate_method", "interpolate_swa", "--levels", "2", "--quiet"]
    Lottery_pools.main([*SMALL, *search, "--checkpoint", str(folder)])
    return folder


@pytest.fixture
def pool(folder) -> Path:
    return folder / "pools/interpolate_swa/2pool.pth.tar"


def plain(path: Path) -> dict[str, Tensor]:
    file = tickets.ticket_of_file(path) or TicketFile(0, path)
    return tickets.read_ticket(file).state


def test_pool_is_written_as_a_plain_state_dict(pool, tmp_path):
    export.main([str(pool), str(tmp_path / "pool.pt")])
    written = torch.load(tmp_path / "pool.pt", weights_only=True)
    assert same_bits(written, torch.load(pool, weights_only=True)["state_dict"])


@pytest.mark.parametrize("level", [0, 2])
def test_ticket_is_written_with_plain_names_and_zeros(folder, tmp_path, level):
    path = folder / f"{level}model_SA_best.pth.tar"
    export.main([str(path), str(tmp_path / "ticket.pt")])
    written = torch.load(tmp_path / "ticket.pt", weights_only=True)
    assert same_bits(written, plain(path)) and "conv.weight" in written
    assert bool((written["conv.weight"] == 0).any()) == (level > 0)


def test_openlth_ticket_gets_its_mask(openlth_tickets, tmp_path):
    (path,) = openlth_tickets.glob("*/*/level_3/main/model_ep3_it0.pth")
    for name in ("ticket.pt", "ticket.npz"):
        export.main([str(path), str(tmp_path / name)])
    masks = torch.load(path.parent / "mask.pth", weights_only=True)
    written = torch.load(tmp_path / "ticket.pt", weights_only=True)
    for name, mask in masks.items():
        assert not written[name.removeprefix("model.")][mask == 0].any()
    assert same_bits(read_sparse(tmp_path / "ticket.npz"), written)


def test_sparse_file_gives_the_same_bits_and_sizes_are_shown(pool, tmp_path, capsys):
    export.main([str(pool), str(tmp_path / "pool.npz")])
    state = torch.load(pool, weights_only=True)["state_dict"]
    assert same_bits(read_sparse(tmp_path / "pool.npz"), state)
    dense, size = sum(value.nbytes for value in state.values()), (tmp_path / "pool.npz").stat().st_size
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    sizes = [pool.stat().st_size, dense, size]
    assert rows == [[f"{number:,}", f"{100 * number / dense:.1f}"] for number in sizes]


def test_sparse_file_takes_a_bit_a_weight_and_the_values(tmp_path):
    weights = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    weights[weights.abs() < weights.abs().quantile(0.9)] = 0.0
    write_sparse({"conv.weight": weights}, tmp_path / "s.npz")
    kept = int((weights != 0).sum())
    assert 0.09 * weights.numel() < kept < 0.11 * weights.numel()
    assert (tmp_path / "s.npz").stat().st_size < weights.numel() / 8 + 4 * kept + 1000


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, 5),
        torch.ones(3, 5),
        torch.tensor(7),
        torch.zeros(()),
        torch.zeros(0, 4),
        torch.tensor([0.0, -0.0, 1e-45, float("inf"), *[0.0] * 90]),
        torch.eye(13, dtype=torch.float64),
        torch.eye(9).half(),
        torch.eye(9, dtype=torch.bool),
        torch.eye(9, dtype=torch.int64),
        (torch.arange(240.0).view(2, 3, 5, 8) % 7 == 3) * torch.linspace(-1, 1, 240).view(2, 3, 5, 8),
        torch.eye(10)[:, ::3],
        torch.eye(8).view(1, 1, 8, 8).expand(3, 2, 8, 8).contiguous(memory_format=torch.channels_last),
    ],
    ids=lambda value: f"{value.dtype} {tuple(value.shape)}",
)
def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path, value):
    state = {"a.weight": value, "values/odd name": torch.ones(2), "last": value.clone()}
    write_sparse(state, tmp_path / "s.npz")
    assert same_bits(read_sparse(tmp_path / "s.npz"), state)


def test_the_shape_of_a_number_is_whole_numbers_too(tmp_path):
    """With others, the few lines of docs/using-pools.md that read such a file make no array of it."""
    write_sparse({"count": torch.tensor(0)}, tmp_path / "s.npz")
    assert np.load(tmp_path / "s.npz")["shape/count"].prod().dtype == np.int64


def test_safetensors_hold_the_same_tensors(pool, tmp_path):
    library = pytest.importorskip("safetensors.torch")
    export.main([str(pool), str(tmp_path / "pool.safetensors")])
    written = library.load_file(tmp_path / "pool.safetensors")
    state = torch.load(pool, weights_only=True)["state_dict"]
    assert same_bits({name: written[name] for name in state}, state)


def test_safetensors_that_are_not_installed(fails, pool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    before = snapshot(tmp_path)
    assert "pip install safetensors" in fails(export, pool, tmp_path / "pool.safetensors")
    assert snapshot(tmp_path) == before


def test_scripts_of_both_folders_do_the_same(pool, tmp_path):
    done = script("export.py", pool, tmp_path / "pool.npz")
    assert done.returncode == 0, done.stderr
    assert same_bits(read_sparse(tmp_path / "pool.npz"), plain(pool))
    assert script("export.py", pool, tmp_path / "pool.txt").returncode == 2


@pytest.mark.parametrize("name", ["pool", "pool.txt", "pool.tar", "2pool.pth.tar"])
def test_another_ending(fails, pool, tmp_path, name):
    line = fails(export, pool, tmp_path / name)
    assert str(tmp_path / name) in line and ".safetensors" in line and not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["images.npz", "epoch_1_rewind_weight.pt"])
def test_what_was_not_exported_is_not_written_over(fails, pool, tmp_path, name):
    path = tmp_path / name
    np.savez(tmp_path / "images.npz", x_train=np.zeros(3))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "epoch_1_rewind_weight.pt")
    before = path.read_bytes()
    assert f"{path} is there and was not exported" in fails(export, pool, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["pool.npz", "pool.pt"])
def test_an_export_may_be_repeated(pool, tmp_path, name):
    for _ in range(2):
        export.main([str(pool), str(tmp_path / name)])


def test_who_would_score_a_sparse_file_is_told_to_export_another(pool, tmp_path):
    export.main([str(pool), str(tmp_path / "pool.npz")])
    with pytest.raises(UserError, match=r"of \.npz: export to \.pt instead"):
        tickets.read_ticket(TicketFile(0, tmp_path / "pool.npz"))


def test_a_file_is_not_written_over_itself(fails, pool, tmp_path):
    path = tmp_path / "pool.pt"
    path.write_bytes(pool.read_bytes())
    (tmp_path / "link.pt").symlink_to(path)
    for target in (path, tmp_path / "link.pt"):
        assert str(target) in fails(export, path, target)
    assert path.read_bytes() == pool.read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_file_that_is_no_network(fails, tmp_path, content):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert str(tmp_path / "file") in fails(export, tmp_path / "file", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_numbers_that_numpy_does_not_know(fails, tmp_path):
    torch.save({"conv.weight": torch.zeros(2, 2, 3, 3, dtype=torch.bfloat16)}, tmp_path / "t.pt")
    line = fails(export, tmp_path / "t.pt", tmp_path / "t.npz")
    assert "bfloat16" in line and ".pt" in line and not (tmp_path / "t.npz").exists()


WHOLE = {
    "values/w": np.ones(2, np.float32),
    "bits/w": np.array([0b11000000], np.uint8),
    "shape/w": np.array([2, 2]),
    "dense/b": np.ones(2),
}


def test_the_file_that_is_damaged_below_is_whole(tmp_path):
    np.savez(tmp_path / "s.npz", **WHOLE)
    assert read_sparse(tmp_path / "s.npz")["w"].tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    "changed",
    [
        {"values/w": None},
        {"bits/w": None},
        {"shape/w": None},
        {"values/w": np.ones(1, np.float32)},
        {"values/w": np.ones((2, 1), np.float32)},
        {"values/w": np.float32(1)},
        {"values/w": np.array(["a", "b"])},
        {"bits/w": np.array([0b01000000], np.int8)},
        {"bits/w": np.array([0b10000001], np.uint8)},
        {"bits/w": np.array([0b11000000, 0], np.uint8)},
        {"bits/w": np.array([], np.uint8)},
        {"shape/w": np.array([2, 10**9])},
        {"shape/w": np.array([10**9] * 5)},
        {"shape/w": np.array([-2, -2])},
        {"shape/w": np.array([2.0, 2.0])},
        {"shape/w": np.array(4)},
        {"dense/b": np.array(["text"])},
        {"dense/b": np.array([{}])},
        {"other": np.ones(1)},
    ],
    ids=str,
)
def test_damaged_sparse_file(tmp_path, changed):
    content = {name: value for name, value in {**WHOLE, **changed}.items() if value is not None}
    np.savez(tmp_path / "s.npz", **content)
    with pytest.raises(UserError, match=str(tmp_path / "s.npz")):
        read_sparse(tmp_path / "s.npz")
