"""Photographs: what each process sees, what is kept decoded, which are left out, and what folders are refused."""

import errno
import os
from pathlib import Path

import pytest
import torch
from conftest import write_corrupted, write_photographs
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from ImageNet import main_imp
from ImageNet.corruptions import CorruptedFolders
from ImageNet.dataset import UNREADABLE, ImageFolders, Photographs
from ImageNet.flags import data_from_flags
from utils.distributed import SINGLE, Processes
from utils.errors import UserError
from utils.shared_memory import _allocate, _create


def rank(number: int, world_size: int) -> Processes:
    """A process as it sees itself; without a cache the images need no word from the others."""
    return Processes(number, world_size, number, world_size, torch.device("cpu"))


def images_of(folder: Path, processes: Processes = SINGLE, **options) -> ImageFolders:
    return ImageFolders(folder, processes, **{"image_size": 32, "resize": 36, "workers": 0, "cache_gb": 0, **options})


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The photographs that are decoded, one after the other."""
    found, read = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, **options: found.append(path) or read(path, **options))
    return found


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("split", ["val", "test"])
def test_processes_share_scored_images_without_padding_or_dropping(photographs, split, world_size):
    whole = torch.cat([images for images, _ in images_of(photographs).eval_batches(split)])
    parts = [images_of(photographs, rank(number, world_size)).eval_batches(split, 2) for number in range(world_size)]
    assert torch.equal(torch.cat([images for part in parts for images, _ in part]), whole)


def test_each_training_batch_is_shared_whatever_the_number_of_processes(photographs):
    whole = list(images_of(photographs).train_batches(16, 41, "train", 0, 0))
    parts = [list(images_of(photographs, rank(number, 3)).train_batches(16, 41, "train", 0, 0)) for number in range(3)]
    for batch, shared in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(batch[0], torch.cat([images for images, _ in shared]))
        assert torch.equal(batch[1], torch.cat([labels for _, labels in shared]))


def test_a_last_batch_smaller_than_the_processes_is_left_out(photographs):
    data = images_of(photographs, rank(2, 3))  # 60 images: the last batch would have 2
    sizes = [len(labels) for _, labels in data.train_batches(29, 41)]
    assert sizes == [10, 10] and data.train_batch_count(29) == 2


def test_fewer_images_than_processes_can_share_is_said(photographs):
    with pytest.raises(UserError, match=r"--data_limit.*--batch_size.*each of 40 processes needs two"):
        images_of(photographs, rank(0, 40)).train_batch_count(16)


def test_recalibration_batches_go_whole_to_one_process_each(photographs):
    whole = [images for images, _ in images_of(photographs).bn_batches(8, limit=44)]
    parts = [
        [images for images, _ in images_of(photographs, rank(number, 2)).bn_batches(8, limit=44)] for number in (0, 1)
    ]
    assert [len(images) for images in whole] == [8, 8, 8, 8, 8, 4]
    assert all(torch.equal(a, b) for a, b in zip(whole[0::2], parts[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[1::2], parts[1], strict=True))


def test_kept_images_are_the_decoded_ones_and_are_decoded_once(photographs, opened):
    kept, decoded = images_of(photographs, cache_gb=1), images_of(photographs)
    first, second, expected = (
        [*data.eval_batches("val"), *data.bn_batches(8, limit=20)] for data in (kept, kept, decoded)
    )
    assert len(opened) == 2 * (21 + 20)
    for batches in (first, second):
        for (images, labels), (others, other_labels) in zip(batches, expected, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, other_labels)


def test_only_batches_for_a_gpu_are_decoded_into_memory_that_it_reads(photographs):
    data = images_of(photographs, Processes(device=torch.device("cuda")))
    loaders = []
    decode = data._decode
    data._decode = lambda *args, **kwargs: loaders.append(decode(*args, **kwargs)) or loaders[-1]
    data.train_batches(16, 41)
    memory = torch.empty(21 * (8 + 3 * 32**2), dtype=torch.uint8)
    data._decode_into(memory, Photographs(data.samples["val"], 32, data._plain))
    assert [loader.pin_memory for loader in loaders] == [True, False]


def test_the_identity_of_images_is_that_of_runs_begun_earlier(photographs):
    assert images_of(photographs).identity["digest"] == "69134f5d15278d6219d7a925c475d0c0"


def count_validation(data: ImageFolders) -> int:
    return sum(len(labels) for _, labels in data.eval_batches("val"))


def test_no_room_for_kept_images_means_decoding_again_and_is_said_once(photographs, opened, capfd):
    data = images_of(photographs, cache_gb=1e-6)
    assert count_validation(data) == count_validation(data) == 21
    assert len(opened) == 2 * 21
    words = "decoded images do not fit into what --cache_gb 1e-06 leaves, so that every pass decodes them again"
    assert capfd.readouterr().err == f"val: 0.0 GB of {words}\n"
    assert count_validation(images_of(photographs, rank(1, 2), cache_gb=1e-6)) == 11
    assert count_validation(images_of(photographs, cache_gb=0)) == 21
    assert capfd.readouterr().err == "", "of another rank, or of a cache that nobody wants"


@pytest.fixture
def kept_here(monkeypatch, tmp_path) -> Path:
    """The folder of kept images."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr("utils.shared_memory._memory_folder", lambda size: folder)
    return folder


