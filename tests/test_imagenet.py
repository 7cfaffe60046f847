"""ImageNet's scripts on small photographs: what each process sees, and the same tickets and pools from one or two."""

import errno
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
import torch
from conftest import (
    IMAGENET,
    IMAGENET_IMP,
    IMAGENET_SEARCH,
    METHODS,
    OTHERS,
    SHARED,
    WITH_STARTS,
    in_one_process,
    write_photographs,
)
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import models
from ImageNet import Lottery_pools, evaluate, main_imp
from ImageNet.corruptions import CorruptedFolders
from ImageNet.dataset import UNREADABLE, ImageFolders, Photographs
from ImageNet.flags import data_from_flags
from utils import tickets
from utils.distributed import SINGLE, Processes
from utils.errors import UserError
from utils.evaluation import Evaluator
from utils.shared_memory import _allocate, _create


def rank(number: int, world_size: int) -> Processes:
    """A process as it sees itself; without a cache the images need no word from the others."""
    return Processes(number, world_size, number, world_size, torch.device("cpu"))


def images_of(folder: Path, processes: Processes = SINGLE, **options) -> ImageFolders:
    return ImageFolders(folder, processes, **{"image_size": 32, "resize": 36, "workers": 0, "cache_gb": 0, **options})


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


def test_kept_images_are_the_decoded_ones_and_are_decoded_once(photographs, monkeypatch):
    kept, decoded = images_of(photographs, cache_gb=1), images_of(photographs)
    for passes in range(2):
        for split in ("val", "bn"):
            batches = [
                data.bn_batches(8, limit=20) if split == "bn" else data.eval_batches(split) for data in (kept, decoded)
            ]
            for (images, labels), (others, other_labels) in zip(*batches, strict=True):
                assert torch.equal(images, others) and torch.equal(labels, other_labels)
        if passes == 0:
            monkeypatch.setattr(kept, "_decode", None)


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


def test_no_room_for_kept_images_means_decoding_again_and_is_said_once(photographs, capfd):
    data = images_of(photographs, cache_gb=1e-6)
    assert count_validation(data) == count_validation(data) == 21
    assert not data._memory
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


def test_a_full_file_system_means_decoding_again_and_is_said_once(photographs, kept_here, monkeypatch, capfd):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    data = images_of(photographs, cache_gb=1)
    room = data._room
    assert count_validation(data) == count_validation(data) == 21
    assert not data._memory and data._room == room and not any(kept_here.iterdir())
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"val: 0.0 GB of decoded images cannot be kept in {kept_here} (No space left on device), so")


def test_memory_that_is_not_there_is_missed_before_it_is_written_to(small_disk):
    file, _ = _create(small_disk / "images", 10**6)
    with file:
        assert "No space left on device" in _allocate(file, 10**6)


def test_more_images_than_the_memory_takes_are_not_kept(photographs, kept_here, monkeypatch, capfd):
    # Val are 21, train 60, and a tenth must be left.
    monkeypatch.setattr("utils.shared_memory.free_memory", lambda: 63 * 3 * 32**2)
    data = images_of(photographs, cache_gb=1)
    assert count_validation(data) == 21 and [*data._memory] == ["val"]
    list(data.bn_batches(16))
    assert [*data._memory] == ["val"] and not any(kept_here.iterdir())
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
def test_no_process_keeps_images_for_which_another_has_no_room(photographs, kept_here, place, capfd):
    data = images_of(photographs, Second(*place, torch.device("cpu")), cache_gb=1)
    assert count_validation(data) == (10, 11)[place[0]]
    assert not data._memory and not any(kept_here.iterdir())
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


def test_published_command_means_what_it_meant(photographs):
    command = (
        "--save_dir tickets data --interpolation_value_list 0.5 --seed 17 --master_port 8020 -j32 -p 500 "
        "--arch imagenet_resnet_18 --interpolate_method Lottery_pools"
    )
    args = Lottery_pools.build_parser().parse_args(command.split())
    assert (args.checkpoint, args.data, args.workers) == (Path("tickets"), Path("data"), 32)
    assert (args.arch, args.interpolation_value_list, args.seed) == ("imagenet_resnet_18", [0.5], 17)


def test_defaults_of_imp_are_the_papers():
    args = main_imp.build_parser().parse_args(["data"])
    assert (args.epochs, args.batch_size, args.lr, args.warmup, args.rewind_epoch) == (90, 1024, 0.4, 5, 5)
    assert (args.decreasing_lr, args.momentum, args.weight_decay) == ((30, 60, 80), 0.9, 1e-4)


