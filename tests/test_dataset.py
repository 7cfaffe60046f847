import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from script_runs import assert_refused, npz_arrays, write_npz
from torchvision.transforms import functional as vision

from CIFAR import Lottery_pools, dataset
from CIFAR.dataset import ImageData, Split, channel_statistics, doubt_about_classes, load_data
from CIFAR.flags import data_from_flags
from utils.randomness import generator


def make_data(count: int = 30, side: int = 8, padding: int = 2, flip: bool = True) -> ImageData:
    """Random images whose labels are their positions in the training set."""
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator("images", count))
    split = Split(images, torch.arange(count))
    return ImageData(split, split[:7], split[7:], [0.0] * 3, [1.0] * 3, ["thing"], padding, flip)


def gather(batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def assert_same_pass(first, second) -> None:
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("side, padding, flip", [(32, 4, True), (5, 2, True), (6, 1, False), (4, 0, True)])
def test_augmentation_is_that_of_torchvision(side, padding, flip):
    data = make_data(30, side, padding, flip)
    draws = generator(3, "shuffle", 0, 1)
    order = torch.randperm(30, generator=draws)
    offsets = torch.randint(0, 2 * padding + 1, (30, 2), generator=draws)
    coins = torch.randint(0, 2, (30,), generator=draws)
    expected = []
    for index, (top, left), coin in zip(order.tolist(), offsets.tolist(), coins.tolist(), strict=True):
        image = vision.pad(data.train.images[index].permute(2, 0, 1), [padding])
        image = vision.crop(image, top, left, side, side)
        expected.append(vision.hflip(image) if coin and flip else image)
    images, labels = gather(data.train_batches(8, 3, "shuffle", 0, 1))
    assert torch.equal(images, torch.stack(expected).float().div(255))
    assert torch.equal(labels, order)


@pytest.mark.parametrize("side, fitting", [(8, 500), (32, 500), (64, 125), (100, 51)])
def test_of_larger_images_fewer_are_scored_at_once(side, fitting):
    images, labels = next(make_data(510, side).eval_batches("train"))
    assert len(images) == len(labels) == fitting


def classes_of(train: list[int], val: list[int], test: list[int]) -> ImageData:
    parts = [
        Split(torch.zeros(len(labels), 8, 8, 3, dtype=torch.uint8), torch.tensor(labels))
        for labels in (train, val, test)
    ]
    return ImageData(*parts, [0.0] * 3, [1.0] * 3, [*"abcdefghij"], 1, False)


@pytest.mark.parametrize(
    "train, val, test, words",
    [
        ([0, 0, 1, 1, 2, 2, 3, 3], [4, 4, 4], [*range(5)], "are of 1 of 5 classes: are the images sorted"),
        ([0, 1, 2, 3] * 9, [3] * 4, [*range(4)], "are of 1 of 4 classes"),
        ([0] * 20 + [1] * 5, [1] * 10, [0, 1], "are of 1 of 2 classes"),
        ([0, 1] * 20, [1] * 4, [0, 1], None),
        ([0, 1, 2] * 9, [0, 1, 2, 4], [5], "no training image is of e, f: accuracies"),
        ([0] * 9, [0, 0], [*range(1, 8)], "of b, c, d, e, f, …:"),
        ([*range(8)] * 2, [3, 3], [0], None),  # two of one class are chance
        ([*range(10)] * 9, [0, 1, 2, 3, 4, 5, 5, 5, 5, 5], [0], None),
    ],
)
def test_odd_classes_are_told(train, val, test, words):
    doubt = doubt_about_classes(classes_of(train, val, test))
    assert doubt is None if words is None else words in doubt


def test_images_sorted_by_class_are_warned_of(tmp_path, capfd):
    labels = np.arange(40) // 10
    images = np.zeros((40, 8, 8), np.uint8)
    np.savez(tmp_path / "sorted.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    args = Lottery_pools.build_parser().parse_args(["--dataset", "npz", "--data", str(tmp_path / "sorted.npz")])
    data_from_flags(args, torch.device("cpu"))
    line = capfd.readouterr().err
    assert line.startswith("warning: the 4 validation images") and line.count("\n") == 1
    data_from_flags(args, torch.device("cpu"), validates=False)
    assert not capfd.readouterr().err, "nothing is chosen"


def test_batches_are_channels_last_and_the_last_one_is_kept():
    data = make_data(30)
    batches = list(data.train_batches(8, 0))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 6]
    assert data.train_batch_count(8) == 4
    for images, labels in batches:
        assert images.shape == (len(labels), 3, 8, 8)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_purpose_alone_decides_the_batches():
    data = make_data()
    first = list(data.train_batches(8, 1, "epoch", 4))
    torch.manual_seed(5)
    assert_same_pass(first, data.train_batches(8, 1, "epoch", 4))
    assert torch.equal(gather(first)[0], gather(data.train_batches(30, 1, "epoch", 4))[0])
    assert not torch.equal(gather(first)[1], gather(data.train_batches(8, 1, "epoch", 5))[1])


def test_a_pass_that_is_asked_for_again_and_by_many_threads_is_drawn_once(monkeypatch):
    data, calls = make_data(), []

    def noted(function):
        def run(*args):
            calls.append((function.__name__, *args))
            time.sleep(0.02)
            return function(*args)

        return run

    def batches(limit: int = 0, level: int = 0):
        return [*data.train_batches(8, 1, "recalibrate", level, limit=limit)]

    expected = batches()
    data = make_data()
    monkeypatch.setattr(dataset, "generator", noted(dataset.generator))
    monkeypatch.setattr(torch.nn.functional, "pad", noted(torch.nn.functional.pad))
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: batches(), range(4)):
            assert_same_pass(found, expected)
    assert sorted(name for name, *_ in calls) == ["generator", "pad"]
    assert len(batches(limit=8)) == 1 and len(batches(level=1)) == 4
    assert_same_pass(batches(), expected)
    drawn = [purpose for name, *purpose in calls if name == "generator"]
    assert drawn == [[1, "recalibrate", level] for level in (0, 0, 1, 0)]


