"""Files, written whole or not at all and read without running what is in them."""

import errno
import io
import json
import math
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from utils import torch_files
from utils.errors import UserError
from utils.plain_data import refuse_odd

NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MAX_DEFLATE = 1032  # no deflated byte stands for more
MEMORY_SHARE = 1 / 3  # images are kept beside a copy with borders, grey ones three times as large

TEMPORARY = ".tmp"  # how the names end under which files are written


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary file beside `path`, sync and rename it: a reader sees the old file or the new one.

    Raises UserError, and leaves what `path` held, when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY, delete=False
        ) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they wrote left behind. Nobody may be writing into `folder`."""
    for path in Path(folder).glob(f".*.????????{TEMPORARY}"):  # as tempfile names them: others' files are theirs
        path.unlink(missing_ok=True)


def _umask() -> int:
    """The process's umask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut: it is the folder that holds the name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(content: dict[str, Any], path: Path) -> None:
    """Write tensors, dicts, lists, strings and numbers as `torch.save` does."""

    def write(file: BinaryIO) -> None:
        # Through memory: on a full disk torch's own writer dies in a way that hides the reason.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        file.write(buffer.getbuffer())

    write_atomically(path, write)


def load(path: Path) -> Any:
    """Read a checkpoint onto the CPU as tensors and plain data; code in it is never run, whoever wrote it.

    Raises UserError when the file is missing, damaged (checksums are compared; a file that was saved without them is
    refused), no checkpoint at all, or when `torch_files.check` finds more in it.
    """
    try:
        _refuse_pipe(path)
        with Path(path).open("rb") as file, warnings.catch_warnings():
            torch_files.check(file)
            file.seek(0)
            warnings.simplefilter("ignore")  # torch warns of pickle versions, which have been looked at
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes fail wherever a reader stumbles over them
        raise UserError(f"cannot read {path}: {_first_line(error)}") from error


def _refuse_pipe(path: Path) -> None:
    """OSError for what is no file, but could be opened and waited for without end."""
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise OSError(errno.EINVAL, "it is no regular file")


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or ["damaged file"])[0]


def load_arrays(path: Path, names: Sequence[str] | None = None, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of these names (None: all) in an .npz file, those of `optional` where they are there.

    Python objects are refused.

    Raises UserError, too, when an array is damaged, is there twice or claims another size than the file holds, or when
    all together would not leave this machine enough memory to work with them.
    """
    path = Path(path)
    try:
        _refuse_pipe(path)
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise UserError(f"{path}: holds two arrays of one name")
            names = [*entries] if names is None else names
            for name in names:
                if name not in entries:
                    raise UserError(f"{path}: has no {name}; it should hold {', '.join(names)}")
            wanted = {name: entries[name] for name in (*names, *optional) if name in entries}
            _refuse_large(path, sum(entry.file_size for entry in wanted.values()))
            return {name: _load_array(path, archive, entry) for name, entry in wanted.items()}
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: is no .npz file, or only a part of one ({_first_line(error)})") from error
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError(f"{path}: cannot be read as an .npz file ({_first_line(error)})") from error


def open_array(path: Path) -> np.ndarray:
    """The array in an .npy file, left on disk until it is looked at; UserError where it is none of numbers."""
    try:
        _refuse_pipe(path)
        return np.lib.format.open_memmap(path, mode="r")  # which refuses Python objects
    except Exception as error:  # as above
        raise UserError(f"cannot read {path}: {_first_line(error)}") from error


def _refuse_large(path: Path, size: int) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > MEMORY_SHARE * memory:
        raise UserError(
            f"{path}: its arrays would take {size / 1e9:.1f} GB, more than {MEMORY_SHARE:.0%} of this machine's "
            f"{memory / 1e9:.1f} GB of memory"
        )


def _load_array(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    try:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in a way that numpy.savez does not use")
        if entry.file_size > MAX_DEFLATE * entry.compress_size + 1000:
            raise ValueError("it claims to hold more than its bytes can")
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            if version not in NPY_HEADERS:
                raise ValueError("it is no array of numbers or names")
            shape, _, dtype = NPY_HEADERS[version](file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, not numbers or strings")
            if math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
                raise ValueError(f"it claims the shape {shape}, which it does not hold")
        with archive.open(entry) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # as above
        name = entry.filename.removesuffix(".npy")
        raise UserError(f"{path}: {name} cannot be read ({_first_line(error)}); write the file again") from error


def save_json(content: Any, path: Path) -> None:
    write_text(json.dumps(content, indent=1) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """As UTF-8; bytes of file names that are not (Python's lone surrogates) are spelt out."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def load_json(path: Path) -> Any:
    """Read a JSON file; UserError when it is missing, damaged or nested without end."""
    try:
        _refuse_pipe(path)
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        refuse_odd(content)
        return content
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is damaged: {_first_line(error)}") from error