@pytest.mark.parametrize("script", [main_imp, Lottery_pools, evaluate])
def test_images_smaller_than_their_crops_are_refused(fails, photographs, imagenet_tickets, tmp_path, script):
    arguments = {
        main_imp: [photographs, *IMAGENET_IMP, "--save_dir", tmp_path / "new"],
        Lottery_pools: ["--save_dir", imagenet_tickets, photographs, *IMAGENET, "--output_dir", tmp_path / "new"],
        evaluate: [imagenet_tickets, "--data", photographs, *IMAGENET, "--save_dir", tmp_path / "new"],
    }
    line = fails(script, *arguments[script], "--image_size", 32, "--resize", 31)
    assert "--resize 31" in line and "--image_size 32" in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("flags", [*(["--image_size", str(side)] for side in range(1, 9)), ["--resize", "224"], []])
def test_images_as_large_as_their_crops_are_not(photographs, flags):
    args = main_imp.build_parser().parse_args([str(photographs), "-j0", *flags])
    ((images, _),) = data_from_flags(args, SINGLE).eval_batches("val")
    assert images.amax(1).amin((0, 1)).min() > 0  # no row or column is black in all
    assert images.shape[-1] == args.image_size


def test_tickets_are_in_openlths_layout(imagenet_tickets, openlth_tickets):
    files = tickets.find_tickets(imagenet_tickets)
    assert [file.level for file in files] == [0, 1]
    theirs = openlth_tickets / "lottery_9f60a888b3adb730b60ee83ee1fc72c3" / "replicate_1" / "level_1" / "main"
    for ours, other in ((files[1].path, theirs / "model_ep3_it0.pth"), (files[1].mask_path, theirs / "mask.pth")):
        mine, yours = (torch.load(path, weights_only=True) for path in (ours, other))
        assert set(mine) == set(yours)
        assert {name: value.dtype for name, value in mine.items()} == {
            name: value.dtype for name, value in yours.items()
        }
    report = json.loads((imagenet_tickets / "level_1" / "main" / "sparsity_report.json").read_text())
    assert tickets.read_ticket(files[1]).kept == report["unpruned"] == report["total"] - round(0.2 * report["total"])


def test_ticket_is_the_last_model_of_its_level_and_zero_where_pruned(imagenet_tickets):
    record = torch.load(imagenet_tickets / "level_1" / "main" / "resume.pth.tar", weights_only=True)
    best = record["result"]["val_ta"].index(record["best_sa"]) + 2  # level 1 starts after epoch 1
    assert tickets.find_tickets(imagenet_tickets)[1].path.name == f"model_ep{best}_it0.pth"
    state, mask = (
        torch.load(path, weights_only=True)
        for path in (tickets.find_tickets(imagenet_tickets)[1].path, imagenet_tickets / "level_1/main/mask.pth")
    )
    assert all((state[name][part == 0] == 0).all() for name, part in mask.items())


def test_going_on_with_another_number_of_processes_says_so(photographs, imagenet_tickets, tmp_path, capsys):
    copy = tmp_path / "tickets"
    subprocess.run(["cp", "-r", str(imagenet_tickets), str(copy)], check=True)
    in_one_process(main_imp, photographs, *IMAGENET_IMP, "--pruning_times", 3, "--save_dir", copy)
    assert "not bit for bit" in capsys.readouterr().out
    assert [file.level for file in tickets.find_tickets(copy)] == [0, 1, 2]


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / tickets.POOLS_JSON).read_text())["pools"]


def test_one_and_two_processes_give_the_same_accuracies(imagenet_pools):
    for one, two in zip(entries(imagenet_pools / "one"), entries(imagenet_pools / "two"), strict=True):
        assert one == two


def test_starts_of_their_own_give_the_very_same_pools(imagenet_pools):
    assert entries(imagenet_pools / "starts") == entries(imagenet_pools / "one")
    for level in (0, 1):
        alone, shared = (
            torch.load(tickets.pool_path(imagenet_pools / name, level), weights_only=True)["state_dict"]
            for name in ("one", "starts")
        )
        assert all(torch.equal(alone[name], shared[name]) for name in alone)


@pytest.fixture(scope="module")
def others(imagenet) -> Path:
    """What else two processes can do with the tickets, each in a folder of its own."""
    return imagenet / "others"


@pytest.fixture(scope="module")
def alone(photographs, imagenet_tickets, tmp_path_factory) -> Callable[[str], list[dict]]:
    """The entries of one rival by one process."""
    folder = tmp_path_factory.mktemp("alone")

    @functools.cache
    def run(method: str) -> list[dict]:
        search = ["--save_dir", imagenet_tickets, photographs, *IMAGENET_SEARCH]
        in_one_process(Lottery_pools, *search, *OTHERS, method, "--output_dir", folder / method)
        return entries(folder / method)

    return run


