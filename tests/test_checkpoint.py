import argparse
import errno
import io
import os
import pickle
import stat
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Bomb
from mutations import saved
from torch import nn

from utils import checkpoint
from utils.errors import UserError

CONTENT = {"state_dict": {"conv.weight": torch.arange(6.0).view(2, 3)}, "mask": {}, "epoch": 3, "notes": ["a", 0.5]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    checkpoint.save(CONTENT, tmp_path / "new" / "folder" / "file.pt")
    loaded = checkpoint.load(tmp_path / "new" / "folder" / "file.pt")
    weights = loaded["state_dict"].pop("conv.weight")
    assert torch.equal(weights, CONTENT["state_dict"]["conv.weight"])
    assert loaded == {**CONTENT, "state_dict": {}}


def test_saved_file_is_read_by_plain_torch(tmp_path):
    checkpoint.save(CONTENT, tmp_path / "file.pt")
    assert torch.load(tmp_path / "file.pt", weights_only=True)["notes"] == ["a", 0.5]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")])
def test_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.pt"
    path.write_bytes(b"old")

    def fail_halfway(file):
        file.write(b"half of the new ")
        file.flush()
        raise error

    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        checkpoint.write_atomically(path, fail_halfway)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.pt"]


def test_full_disk_is_told_with_the_files_name(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*file\.pt: No space left on device"):
        checkpoint.save(CONTENT, tmp_path / "file.pt")
    assert names(tmp_path) == []


def test_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        (temporary,) = {*names(tmp_path)} - {"file.pt"}
        assert temporary.startswith("."), "a listing of tickets must not find it"

    checkpoint.write_atomically(path, write)
    assert path.read_bytes() == b"new"


def test_file_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), sync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (events.append("rename"), replace(self, target)))
    checkpoint.write_text("text", tmp_path / "file.json")
    assert events == ["sync", "rename", "sync"], "the file, its name, the folder that holds the name"


def test_names_that_are_not_utf8_are_spelt_out(tmp_path):
    """In JSON they can be read again, and name the file."""
    name = os.fsdecode(b"caf\xe9")
    checkpoint.write_text(f"é {name}", tmp_path / "file.csv")
    assert (tmp_path / "file.csv").read_text(encoding="utf-8") == "é caf\\udce9"
    checkpoint.save_json({"path": name}, tmp_path / "file.json")
    assert checkpoint.load_json(tmp_path / "file.json") == {"path": name}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode, old):
    path = tmp_path / "file.json"
    if old:
        path.write_text("old")
    before = os.umask(umask)
    try:
        checkpoint.write_text("new", path)
        assert os.umask(umask) == umask, "the umask itself stays"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_path_below_a_regular_file_is_no_folder_to_write_into(tmp_path, inside):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*pools\.json"):
        checkpoint.save_json({}, tmp_path / "file" / inside / "pools.json")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("wrap", [pickle.dumps, saved, lambda bomb: saved(bomb, _use_new_zipfile_serialization=False)])
def test_code_in_a_file_is_refused_and_never_run(tmp_path, wrap, recwarn):
    path = tmp_path / "bomb.pt"
    path.write_bytes(wrap({"state_dict": Bomb(tmp_path / "marker")}))
    with pytest.raises(UserError, match=r"bomb\.pt"):
        checkpoint.load(path)
    assert names(tmp_path) == ["bomb.pt"]
    assert not recwarn.list, "a warning is a second line on standard error"


@pytest.mark.parametrize("more", [np.float64(71.5), argparse.Namespace(lr=0.1), nn.Conv2d(3, 4, 3), {1, 2}], ids=repr)
def test_what_honest_programs_save_beside_their_tensors_is_refused_with_a_way_out(tmp_path, more):
    path = tmp_path / "ticket.pt"
    torch.save({**CONTENT, "more": more}, path)
    with pytest.raises(UserError, match=r"ticket\.pt: .*weights_only=False\) and save its state_dict alone$"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"", id="empty"),
        pytest.param(saved(CONTENT)[:-200], id="zip cut at its end"),
        pytest.param(saved(CONTENT)[: len(saved(CONTENT)) // 2], id="zip cut in half"),
        pytest.param(saved(CONTENT)[:1], id="one byte"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="zip of nothing"),
        pytest.param(b"\x93NUMPY\x01\x00v\x00", id="another format"),
    ],
)
def test_damaged_file_is_named(tmp_path, damaged):
    path = tmp_path / "ticket.pt"
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"ticket\.pt"):
        checkpoint.load(path)