@pytest.mark.parametrize("limit, count, batches", [(0, 30, 4), (1, 1, 1), (8, 8, 1), (9, 9, 2), (99, 30, 4)])
def test_limit_keeps_the_first_of_the_same_shuffled_images(limit, count, batches):
    data = make_data()
    images, labels = gather(data.train_batches(8, 2, limit=limit))
    all_images, all_labels = gather(data.train_batches(8, 2))
    assert torch.equal(images, all_images[:count])
    assert torch.equal(labels, all_labels[:count])
    assert len(list(data.train_batches(8, 2, limit=limit))) == batches
    assert data.train_batch_count(8) == 4


def test_every_offset_and_both_directions_occur_equally_often():
    images = torch.zeros(9000, 5, 5, 3, dtype=torch.uint8)
    images[:, 2, 2] = 1  # one pixel in the middle shows how far a crop moved the image
    images[:, 2, 1] = 2  # and this one, on its left, whether it was mirrored
    split = Split(images, torch.arange(9000))
    data = ImageData(split, split, split, [0.0] * 3, [1.0] * 3, ["thing"], 1, True)
    crops = (gather(data.train_batches(1000, "offsets"))[0] * 255).round().long()[:, 0]
    middle, left = (crops == 1).flatten(1).long().argmax(1), (crops == 2).flatten(1).long().argmax(1)
    places, counts = torch.stack([middle, left]).unique(dim=1, return_counts=True)
    assert places.shape[1] == 9 * 2
    assert counts.min() > 400  # 500 expected, with a deviation of 22
    assert counts.max() < 600


def test_evaluation_keeps_order_and_every_byte():
    data = make_data()
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        images, labels = gather(data.eval_batches(name, batch_size=4))
        assert torch.equal((images * 255).round().byte().permute(0, 2, 3, 1), split.images)
        assert torch.equal(labels, split.labels)
    assert next(data.eval_batches("val"))[0].is_contiguous(memory_format=torch.channels_last)


def test_statistics_are_those_of_the_pixels():
    images = torch.randint(0, 256, (700, 3, 3, 3), dtype=torch.uint8, generator=generator("statistics"))
    images[..., 1] = 77
    mean, std = channel_statistics(images)
    pixels = images.double().div(255).reshape(-1, 3)
    expected = pixels.std(0, correction=0)
    expected[1] = 1.0
    assert mean == pytest.approx(pixels.mean(0).tolist(), rel=1e-12)
    assert std == pytest.approx(expected.tolist(), rel=1e-12)


def test_splits_and_limits(tmp_path):
    arrays = npz_arrays(train=40)
    path = write_npz(tmp_path, arrays)
    data = load_data("npz", path, "cpu", val_images=15, data_limit=30)
    assert (len(data.train), len(data.val), len(data.test)) == (15, 15, 6)
    assert np.array_equal(data.val.images, arrays["x_train"][15:30])
    assert (data.mean, data.std) == channel_statistics(torch.from_numpy(arrays["x_train"][:15]))
    data = load_data("npz", path, "cpu", data_limit=4)
    assert (len(data.train), len(data.val), len(data.test)) == (3, 1, 4)
    assert len(data.classes) == 4
    data = load_data("npz", path, "cpu", data_limit=1000)
    assert (len(data.train), len(data.val), len(data.test)) == (36, 4, 6)
    assert len(load_data("npz", path, "cpu", val_images=39).train) == 1


@pytest.mark.parametrize("val_images", [-1, 0, 40, 41])
def test_validation_leaves_something_to_train_on(tmp_path, val_images):
    path = write_npz(tmp_path, npz_arrays(train=40))
    assert_refused("npz", path, f"--val_images {val_images}", "1 to 39", val_images=val_images)


def test_impossible_limits_and_names(tmp_path):
    path = write_npz(tmp_path, npz_arrays())
    assert_refused("npz", path, "--data_limit", "at least 2", data_limit=1)
