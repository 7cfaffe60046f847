"""corrupt.py: what it writes, that it gets worse with severity, and that the same command writes the same bytes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DIGITS, IMP, SMALL, snapshot

from CIFAR import corrupt, main_imp
from CIFAR.corrupt import CORRUPTIONS, possible
from CIFAR.corruptions import CorruptedArrays
from CIFAR.dataset import load_data
from utils.corruptions import SEVERITIES

IMAGES = DIGITS[:4]
MONOTONE = sorted({*CORRUPTIONS} - {"saturate"})  # which takes colour away first and then adds it


def coloured(count: int = 6, side: int = 16) -> torch.Tensor:
    """Smooth images, as photographs are: N×S×S×3 uint8."""
    draws = torch.Generator().manual_seed(0)
    rough = torch.rand(count, 3, 4, 4, generator=draws)
    smooth = torch.nn.functional.interpolate(rough, size=side, mode="bilinear")
    return (smooth * 255).byte().permute(0, 2, 3, 1).contiguous()


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory) -> Path:
    """Digits, corrupted. Nobody may write into it."""
    folder = tmp_path_factory.mktemp("corrupted") / "images"
    corrupt.main([*IMAGES, "--save_dir", str(folder)])
    return folder


def written(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


@pytest.mark.parametrize("name", MONOTONE)
def test_every_severity_is_farther_from_the_image(name):
    images = coloured()
    parts = np.split(corrupt.corrupt(images, name, 41).astype(int), len(SEVERITIES))
    distances = [float(np.abs(part - images.numpy()).mean()) for part in parts]
    assert distances[0] > 0
    assert distances == sorted(distances) and len({*distances}) == 5


def test_saturation_goes_both_ways():
    images = coloured()
    parts = np.split(corrupt.corrupt(images, "saturate", 41).astype(int), len(SEVERITIES))
    colour = [np.ptp(part, axis=3).mean() for part in (images.numpy().astype(int), *parts)]
    assert colour[2] < colour[1] < colour[0] < colour[3] < colour[4] < colour[5]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [1, 4, 9, 33])
def test_images_of_every_size_stay_what_they_are(name, side):
    images = coloured(3, side)
    before = images.clone()
    found = corrupt.corrupt(images, name, 41)
    assert (found.shape, found.dtype) == ((15, side, side, 3), np.uint8)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ["gaussian_noise", "elastic_transform"])
def test_chance_comes_from_seed_corruption_and_severity_alone(name):
    images = coloured(1).repeat(2, 1, 1, 1)
    torch.manual_seed(1)
    first, state = corrupt.corrupt(images, name, 41), torch.get_rng_state()
    assert torch.equal(state, torch.manual_seed(1).get_state()), "others' random numbers stay theirs"
    torch.manual_seed(2)
    assert np.array_equal(corrupt.corrupt(images, name, 41), first)
    assert not np.array_equal(corrupt.corrupt(images, name, 42), first)
    assert not np.array_equal(first[0], first[1]), "each image has its own"


def test_grey_images_have_no_colours_to_saturate():
    assert "saturate" in possible(coloured())
    assert sorted([*possible(load_data("digits", None, "cpu").test.images), "saturate"]) == sorted(CORRUPTIONS)


def test_folder_is_as_cifar_10_c_comes_and_is_read_as_such(corrupted):
    data = load_data("digits", None, "cpu", data_limit=200)
    arrays = written(corrupted)
    labels = arrays.pop("labels")
    assert labels.dtype == np.int64 and np.array_equal(labels, np.tile(data.test.labels, 5))
    assert sorted(arrays) == sorted(possible(data.test.images))
    assert {(array.shape, array.dtype.name) for array in arrays.values()} == {((1000, 8, 8, 3), "uint8")}
    images = CorruptedArrays(corrupted, data)
    ((pixels, read),) = images.batches("jpeg_compression", 5, 200)
    assert torch.equal(read, data.test.labels)
    assert np.array_equal((pixels * 255).round().permute(0, 2, 3, 1), arrays["jpeg_compression"][800:])


def test_same_command_writes_the_same_bytes_and_flags_of_other_images_make_no_difference(corrupted, tmp_path):
    first = written(corrupted)
    for flags in ([], ["--val_images", "7", "--no_flip"]):
        corrupt.main([*IMAGES, "--save_dir", str(tmp_path), "--quiet", *flags])
        second = written(tmp_path)
        assert all(np.array_equal(first[name], second[name]) for name in {*first, *second})


def test_its_flags_are_noted_beside_the_images(corrupted):
    assert json.loads((corrupted / "corrupted.json").read_text())["settings"]["seed"] == 41


def test_tickets_in_the_folder_stay_those_of_their_run(fails, small_tickets, capfd):
    before = {path: path.read_bytes() for path in small_tickets.iterdir()}
    corrupt.main([*IMAGES, "--save_dir", str(small_tickets)])
    assert "200 images under 8 corruptions at 5 severities" in capfd.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    line = fails(main_imp, *SMALL, *IMP, "--lr", "0.05", "--save_dir", small_tickets)
    assert "settings.json belongs to a run with --lr 0.1, not with --lr 0.05" in line


def test_a_run_among_corrupted_images_leaves_them_those_of_their_command(fails, corrupted, tmp_path):
    folder = Path(shutil.copytree(corrupted, tmp_path / "images"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    main_imp.main([*SMALL, *IMP, "--pruning_times", "1", "--save_dir", str(folder)])
    assert {path: path.read_bytes() for path in before} == before
    assert "corrupted.json" in fails(corrupt, *IMAGES, "--save_dir", folder, "--data_limit", 100)


# Mistakes


@pytest.mark.parametrize("flag, value", [("--seed", 42), ("--data_limit", 100)])
def test_folder_of_another_command_is_left_alone(fails, corrupted, flag, value):
    before = snapshot(corrupted)
    assert str(corrupted) in fails(corrupt, *IMAGES, "--save_dir", corrupted, flag, value)
    assert snapshot(corrupted) == before


def test_published_images_are_left_alone(fails, tmp_path):
    np.save(tmp_path / "labels.npy", np.zeros(50_000, int))
    before = snapshot(tmp_path)
    assert str(tmp_path) in fails(corrupt, *IMAGES, "--save_dir", tmp_path)
    assert snapshot(tmp_path) == before


def test_folder_must_be_named(capsys):
    with pytest.raises(SystemExit) as stop:
        corrupt.main([*IMAGES])
    assert stop.value.code == 2 and "--save_dir" in capsys.readouterr().err