@pytest.mark.parametrize("start", [b"%PDF-1.4\n", b"\x89PNG\r\n\x1a\n", b"level,density\n", b"{", b"\x93NUMPY"])
def test_files_of_other_programs_are_told_from_checkpoints(tmp_path, start):
    """A shell's `pools/*` names pictures and tables too."""
    path = tmp_path / "other"
    path.write_bytes(start + bytes(200))
    with pytest.raises(UserError, match=r"other: it is no file of torch\.save$"):
        checkpoint.load(path)


def test_text_is_no_checkpoint_whatever_it_begins_with(tmp_path):
    path = tmp_path / "notes.txt"
    for first in range(32, 127):  # each is a command of a pickle, or none
        path.write_text(f"{chr(first)}uite some notes.\n")
        with pytest.raises(UserError, match=r"notes\.txt: it is no file of torch\.save$"):
            checkpoint.load(path)


def test_older_format_cut_anywhere_is_named(tmp_path):
    path = tmp_path / "old.pt"
    whole = saved({"conv.weight": torch.ones(2, 2)}, _use_new_zipfile_serialization=False)
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"old\.pt"):
            checkpoint.load(path)


# What torch.save writes and what else a file may say


def everything() -> dict:
    """All that checkpoints hold, and tensors laid out in every way."""
    torch.manual_seed(0)
    weights = torch.randn(4, 3, 5, 5)
    types = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
    return {
        "types": {str(kind): (10 * torch.randn(7)).to(kind) for kind in types},
        "mask": weights > 0,
        "shared": [weights, weights, weights[1:3], weights.view(-1)[::7]],
        "layouts": (weights.to(memory_format=torch.channels_last), weights.permute(3, 1, 0, 2), torch.tensor(3.5)),
        "empty": (torch.empty(0), torch.empty(3, 0, 2), {}, [], ()),
        "parameter": nn.Parameter(torch.ones(2)),
        "state_dict": nn.BatchNorm2d(3).state_dict(),
        "scheduler": {"milestones": Counter([3, 3, 5]), "gamma": 0.1, 1: None, None: True, 2.5: False},
        "numbers": [0, 255, 256, -1, 2**31, -(2**40), 10**50, 1e-300, float("inf")],
        "names": ["", "x" * 300, "é ☃ \U0001f600", "a\nb"],
        "size": torch.Size([2, 3]),
    }


def assert_same(first: object, second: object) -> None:
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
        assert first.stride() == second.stride()
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key, value in first.items():
            assert_same(value, second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for pair in zip(first, second, strict=True):
            assert_same(*pair)
    else:
        assert type(first) is type(second) and first == second


@pytest.mark.parametrize("new", [True, False])
def test_both_formats_of_torch_are_read_as_torch_reads_them(tmp_path, new):
    path = tmp_path / "file.pt"
    path.write_bytes(saved(everything(), _use_new_zipfile_serialization=new))
    assert_same(checkpoint.load(path), torch.load(path, weights_only=True))


def test_tensors_outlive_their_file(tmp_path):
    path = tmp_path / "file.pt"
    checkpoint.save(CONTENT, path)
    loaded = checkpoint.load(path)
    path.write_bytes(b"")
    assert torch.equal(loaded["state_dict"]["conv.weight"], CONTENT["state_dict"]["conv.weight"])


def test_a_flipped_bit_is_found_wherever_it_is_in_the_weights(tmp_path):
    path = tmp_path / "file.pt"
    weights = torch.arange(500.0)
    whole = saved({"w": weights})
    place = whole.index(weights.numpy().tobytes())
    for offset in range(0, 2000, 37):
        path.write_bytes(whole[: place + offset] + bytes([whole[place + offset] ^ 4]) + whole[place + offset + 1 :])
        assert not torch.equal(torch.load(path, weights_only=True)["w"], weights), "torch would take it for the weights"
        with pytest.raises(UserError, match=r"file\.pt.*checksum"):
            checkpoint.load(path)


def test_a_record_marked_as_a_folder_is_refused(tmp_path):
    """Torch does not read such a record, and takes for its weights whatever lies in memory."""
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.arange(500.0)}))) as whole, zipfile.ZipFile(path, "w") as marked:
        for record in whole.infolist():
            content = whole.read(record)
            record.external_attr |= 0x10 if record.filename.endswith("data/0") else 0
            marked.writestr(record, content)
    with pytest.raises(UserError, match=r"file\.pt.*marked as a folder"):
        checkpoint.load(path)