def test_a_full_file_system_means_decoding_again_and_is_said_once(photographs, kept_here, opened, monkeypatch, capfd):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = images_of(photographs, cache_gb=1.9e-4)  # 61 images
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full, raising=False)
        assert count_validation(data) == count_validation(data) == 21
    assert len(opened) == 2 * 21 and not any(kept_here.iterdir())
    for _ in range(2):
        list(data.bn_batches(16))
    assert len(opened) == 2 * 21 + 60, "all of the room is left"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"val: 0.0 GB of decoded images cannot be kept in {kept_here} (No space left on device), so")


def test_memory_that_is_not_there_is_missed_before_it_is_written_to(small_disk):
    file, _ = _create(small_disk / "images", 10**6)
    with file:
        assert "No space left on device" in _allocate(file, 10**6)


def test_more_images_than_the_memory_takes_are_not_kept(photographs, kept_here, opened, monkeypatch, capfd):
    # Val are 21, train 60, and a tenth must be left.
    monkeypatch.setattr("utils.shared_memory.free_memory", lambda: 63 * 3 * 32**2)
    data = images_of(photographs, cache_gb=1)
    for _ in range(2):
        assert count_validation(data) == 21
        list(data.bn_batches(16))
    assert len(opened) == 21 + 2 * 60 and not any(kept_here.iterdir())
    assert "decoded images do not fit into 0.0 GB of free memory, so that" in capfd.readouterr().err


def test_a_kill_while_memory_is_taken_leaves_no_file(photographs, kept_here, monkeypatch):
    there = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: there.extend(kept_here.iterdir()), raising=False)
    assert count_validation(images_of(photographs, cache_gb=1)) == 21
    assert not there


class Second(Processes):
    """One of two processes, of which the other has no room for kept images."""

    def gather_objects(self, value):
        values = ["cannot be kept there"] * 2
        values[self.rank] = value
        return values

    def broadcast_object(self, value):
        return value


@pytest.mark.parametrize("place", [(0, 2, 0, 1), (1, 2, 0, 1), (1, 2, 1, 2)], ids=["host 0", "host 1", "same host"])
def test_no_process_keeps_images_for_which_another_has_no_room(photographs, kept_here, opened, place, capfd):
    data = images_of(photographs, Second(*place, torch.device("cpu")), cache_gb=1)
    count = (10, 11)[place[0]]
    assert count_validation(data) == count_validation(data) == count
    assert len(opened) == 2 * count and not any(kept_here.iterdir())
    assert ("cannot be kept there" in capfd.readouterr().err) == data.processes.is_main


def test_images_of_recalibration_are_chosen_once_and_the_same_throughout_a_search(photographs, monkeypatch):
    data = images_of(photographs)
    first = [*data.bn_batches(8, 41, "recalibrate", 0, 1, limit=20)]
    monkeypatch.setattr(torch, "randperm", None)
    again = data.bn_batches(8, 41, "recalibrate", 2, 3, limit=20)
    for (images, labels), (others, other_labels) in zip(first, again, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)


