import hashlib
import io
import multiprocessing
import pickle
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import SHARED, free_port
from script_runs import assert_refused, npz_arrays, write_npz

from CIFAR.dataset import CIFAR_STATISTICS, ImageData, channel_statistics, load_data

# -------------------------------------------------------------------------------------------------------------- digits


def test_digits():
    data = load_data("digits", None, "cpu")
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 144, 359)
    assert (data.side, data.padding, data.flip) == (8, 1, False)
    assert data.classes == [str(digit) for digit in range(10)]
    for split in (data.train, data.val, data.test):
        assert split.images.dtype == torch.uint8
        assert (split.images[..., :1] == split.images).all()
        shares = split.labels.bincount(minlength=10) / len(split)
        assert shares.min() > 0.04 and shares.max() < 0.16
    assert data.train.images.max() == 255
    assert sorted(data.train.images.unique().tolist()) == [round(value * 255 / 16) for value in range(17)]
    mean, std = channel_statistics(data.train.images)
    assert (data.mean, data.std) == (mean, std)


def test_digits_are_the_same_every_time_and_each_is_there_once():
    first, second = load_data("digits", None, "cpu"), load_data("digits", "ignored", "cpu", val_images=10)
    assert torch.equal(first.test.images, second.test.images)
    whole = torch.cat([first.train.images, first.val.images])
    assert torch.equal(whole, torch.cat([second.train.images, second.val.images]))
    from sklearn.datasets import load_digits

    pixels = torch.cat([whole, first.test.images])[..., 0].flatten(1).double().mul(16 / 255).round().long()
    rows = torch.cat([pixels, torch.cat([first.train.labels, first.val.labels, first.test.labels])[:, None]], 1)
    digits = load_digits()
    expected = np.column_stack([digits.data.astype(int), digits.target])
    assert sorted(rows.tolist()) == sorted(expected.tolist())


# ----------------------------------------------------------------------------------------------------------------- npz


def test_npz_round_trip(tmp_path):
    arrays = npz_arrays()
    path = write_npz(tmp_path, arrays | {"classes": np.array(["ant", "bee", "cat", "Öl", "unseen"])})
    data = load_data("npz", path, "cpu")
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 6)
    assert (data.side, data.padding, data.flip) == (16, 2, True)
    assert data.classes == ["ant", "bee", "cat", "Öl", "unseen"]
    assert np.array_equal(data.train.images, arrays["x_train"][:18])
    assert np.array_equal(data.val.images, arrays["x_train"][18:])
    assert np.array_equal(data.test.images, arrays["x_test"])
    assert np.array_equal(data.val.labels, arrays["y_train"][18:])
    assert data.test.labels.dtype == torch.int64
    assert (data.mean, data.std) == channel_statistics(data.train.images)
    assert not load_data("npz", str(path), "cpu", flip=False).flip


@pytest.mark.parametrize("channels", [None, 1])
def test_npz_gray_is_repeated(tmp_path, channels):
    arrays = npz_arrays(channels=channels, side=4)
    data = load_data("npz", write_npz(tmp_path, arrays), "cpu")
    assert data.classes == ["0", "1", "2", "3"]
    assert data.padding == 0
    for channel in range(3):
        assert np.array_equal(data.test.images[..., channel], arrays["x_test"].reshape(6, 4, 4))
    assert data.mean[0] == data.mean[1] == data.mean[2]
    assert len(list(data.train_batches(5, 0))) == 4


def test_npz_labels_of_other_integer_types_and_classes_only_in_test(tmp_path):
    arrays = npz_arrays()
    arrays["y_train"], arrays["y_test"] = arrays["y_train"].astype(">i2"), np.full(6, 7, dtype=np.uint64)
    data = load_data("npz", write_npz(tmp_path, arrays), "cpu")
    assert len(data.classes) == 8
    assert data.test.labels.tolist() == [7] * 6


def test_npz_in_fortran_order(tmp_path):
    arrays = npz_arrays()
    data = load_data("npz", write_npz(tmp_path, arrays | {"x_train": np.asfortranarray(arrays["x_train"])}), "cpu")
    assert data.train.images.is_contiguous()
    assert np.array_equal(data.train.images, arrays["x_train"][:18])