def test_a_process_without_a_start_waits_for_the_others(others):
    assert [entry["level"] for entry in entries(others / "one start")] == [1]


def test_recalibrated_statistics_agree_to_rounding(imagenet_pools):
    for level in (0, 1):
        one, two = (
            torch.load(tickets.pool_path(imagenet_pools / name, level), weights_only=True)["state_dict"]
            for name in ("one", "two")
        )
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_rivals_over_two_processes(others, alone, method):
    """The same accuracies as one process; learned shares to rounding."""
    for one, two in zip(alone(method), entries(others / method), strict=True):
        shares = [{member["level"]: member["weight"] for member in entry["members"]} for entry in (one, two)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-5)
        assert {**one, "members": None} == {**two, "members": None}


@pytest.mark.parametrize("method", WITH_STARTS)
def test_rivals_with_a_start_each_give_the_same(others, alone, method):
    assert entries(others / f"{method} starts") == alone(method)


def test_connectivity_over_two_processes(photographs, imagenet_tickets, others, tmp_path):
    line = [*OTHERS, "linear_inter", "--interpolation_value_list", 0.5, "--output_dir", tmp_path]
    in_one_process(Lottery_pools, "--save_dir", imagenet_tickets, photographs, *IMAGENET_SEARCH, *line)
    (one,), (two,) = (
        json.loads((folder / tickets.CONNECTIVITY_JSON).read_text())["paths"] for folder in (tmp_path, others / "line")
    )
    assert two["coefficients"] == [0.0, 0.5, 1.0]
    assert one["test_accuracy"] == two["test_accuracy"]
    assert one["test_loss"] == pytest.approx(two["test_loss"], rel=1e-5)


def test_mistake_of_two_processes_is_one_line_and_status_2(imagenet):
    """What all the runs of `imagenet` said; it was built only if the last one, the mistake, had that status."""
    said = (imagenet / "mistake.txt").read_text()
    errors = [line for line in said.splitlines() if line.startswith("Lottery_pools.py: error:")]
    assert len(errors) == 1 and "is no --arch imagenet_resnet_34_4" in errors[0]
    assert "Traceback" not in said and not (imagenet / "mistake").exists()


def test_missing_level_is_said_and_pooled_without(photographs, imagenet_tickets, tmp_path, capsys):
    copy = tmp_path / "tickets"
    subprocess.run(["cp", "-r", str(imagenet_tickets), str(copy)], check=True)
    (copy / "level_1").rename(copy / "level_3")
    search = ["--save_dir", str(copy), str(photographs), *IMAGENET, "--bn_images", "40", "--output_dir", str(tmp_path)]
    Lottery_pools.main([*search, "--interpolation_value_list", "0.5"])
    assert "without level 1 2, for which there is no ticket" in capsys.readouterr().out
    assert [(entry["level"], entry["steps"][0]["candidate"]) for entry in entries(tmp_path)] == [(0, 3), (3, 0)]


def test_two_processes_recorded_what_one_measures(imagenet_tickets, imagenet_pools):
    """Batch-norm statistics of both went into the ticket that both scored."""
    for level in (0, 1):
        record = torch.load(imagenet_tickets / f"level_{level}" / "main" / "resume.pth.tar", weights_only=True)
        assert entries(imagenet_pools / "one")[level]["ticket_val_accuracy"] == record["best_sa"]


# What networks are worth


@pytest.fixture(scope="module")
def corrupted(imagenet) -> Path:
    """Corrupted photographs, as `write_corrupted` has them."""
    return imagenet / "corrupted"


def networks(folder: Path) -> list[dict]:
    return json.loads((folder / tickets.EVALUATION_JSON).read_text())["networks"]


@pytest.fixture(scope="module")
def evaluations(imagenet) -> dict[int, list[dict]]:
    """The networks of one evaluation, by one process and by two, which cannot share 21 images evenly."""
    return {processes: networks(imagenet / "evaluations" / str(processes)) for processes in (1, 2)}


def test_evaluation_agrees_with_what_the_search_recorded(evaluations, imagenet_pools):
    found = {(network["method"], network["level"]): network for network in evaluations[1]}
    assert len(found) == 4
    for entry in entries(imagenet_pools / "one"):
        ticket, pool = (found[method, entry["level"]] for method in ("ticket", "Lottery Pools (2 coefficients)"))
        assert ticket["accuracy"] == entry["ticket_test_accuracy"]
        assert pool["accuracy"] == entry["pool_test_accuracy"]
        assert pool["gain"] == pool["accuracy"] - ticket["accuracy"]
        assert pool["p_value"] <= 1


