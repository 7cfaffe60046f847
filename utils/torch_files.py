"""Whether a file that `torch.save` wrote may be loaded: a look at it that imports, calls and allocates nothing.

`torch.load(weights_only=True)` runs no foreign code, but believes what a file says of itself. It calls `bytearray` and
`torch.FloatTensor` with whatever number stands there, so that a hundred bytes take all memory; a key of tuples within
tuples ends the interpreter; checksums are not looked at, so that damaged bytes are taken for weights. So this module
first runs the file's pickle in an interpreter of its own, which knows the few operations that an honest file needs and
makes tensors without data (on the device "meta").
"""

import math
import os
import pickletools
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from utils.plain_data import PLAIN, refuse_odd

DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
CALLED = (
    *("collections OrderedDict", "collections Counter", "torch Size"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
)
ZIP_START, PICKLE_START = b"PK\x03\x04", b"\x80"
DOS_FOLDER = 0x10  # an attribute in a zip directory
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what files before torch 1.6 begin with
OTHER_FILE = "it is no file of torch.save"
MAX_OPERATIONS = 1_000_000  # of one pickle; a ResNet-200 with its optimizer needs 150,000
MAX_RECORDS = 100_000
MAX_DIMENSIONS = 16
ADVICE = "where you trust it, load it by torch.load(…, weights_only=False) and save its state_dict alone"
MAX_SHARING = 10  # so many times may the tensors of a file be named in it, on average


def check(file: BinaryIO) -> None:
    """Raise an exception that says what is wrong unless `file` holds tensors and plain data alone.

    The tensors may have MAX_SHARING times the bytes of the file, since some share their data.
    Plain data are dicts, lists, tuples, strings and numbers. The exceptions are ValueError, OSError, zipfile's and
    pickletools'.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(len(ZIP_START))
    file.seek(0)
    if not start.startswith((ZIP_START, PICKLE_START)):
        raise ValueError(OTHER_FILE)
    content = _look_at_zip(file, size) if start == ZIP_START else _look_at_old(file, size)
    refuse_odd(content, MAX_SHARING * size)


def _look_at_zip(file: BinaryIO, size: int) -> Any:
    """Torch's format since 1.6: a zip archive of the pickle and of one record for the data of each storage."""
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip archive, but none of torch.save (of .npz: export to .pt instead)")
        _check_records(archive, size)
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            _check_byte_order(archive.read(f"{folder}byteorder").decode())

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            record = archive.getinfo(f"{folder}data/{key}")
            if record.file_size != count * dtype.itemsize:
                raise ValueError(f"it claims {count} numbers of {dtype} in a record of {record.file_size} bytes")
            if dtype == torch.bool:
                _check_truth(archive.read(record))
            return torch.empty(count, dtype=dtype, device="meta")

        return _Reader(storage).read(pickletools.genops(archive.read(pickles[0])))


def _check_records(archive: zipfile.ZipFile, size: int) -> None:
    """Records of torch are stored as they are, so that together they are no larger than their file."""
    records = archive.infolist()
    if len(records) > MAX_RECORDS or len(set(archive.namelist())) < len(records):
        raise ValueError("it has too many records, or two of one name")
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise ValueError(f"its record {record.filename} is compressed, which torch.save does not do")
        if record.flag_bits & 1:
            raise ValueError(f"its record {record.filename} is encrypted")
        if record.is_dir() or record.external_attr & DOS_FOLDER:  # torch would not read it, and take what memory holds
            raise ValueError(f"its record {record.filename} is marked as a folder")
    if sum(record.file_size for record in records) > size:
        raise ValueError("its records are larger than the file")
    if damaged := archive.testzip():
        raise ValueError(f"the checksum of its record {damaged} is wrong")


def _look_at_old(file: BinaryIO, size: int) -> Any:
    """Torch's format before 1.6: five pickles in a row, then the data of each storage. It has no checksums."""
    if _read_head(file) != OLD_MAGIC or _read_head(file) != OLD_PROTOCOL:
        raise ValueError(OTHER_FILE)
    _check_byte_order("little" if _read_head(file)["little_endian"] is True else "big")
    storages: dict[str, Tensor] = {}
    room = size

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        nonlocal room
        room -= count * dtype.itemsize
        if room < 0:
            raise ValueError("its tensors are larger than the file")
        return storages.setdefault(key, torch.empty(count, dtype=dtype, device="meta"))

    content = _Reader(storage).read(pickletools.genops(file))
    keys = _read_head(file)
    if type(keys) is not list or sorted(keys) != sorted(storages):
        raise ValueError("it does not hold the data of all its tensors")
    for key in keys:
        if int.from_bytes(file.read(8), "little") != len(storages[key]):
            raise ValueError("it claims another number of weights than it holds")
        _skip(file, storages[key])
    return content


def _read_head(file: BinaryIO) -> Any:
    """A pickle without tensors."""
    return _Reader(None).read(pickletools.genops(file))


def _check_byte_order(order: str) -> None:
    if order != sys.byteorder:
        raise ValueError(f"it was written on a machine of the byte order {order}, this one is {sys.byteorder}")


def _skip(file: BinaryIO, values: Tensor) -> None:
    """Go over the data of `values`."""
    if values.dtype == torch.bool:
        _check_truth(file.read(len(values)))
    elif file.seek(values.nbytes, os.SEEK_CUR) > os.fstat(file.fileno()).st_size:
        raise ValueError("it is cut short")


def _check_truth(content: bytes) -> None:
    if content.strip(b"\0\1"):
        raise ValueError("it holds truth values that are neither 0 nor 1")


class _Name(str):
    """A name that a pickle would import: here it is only compared."""


@dataclass(frozen=True)
class _Storage:
    """Where the numbers of one or several tensors would be."""

    values: Tensor


class _Reader:
    """Carries out the operations of one pickle as `torch.save` writes it, and refuses all others.

    `storage` finds or makes the data of a storage by its key, dtype and length. No operation copies what another has
    made, so that the result, shared parts counted once, is no larger than the pickle.
    """

    def __init__(self, storage: Callable[[str, torch.dtype, int], Tensor] | None):
        self.find_storage = storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def read(self, operations: Iterable[tuple]) -> Any:
        for count, (operation, argument, _) in enumerate(operations):
            if count > MAX_OPERATIONS:
                raise ValueError("it has more parts than any checkpoint")
            self._do(operation.name, argument)
        return self.stack.pop()

    def _do(self, operation: str, argument: Any) -> None:
        stack = self.stack
        match operation:
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._since(self.marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._since(len(stack) - int(operation[-1]))))
            case "APPEND" | "APPENDS":
                items = self._since(self.marks.pop() if operation == "APPENDS" else len(stack) - 1)
                _only(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                self._set(self._since(self.marks.pop() if operation == "SETITEMS" else len(stack) - 2))
            case "GLOBAL":
                stack.append(_known(argument))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_call(stack.pop(), arguments))
            case "BUILD":
                stack.pop()  # attributes of a state dict (versions of its modules), which loading it here does not need
                _only(dict, stack[-1])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[operation]())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "PROTO" | "STOP":
                pass
            case _:
                raise ValueError(f"it holds more than tensors and plain data (the operation {operation}); {ADVICE}")

    def _since(self, position: int) -> list:
        """What lies on the stack from `position` on, taken off."""
        taken = self.stack[position:]
        del self.stack[position:]
        return taken

    def _set(self, items: list) -> None:
        target = _only(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in PLAIN:  # tuples within tuples could take for ever to hash
                raise ValueError("it holds a dict whose keys are neither names nor numbers")
            target[key] = value

    def _storage(self, reference: object) -> _Storage:
        match reference:
            case ("storage", _Name() as kind, str() as key, _, count) | (
                "storage",
                _Name() as kind,
                str() as key,
                _,
                count,
                None,  # files before torch 1.6 have a sixth part, for views of storages that nobody saves any more
            ) if kind in DTYPES and _is_size(count):
                if key not in self.storages:
                    self.storages[key] = _Storage(self.find_storage(key, DTYPES[kind], count))
                if (found := self.storages[key].values).dtype == DTYPES[kind] and len(found) == count:
                    return self.storages[key]
        raise ValueError("it holds data of a kind that no checkpoint has")


def _known(name: str) -> _Name:
    if name not in CALLED and name not in DTYPES:
        raise ValueError(f"it is more than tensors and plain data: it names {name.replace(' ', '.')}; {ADVICE}")
    return _Name(name)


def _call(name: object, arguments: object) -> Any:
    """What calling `name`, one of CALLED, would make, or the like."""
    match _only(_Name, name), _only(tuple, arguments):
        case "collections OrderedDict", ():
            return {}
        case ("collections Counter", (dict() as content,)) | ("torch Size", (tuple() as content,)):
            return content
        case "torch._utils _rebuild_tensor_v2", (_Storage() as storage, offset, size, stride, _, _):
            return _view(storage.values, offset, size, stride)
        case "torch._utils _rebuild_parameter", (Tensor() as value, _, _):
            return value
    raise ValueError(f"it uses {name} in a way that torch.save does not")


def _view(values: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The tensor of that size among `values`, 1-D; it may not be larger than they are."""
    numbers = (*_only(tuple, size), *_only(tuple, stride), offset)
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS or not all(map(_is_size, numbers)):
        raise ValueError("it holds a tensor of no possible shape")
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > len(values) or (count and last >= len(values)):
        raise ValueError(f"it holds a tensor of shape {size} among {len(values)} numbers")
    return values.as_strided(size, stride, offset) if count else torch.empty(size, dtype=values.dtype, device="meta")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _only(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"it holds a {type(value).__name__} where a {kind.__name__} should be")
    return value