MALFORMED = {
    "image type": ("x_train", lambda a: a.astype(np.float32), "float32"),
    "image dimensions": ("x_test", lambda a: a[0, 0], "shape"),
    "flat images": ("x_train", lambda a: a.reshape(20, -1), "shape"),
    "channels": ("x_train", lambda a: a[..., :2], "shape"),
    "not square": ("x_test", lambda a: a[:, :8], "make them square"),
    "no training image": ("x_train", lambda a: a[:0], "holds no image"),
    "no test image": ("x_test", lambda a: a[:0], "holds no image"),
    "no pixel": ("x_train", lambda a: a[:, :0, :0], "holds no image"),
    "other size": ("x_test", lambda a: a[:, :8, :8], "different sides (16 and 8 pixels)"),
    "fewer labels": ("y_train", lambda a: a[:-1], "20 images"),
    "label columns": ("y_test", lambda a: a[:, None], "6 images"),
    "label type": ("y_train", lambda a: a.astype(np.float64), "float64"),
    "true or false": ("y_train", lambda a: a > 1, "bool"),
    "negative label": ("y_test", lambda a: a - 1, "label -1"),
    "absurd label": ("y_train", lambda a: a + 10**12, "need classes"),
    "objects": ("x_train", lambda a: np.array([None] * 20, dtype=object), "holds Python objects"),
    "object labels": ("y_test", lambda a: a.astype(object), "holds Python objects"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_npz_malformed(tmp_path, case):
    key, change, words = MALFORMED[case]
    arrays = npz_arrays()
    path = write_npz(tmp_path, arrays | {key: change(arrays[key])})
    assert_refused("npz", path, str(path), key, words)


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_npz_without_a_key(tmp_path, key):
    arrays = npz_arrays()
    del arrays[key]
    path = write_npz(tmp_path, arrays)
    assert_refused("npz", path, f"{path}: has no {key}")


@pytest.mark.parametrize(
    "classes, words",
    [
        (np.array(["ant", "bee", "cat"]), "label 3, but classes names 3"),
        (np.array([1, 2, 3, 4]), "list of strings"),
        (np.array([["ant", "bee"], ["cat", "dog"]]), "list of strings"),
        (np.frombuffer(b"\xff" * 16, "<U1"), "classes is damaged"),
        (np.zeros(100_001, "<U1"), "100001 names"),
        (np.array(["ant", None, "cat", "dog"], dtype=object), "holds Python objects"),
    ],
)
def test_npz_with_wrong_classes(tmp_path, classes, words):
    path = write_npz(tmp_path, npz_arrays() | {"classes": classes})
    assert_refused("npz", path, str(path), words)


def test_npz_that_is_something_else(tmp_path):
    assert_refused("npz", tmp_path / "missing.npz", "missing.npz", "No such file", "--data")
    assert_refused("npz", tmp_path, str(tmp_path), "directory", "--data")
    other = tmp_path / "other.npz"
    for content in (b"", b"some text", pickle.dumps([1, 2])):
        other.write_bytes(content)
        assert_refused("npz", other, str(other), "no .npz file", "--data")
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert_refused("npz", tmp_path / "one.npy", "one.npy", "no .npz file")
    torch.save({"x_train": torch.zeros(3)}, other)
    assert_refused("npz", other, str(other), "has no x_train")


def test_npz_truncated_or_damaged(tmp_path):
    path = write_npz(tmp_path, npz_arrays())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert_refused("npz", path, str(path), "only a part")
    damaged = bytearray(content)
    damaged[2000] ^= 1
    path.write_bytes(damaged)
    assert_refused("npz", path, str(path), "x_train cannot be read")


# --------------------------------------------------------------------------------------------------------------- CIFAR


def cifar_files(source: type, count: int) -> dict[str, bytes]:
    """File name → content, as CIFAR's authors wrote them, with `count` random images a file."""
    labels, numbers, files = ("labels" if source.__name__ == "CIFAR10" else "fine_labels"), np.random.default_rng(1), {}
    for name, _ in source.train_list + source.test_list:
        rows = numbers.integers(0, 256, (count, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": rows, labels: (np.arange(count) % 10).tolist()})
    files[source.meta["filename"]] = pickle.dumps({source.meta["key"]: [f"class {label}" for label in range(10)]})
    return files


def pack(folder: str, files: dict[str, bytes]) -> bytes:
    """A .tar.gz of `files` in `folder`."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, monkeypatch):
    """(dataset, torchvision's class, files, archive) of a small CIFAR, whose checksums torchvision now expects."""
    source = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[request.param]
    files = cifar_files(source, 12)
    archive = pack(source.base_folder, files)
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(source, attribute)]
        monkeypatch.setattr(source, attribute, [[name, md5(files[name])] for name in names])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(files[source.meta["filename"]])})
    monkeypatch.setattr(source, "tgz_md5", md5(archive))
    monkeypatch.setattr(source, "url", f"http://127.0.0.1:{free_port()}/{source.filename}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return request.param, source, files, archive


@pytest.fixture
def requests() -> list[str]:
    """The paths that the mirror has been asked for."""
    return []


@pytest.fixture
def mirror(tmp_path, requests):
    """(folder, address): what is put into the folder is served at the address, files called slow… with a pause."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

        def copyfile(self, source, outputfile):
            time.sleep(0.3 if "slow" in self.path else 0)
            super().copyfile(source, outputfile)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def unpack(folder: Path, source: type, files: dict[str, bytes]) -> Path:
    (folder / source.base_folder).mkdir(parents=True)
    for name, content in files.items():
        (folder / source.base_folder / name).write_bytes(content)
    return folder


def assert_is_cifar(data: ImageData, source: type, files: dict[str, bytes]) -> None:
    """`data` holds what `files` hold, with the last three training images for validation."""
    parts = [[pickle.loads(files[name])["data"] for name, _ in part] for part in (source.train_list, source.test_list)]
    train, test = (np.concatenate(rows).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for rows in parts)
    assert np.array_equal(torch.cat([data.train.images, data.val.images]), train)
    assert np.array_equal(data.test.images, test)
    assert data.train.images.is_contiguous()
    assert len(data.val) == 3
    assert data.test.labels.tolist() == [*range(10), 0, 1]
    assert data.classes == [f"class {label}" for label in range(10)]
    assert (data.side, data.padding) == (32, 4)


def test_cifar_from_an_unpacked_folder_needs_no_network(tmp_path, cifar):
    dataset, source, files, _ = cifar
    folder = unpack(tmp_path, source, files)
    data = load_data(dataset, folder, "cpu", val_images=3)
    assert_is_cifar(data, source, files)
    assert data.mean[0] == (0.4914 if dataset == "cifar10" else 0.5071)
    assert data.std[2] == (0.2616 if dataset == "cifar10" else 0.2762)
    assert data.flip and not load_data(dataset, folder, "cpu", val_images=3, flip=False).flip
    assert_is_cifar(load_data(dataset, folder / source.base_folder, "cpu", val_images=3), source, files)
    assert [*folder.iterdir()] == [folder / source.base_folder], "nor leave to write"
    assert len(load_data(dataset, folder, "cpu", data_limit=10).val) == 1
    assert_refused(dataset, folder, "--val_images 5000")


def test_cifar_from_an_archive_needs_no_network(tmp_path, cifar):
    dataset, source, files, archive = cifar
    (tmp_path / source.filename).write_bytes(archive)
    assert_is_cifar(load_data(dataset, tmp_path, "cpu", val_images=3), source, files)


def test_cifar_from_a_mirror(tmp_path, cifar, mirror):
    dataset, source, files, archive = cifar
    folder, address = mirror
    (folder / "copy.tar.gz").write_bytes(archive)
    data = load_data(dataset, tmp_path / "new" / "data", "cpu", val_images=3, data_url=f"{address}/copy.tar.gz")
    assert_is_cifar(data, source, files)
    assert (tmp_path / "new" / "data" / source.filename).read_bytes() == archive


def test_processes_that_all_miss_cifar_fetch_it_once(tmp_path, cifar, mirror, requests):
    dataset, source, files, archive = cifar
    folder, address = mirror
    (folder / "slow.tar.gz").write_bytes(archive)
    fork = multiprocessing.get_context("fork")

    def load(target: Path) -> None:
        torch.set_num_threads(1)  # a fork has none of its parent's other threads, which torch would wait for
        data = load_data(dataset, target, "cpu", val_images=3, data_url=f"{address}/slow.tar.gz")
        assert_is_cifar(data, source, files)

    def requests_of(count: int) -> int:
        requests.clear()
        processes = [fork.Process(target=load, args=[tmp_path / f"{count}"], daemon=True) for _ in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * count
        return len(requests)

    assert requests_of(3) == requests_of(1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda archive: b"no archive",
        lambda archive: archive[: len(archive) // 2],
        lambda archive: archive[:-20_000] + b"\xff" * 20_000,
    ],
)
def test_cifar_archive_that_cannot_be_unpacked(tmp_path, cifar, monkeypatch, damage):
    """Its checksum was right: somebody wrote to it since."""
    dataset, source, _, archive = cifar
    damaged = damage(archive)
    (tmp_path / source.filename).write_bytes(damaged)
    monkeypatch.setattr(source, "tgz_md5", md5(damaged))
    assert_refused(dataset, tmp_path, str(tmp_path), source.filename, "--data_url")


def test_cifar_mirror_with_another_archive(tmp_path, cifar, mirror):
    dataset, source, files, _ = cifar
    folder, address = mirror
    (folder / "copy.tar.gz").write_bytes(pack(source.base_folder, files | {"extra": b"not CIFAR"}))
    options = {"data_url": f"{address}/copy.tar.gz"}
    advice = (str(tmp_path), source.filename, source.base_folder, "--data_url")
    assert_refused(dataset, tmp_path, "checksum is wrong", options["data_url"], *advice, **options)
    assert not (tmp_path / source.base_folder).exists()
    assert_refused(dataset, tmp_path, "404", *advice, data_url=f"{address}/missing.tar.gz")


def test_cifar_out_of_reach(tmp_path, cifar):
    dataset, source, files, _ = cifar
    advice = (str(tmp_path), source.filename, source.base_folder, "--data_url")
    assert_refused(dataset, tmp_path, "Connection refused", source.url, *advice)
    unpack(tmp_path, source, files | {source.test_list[0][0]: b"damaged"})
    assert_refused(dataset, tmp_path, "Connection refused", *advice)
    (tmp_path / source.base_folder / source.test_list[0][0]).write_bytes(files[source.test_list[0][0]])
    (tmp_path / source.base_folder / source.meta["filename"]).write_bytes(b"damaged")
    assert_refused(dataset, tmp_path, "checksum is wrong", *advice)


def test_cifar_from_what_is_no_folder_or_address(tmp_path, cifar):
    dataset = cifar[0]
    (tmp_path / "file").write_text("")
    assert_refused(dataset, tmp_path / "file", "--data", "is a file")
    for address in ("file:///tmp/copy.tar.gz", "mirror.example/copy.tar.gz"):
        assert_refused(dataset, tmp_path, f"--data_url {address}", "http://", data_url=address)
    assert_refused(dataset, tmp_path, "--data_url", data_url="http://[::1/copy.tar.gz")


@pytest.mark.skipif(not (SHARED / "data/unpack.py").is_file(), reason="the shared CIFAR-100 is not here")
def test_real_cifar100_has_the_statistics_of_the_constants(tmp_path):
    command = [sys.executable, SHARED / "data/unpack.py", "cifar100", tmp_path / "set.npz", "--train", "5556"]
    subprocess.run([*command, "--test", "500"], check=True, capture_output=True)
    data = load_data("npz", tmp_path / "set.npz", "cpu")
    assert (len(data.train), len(data.val), len(data.test)) == (5000, 556, 500)
    assert (data.side, data.padding, len(data.classes), data.classes[0]) == (32, 4, 100, "apple")
    mean, std = CIFAR_STATISTICS["cifar100"]
    assert data.mean == pytest.approx(mean, abs=0.01)
    assert data.std == pytest.approx(std, abs=0.01)