def test_a_file_saved_without_checksums_is_refused(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        checkpoint.save(CONTENT, tmp_path / "file.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with pytest.raises(UserError, match=r"file\.pt.*checksum"):
        checkpoint.load(tmp_path / "file.pt")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(torch.zeros(1).expand(10**6, 10**6), id="one number for a million millions"),
        pytest.param(torch.zeros(5).as_strided((3, 3), (1, 1)), id="numbers that overlap"),
        pytest.param(torch.zeros(3, 3).to_sparse(), id="sparse"),
        pytest.param(torch.empty(3, device="meta"), id="no data"),
        pytest.param(torch.zeros(3, dtype=torch.complex64), id="complex"),
        pytest.param(torch.zeros(3, dtype=torch.float8_e5m2), id="eight bits"),
        pytest.param(torch.zeros(3, dtype=torch.complex64).conj(), id="conjugate"),
        pytest.param(torch.zeros(3, dtype=torch.uint32), id="unsigned"),
        pytest.param({(1, 2): 3}, id="tuple for a name"),
        *({1, 2}, b"bytes", bytearray(3), 1j, torch.float32, torch.device("cpu")),
    ],
)
def test_what_no_checkpoint_holds_is_refused(tmp_path, content):
    path = tmp_path / "file.pt"
    torch.save({"odd": content}, path)
    with pytest.raises(UserError, match=r"file\.pt"):
        checkpoint.load(path)


def test_parts_that_repeat_without_end_are_refused(tmp_path):
    content = itself = []
    itself.append(itself)
    for _ in range(60):
        content = [content, content]
    for number, odd in enumerate((content, itself)):
        torch.save(odd, tmp_path / f"{number}.pt")
        with pytest.raises(UserError, match=rf"{number}\.pt.*without end"):
            checkpoint.load(tmp_path / f"{number}.pt")


def test_one_tensor_under_ever_so_many_names_is_refused(tmp_path):
    weights = torch.zeros(10_000)
    torch.save({str(number): weights for number in range(1000)}, tmp_path / "file.pt")
    with pytest.raises(UserError, match="larger than the file"):
        checkpoint.load(tmp_path / "file.pt")


@pytest.mark.parametrize(
    "read", [checkpoint.load, checkpoint.load_json, lambda path: checkpoint.load_arrays(path, ["x"])]
)
def test_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe.*no regular file"):
        read(tmp_path / "pipe")


# Other files


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.load_json])
def test_folder_and_missing_file_are_named(tmp_path, read):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=f"cannot read {path}: "):
            read(path)


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"pools": [}', b"\xff\xfe{}", b"[" * 10**5, b"[" * 70 + b"]" * 70])
def test_damaged_json_is_named(tmp_path, damaged):
    path = tmp_path / "pools.json"
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"pools\.json is damaged"):
        checkpoint.load_json(path)


def test_json_keeps_full_precision(tmp_path):
    checkpoint.save_json({"accuracy": 100 / 3}, tmp_path / "pools.json")
    assert checkpoint.load_json(tmp_path / "pools.json") == {"accuracy": 100 / 3}


def test_arrays_of_both_kinds_of_npz_are_read(tmp_path):
    arrays = {"x": np.arange(6, dtype=np.uint8).reshape(2, 3), "names": np.array(["ant", "bee"]), "more": np.float32(1)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "file.npz", **arrays)
        loaded = checkpoint.load_arrays(tmp_path / "file.npz", ["x"], ["names", "missing"])
        assert loaded.keys() == {"x", "names"}
        for name, value in loaded.items():
            assert value.dtype == arrays[name].dtype and np.array_equal(value, arrays[name])


def test_arrays_larger_than_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "file.npz", x=np.zeros(10**6, np.uint8))
    monkeypatch.setattr(checkpoint, "MEMORY_SHARE", 1e-7)
    monkeypatch.setattr(checkpoint, "_load_array", None)
    with pytest.raises(UserError, match=r"file\.npz.*GB"):
        checkpoint.load_arrays(tmp_path / "file.npz", ["x"])