def test_augmentation_does_not_depend_on_workers(photographs):
    alone = list(images_of(photographs).train_batches(16, 41, "train", 1, 2))
    helped = list(images_of(photographs, workers=2).train_batches(16, 41, "train", 1, 2))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(alone, helped, strict=True))


def test_unreadable_image_is_named_and_left_out(tmp_path, capfd):
    folder = write_photographs(tmp_path)
    broken = folder / "val" / "bee" / "3.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    data = images_of(folder, cache_gb=1)
    assert sum(len(labels) for _, labels in data.eval_batches("val")) == 20
    errors = capfd.readouterr().err
    assert str(broken) in errors and "val: 1 images left out of every pass" in errors
    assert sum(len(labels) for _, labels in data.eval_batches("val")) == 20
    assert capfd.readouterr().err == "", "a search passes over them thousands of times"


def test_training_goes_on_without_unreadable_images(tmp_path, capfd):
    folder = write_photographs(tmp_path)
    for number in (1, 2):
        (folder / "train" / "ant" / f"{number}.JPEG").write_bytes(b"no image")
    assert sum(len(labels) for _, labels in images_of(folder).train_batches(16, 41)) == 58
    assert "2 images left out" in capfd.readouterr().err


@pytest.mark.parametrize("cache_gb", [0, 1])
@pytest.mark.parametrize("split", ["val", "train"])
def test_a_split_without_a_readable_image_is_said(tmp_path, cache_gb, split, capfd):
    folder = write_photographs(tmp_path)
    for path in (folder / split).glob("*/*"):
        path.write_bytes(b"no image")
    data = images_of(folder, cache_gb=cache_gb)
    with pytest.raises(UserError, match=f"^{folder}: none of the images"):
        list(data.eval_batches("val") if split == "val" else data.bn_batches(16))


def test_a_batch_without_a_readable_image_is_skipped_when_images_are_scored(tmp_path, capfd):
    folder = write_photographs(tmp_path)
    for path in (folder / "val" / "bee").glob("*"):
        path.write_bytes(b"no image")
    data = images_of(folder)
    assert [len(labels) for _, labels in data.eval_batches("val", batch_size=7)] == [7, 7]


def test_training_stops_where_a_batch_has_no_readable_images(tmp_path, capfd):
    folder = write_photographs(tmp_path)
    for path in sorted((folder / "train").glob("*/*"))[1:]:
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=f"^{folder}: a training batch"):
        list(images_of(folder).train_batches(16, 41))


@pytest.mark.parametrize("spoilt", ["eps", "gif", "strip", "bomb", "empty", "text", "pipe"])
def test_only_photographs_of_the_listed_formats_and_of_sane_sizes_are_read(tmp_path, capfd, spoilt, monkeypatch):
    path, marker = tmp_path / "photograph\x1b[2J.JPEG", tmp_path / "marker"
    image = Image.new("RGB", (50_000, 1) if spoilt == "strip" else (60, 50))
    if spoilt == "pipe":
        os.mkfifo(path)
    elif spoilt in ("eps", "empty", "text"):
        program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n({marker}) (w) file\nshowpage\n"
        path.write_text({"eps": program, "empty": "", "text": "no image"}[spoilt])
    else:
        image.save(path, "GIF" if spoilt == "gif" else "PNG")
    if spoilt == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)  # 3,000 are a warning, which does not stop a program
    _, label = Photographs([(str(path), 3)], 32, lambda image: image)[0]
    (line,) = capfd.readouterr().err.splitlines()
    assert label == UNREADABLE and "photograph" in line and line.isprintable()
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP"])
def test_photographs_of_the_listed_formats_are_read_whatever_they_are_called(tmp_path, kind):
    Image.new("RGB", (60, 50), (200, 10, 10)).save(tmp_path / "photograph.JPEG", kind)
    _, label = Photographs([(str(tmp_path / "photograph.JPEG"), 3)], 32, lambda image: image)[0]
    assert label == 3


def test_without_test_folder_val_is_for_testing_and_train_gives_validation(tmp_path):
    data = images_of(write_photographs(tmp_path, {"train": 20, "val": 7}), val_images=12)
    assert data.sizes == {"train": 48, "val": 12, "test": 21}
    paths = [{path for path, _ in data.samples[split]} for split in ("train", "val")]
    assert not paths[0] & paths[1]
    assert images_of(tmp_path, val_images=12).samples == data.samples
    assert images_of(tmp_path).sizes == {"train": 54, "val": 6, "test": 21}