def test_evaluation_is_the_same_over_several_processes(evaluations):
    for one, two in zip(evaluations[1], evaluations[2], strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"bins", "nll", "ece", "brier"}:
            assert one[name] == two[name], name
        for name in ("nll", "ece", "brier"):
            assert one[name] == pytest.approx(two[name], rel=1e-5)


def test_corrupted_photographs_are_scored_by_corruption_and_severity(evaluations):
    for network in evaluations[1]:
        assert list(network["corruptions"]) == ["fog", "spatter"]
        assert network["corrupted_accuracy"] == mean(network["corruptions"]["fog"])
        assert len({*network["corruptions"]["spatter"]}) == 1


def test_photographs_of_the_networks_size_are_taken_as_they_are(photographs, tmp_path):
    data = images_of(photographs)
    with Image.open(next((photographs / "test" / "ant").glob("*.JPEG"))) as image:
        image.crop((0, 0, 32, 32)).save(tmp_path / "exact.png")
        image.save(tmp_path / "larger.png")
        exact, larger = pil_to_tensor(image.crop((0, 0, 32, 32))), pil_to_tensor(data._plain(image))
    samples = [(str(tmp_path / name), 0) for name in ("exact.png", "larger.png")]
    ((images, _),) = data.other_batches("any", samples, 2)
    assert torch.equal((images * 255).round().byte(), torch.stack([exact, larger]))


def test_one_set_of_corrupted_photographs_is_kept_at_a_time(photographs, corrupted, monkeypatch):
    data = images_of(photographs, cache_gb=1)
    images, room = CorruptedFolders(corrupted, data), data._room
    for severity in (1, 2, 2):
        ((first, labels),) = images.batches("fog", severity, 100)
        assert len(data._memory) == 1 and data._room == room - 21 * 3 * 32**2
    monkeypatch.setattr(data, "_decode", None)
    ((again, _),) = images.batches("fog", 2, 100)
    assert torch.equal(first, again) and labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7


def test_recorded_results_need_no_photographs(imagenet_pools, tmp_path, capsys):
    evaluate.main([str(imagenet_pools / "one"), "--save_dir", str(tmp_path)])
    assert "mean gain" in capsys.readouterr().out and (tmp_path / tickets.COMPARISON_CSV).exists()


@pytest.mark.parametrize(
    "damage, words",
    [
        (shutil.rmtree, ["no such folder"]),
        (lambda folder: [shutil.rmtree(folder / name) for name in ("fog", "spatter")], ["<corruption>"]),
        (lambda folder: shutil.rmtree(folder / "fog" / "4"), ["fog/4"]),
        (lambda folder: shutil.rmtree(folder / "fog" / "4" / "bee"), ["fog/4", "bee"]),
        (lambda folder: [path.unlink() for path in (folder / "fog/1/bee").iterdir()], ["fog/1", "bee"]),
    ],
)
def test_corrupted_folders_that_are_not_as_they_must_be(
    fails, photographs, imagenet_tickets, corrupted, tmp_path, damage, words
):
    folder = Path(shutil.copytree(corrupted, tmp_path / "corrupted"))
    damage(folder)
    images = ["--data", photographs, *IMAGENET, "--quiet"]
    line = fails(evaluate, imagenet_tickets, *images, "--corruptions", folder, "--save_dir", tmp_path / "out")
    for word in (str(folder), *words):
        assert word in line
    assert not (tmp_path / "out" / tickets.EVALUATION_JSON).exists()


def test_photographs_that_are_not_named(fails, imagenet_tickets):
    assert "train/" in fails(evaluate, imagenet_tickets, *IMAGENET)


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory) -> Path:
    """20 classes of Tiny ImageNet, on which the OpenLTH tickets were trained."""
    archive = SHARED / "data" / "tiny-imagenet-20.tar"
    if not archive.is_file():
        pytest.skip(f"Tiny ImageNet is not there: {archive}")
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run(["tar", "xf", str(archive), "-C", str(folder)], check=True)
    return folder / "tiny-imagenet-20"


@pytest.mark.parametrize("level", [0, 4])
def test_openlths_tickets_have_openlths_accuracy_to_the_image(openlth_tickets, tiny_imagenet, level):
    file = tickets.find_tickets(openlth_tickets)[level]
    logged = [line.split(",") for line in (file.path.parent / "logger").read_text().split()]
    theirs = [float(value) for name, _, value in logged if name == "test_accuracy"][-1]
    data = ImageFolders(tiny_imagenet, SINGLE, image_size=224, resize=256, workers=0, cache_gb=1)
    net = models.build("imagenet_resnet_18_8", 20, data.mean, data.std)
    evaluator = Evaluator("imagenet_resnet_18_8", [net], data, 250)
    ours = evaluator.validate(evaluator.read_ticket(file).state)
    assert ours.images == 1000 and ours.correct == round(1000 * theirs)
