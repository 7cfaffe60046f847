import errno
import io
import os
import pickle
import stat
from pathlib import Path

import pytest
import torch

from utils import checkpoint
from utils.errors import UserError

CONTENT = {"state_dict": {"conv.weight": torch.arange(6.0).view(2, 3)}, "mask": {}, "epoch": 3, "notes": ["a", 0.5]}


class Bomb:
    """Writes a file when it is unpickled carelessly."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "code ran")


def saved(content: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


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


def test_text_is_no_checkpoint_whatever_it_begins_with(tmp_path):
    path = tmp_path / "notes.txt"
    for first in range(32, 127):  # a pickle's commands are letters, so each letter is misread in its own way
        path.write_text(f"{chr(first)}uite some notes.\n")
        with pytest.raises(UserError, match=r"notes\.txt"):
            checkpoint.load(path)


def test_older_format_cut_anywhere_is_named(tmp_path):
    path = tmp_path / "old.pt"
    whole = saved({"conv.weight": torch.ones(2, 2)}, _use_new_zipfile_serialization=False)
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"old\.pt"):
            checkpoint.load(path)


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.load_json])
def test_folder_and_missing_file_are_named(tmp_path, read):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=f"cannot read {path}: "):
            read(path)


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"pools": [}', b"\xff\xfe{}"])
def test_damaged_json_is_named(tmp_path, damaged):
    path = tmp_path / "pools.json"
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"pools\.json is damaged"):
        checkpoint.load_json(path)


def test_json_keeps_full_precision(tmp_path):
    checkpoint.save_json({"accuracy": 100 / 3}, tmp_path / "pools.json")
    assert checkpoint.load_json(tmp_path / "pools.json") == {"accuracy": 100 / 3}