def test_fewer_images_are_taken_evenly_over_the_classes(photographs):
    for samples in images_of(photographs, data_limit=6).samples.values():
        assert [label for _, label in samples] == [0, 0, 1, 1, 2, 2]


def test_validation_images_are_not_counted_where_they_are_a_folder(tmp_path, capfd):
    folder = write_photographs(tmp_path, {"train": 20, "val": 7, "test": 5})
    args = main_imp.build_parser().parse_args([str(folder), "--val_images", "12", "-j", "0"])
    assert data_from_flags(args, SINGLE).sizes["val"] == 21
    assert capfd.readouterr().err == "warning: --val_images has no use where there is a test folder\n"


@pytest.mark.parametrize("missing", ["train", "val"])
def test_missing_folder(tmp_path, missing):
    folder = write_photographs(tmp_path, {split: 2 for split in ("train", "val") if split != missing})
    with pytest.raises(UserError, match=f"no folder {missing}"):
        images_of(folder)


def test_class_in_one_split_only(tmp_path):
    folder = write_photographs(tmp_path, {"train": 2, "val": 2})
    (folder / "val" / "dog").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "val" / "dog" / "0.JPEG")
    with pytest.raises(UserError, match="class dog is in only one of train and val"):
        images_of(folder)


@pytest.mark.parametrize("place", ["test", "test/images"], ids=["ImageNet", "Tiny ImageNet"])
def test_a_test_folder_without_labels_is_to_be_moved_away(tmp_path, place):
    folder = write_photographs(tmp_path, {"train": 2, "val": 2})
    (folder / place).mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(folder / place / "0.JPEG")
    with pytest.raises(UserError, match="move test away or rename it, and val is the test set"):
        images_of(folder)


@pytest.mark.parametrize(
    "flags, cores, workers", [([], 2, 2), ([], 8, 8), ([], 64, 16), (["-j", "32"], 2, 32), (["-j", "0"], 2, 0)]
)
def test_photographs_are_decoded_by_as_many_workers_as_there_are_cores_for(
    photographs, monkeypatch, flags, cores, workers
):
    monkeypatch.setattr("ImageNet.flags.cores_each", lambda local_world_size: cores if local_world_size == 8 else None)
    args = main_imp.build_parser().parse_args([str(photographs), *flags])
    assert data_from_flags(args, Processes(local_world_size=8)).workers == workers


@pytest.mark.parametrize("flags", [*(["--image_size", str(side)] for side in range(1, 9)), ["--resize", "224"], []])
def test_images_as_large_as_their_crops_are_not(photographs, flags):
    args = main_imp.build_parser().parse_args([str(photographs), "-j0", *flags])
    ((images, _),) = data_from_flags(args, SINGLE).eval_batches("val")
    assert images.amax(1).amin((0, 1)).min() > 0  # no row or column is black in all
    assert images.shape[-1] == args.image_size


def test_photographs_of_the_networks_size_are_taken_as_they_are(photographs, tmp_path):
    data = images_of(photographs)
    with Image.open(next((photographs / "test" / "ant").glob("*.JPEG"))) as image:
        image.crop((0, 0, 32, 32)).save(tmp_path / "exact.png")
        image.save(tmp_path / "larger.png")
        exact, larger = pil_to_tensor(image.crop((0, 0, 32, 32))), pil_to_tensor(data._plain(image))
    samples = [(str(tmp_path / name), 0) for name in ("exact.png", "larger.png")]
    ((images, _),) = data.other_batches("any", samples, 2)
    assert torch.equal((images * 255).round().byte(), torch.stack([exact, larger]))


def test_one_set_of_corrupted_photographs_is_kept_at_a_time(photographs, opened, tmp_path):
    data = images_of(photographs, cache_gb=7e-5)  # 22 images
    images = CorruptedFolders(write_corrupted(tmp_path / "corrupted", photographs), data)
    for severity, decoded in ((1, 21), (2, 42), (2, 42), (1, 63)):
        ((pixels, labels),) = images.batches("fog", severity, 100)
        assert len(opened) == decoded
        assert pixels.shape[0] == 21 and labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
