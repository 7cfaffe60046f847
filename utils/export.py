"""Tickets and pools for programs that know nothing of this one: plain state dicts, dense or sparse."""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from utils import checkpoint, report, tickets
from utils.errors import UserError
from utils.plain_data import is_whole
from utils.pruning import State
from utils.tickets import TicketFile


def export(source: Path, target: Path) -> report.Table:
    """Write the network in `source` (a ticket or a pool) to `target`, in the form that its ending names; FORMATS.

    Names are plain and pruned weights are zeros. Returns a table of sizes. UserError for another ending, and where
    `target` is `source`, which holds more than this writes, or is there and is an .npz file of something else or a
    run's rewind point.
    """
    write = FORMATS.get(target.suffix)
    if write is None:
        raise UserError(f"{target} ends in none of {', '.join(FORMATS)}: the ending says what is written")
    if target.exists() and target.resolve() == source.resolve():
        raise UserError(f"{target} would be written over itself: name another file")
    if target.exists() and not _may_be_replaced(target):
        raise UserError(f"{target} is there and was not exported: name another file, or move it away")
    file = tickets.ticket_of_file(source) or TicketFile(0, source)
    state = tickets.read_ticket(file).state
    write(state, target)
    return _size_table(state, source, target)


def _may_be_replaced(path: Path) -> bool:
    """Whether an earlier export may have written `path`, and not somebody's images or the weights that a run needs."""
    if tickets.is_rewind_point(path):
        return False
    if path.suffix != ".npz":
        return True
    with contextlib.suppress(UserError):
        return bool(read_sparse(path))
    return False


def _size_table(state: State, source: Path, target: Path) -> report.Table:
    numbers = sum(value.numel() for value in state.values())
    zeros = sum(int((value == 0).sum()) for value in state.values())
    dense = sum(value.nbytes for value in state.values())
    content = f"its {numbers:,} numbers, {zeros:,} of them zero"
    sizes = ((str(source), source.stat().st_size), (content, dense), (str(target), target.stat().st_size))
    return ("bytes", "% of dense", "what"), [(f"{size:,}", f"{100 * size / dense:.1f}", name) for name, size in sizes]


def write_sparse(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a state dict as an .npz file, bit for bit: of a tensor with many zeros what is not zero, and where.

    Such a tensor NAME is in three arrays, which deflate compresses: `values/NAME`, in the order of its elements;
    `bits/NAME`, a bit for each element, the first in the highest bit of a byte (`numpy.packbits`); `shape/NAME`.
    Another is in `dense/NAME`. A -0.0 counts as a value.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, value in state.items():
        try:
            dense = value.detach().cpu().contiguous().numpy()
        except TypeError as error:
            raise UserError(f"{path}: {name} is {value.dtype}, which NumPy does not know: write .pt") from error
        kept = (dense != 0) | np.signbit(dense)  # -0.0 too
        values, bits = dense[kept], np.packbits(kept)
        if values.nbytes + bits.nbytes < dense.nbytes:
            arrays |= {f"values/{name}": values, f"bits/{name}": bits, f"shape/{name}": np.array(dense.shape, np.int64)}
        else:
            arrays[f"dense/{name}"] = dense
    checkpoint.write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def read_sparse(path: Path) -> State:
    """The state dict that `write_sparse` wrote, the same tensors bit for bit; UserError where the file is damaged."""
    arrays, state = checkpoint.load_arrays(path), {}
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        if kind == "dense":
            state[name] = _tensor(path, name, array)
        elif kind == "values":
            state[name] = _tensor(path, name, _dense(path, name, arrays))
        elif kind not in ("bits", "shape") or f"values/{name}" not in arrays:
            raise UserError(f"{path} holds no sparse network, or a part of one: {key} belongs to nothing")
    return state


def _tensor(path: Path, name: str, array: np.ndarray) -> torch.Tensor:
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {name} is {array.dtype}, which no tensor is") from error


def _dense(path: Path, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    values, bits, shape = (arrays.get(f"{kind}/{name}") for kind in ("values", "bits", "shape"))
    if bits is None or shape is None or not (values.ndim == bits.ndim == shape.ndim == 1 and bits.dtype == np.uint8):
        raise UserError(f"{path} is damaged: values/{name}, bits/{name} or shape/{name} is missing or odd")
    sizes = shape.tolist()
    if not all(map(is_whole, sizes)):
        raise UserError(f"{path} is damaged: shape/{name} is none")
    kept, size = np.unpackbits(bits).astype(bool), math.prod(sizes)
    if not 0 <= len(kept) - size < 8 or kept[size:].any() or kept.sum() != len(values):
        raise UserError(f"{path} is damaged: bits/{name} does not fit shape/{name} and values/{name}")
    dense = np.zeros(size, values.dtype)
    dense[kept[:size]] = values
    return dense.reshape(sizes)


def _write_safetensors(state: State, path: Path) -> None:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UserError(f"{path}: safetensors is not installed: pip install safetensors, or write .pt") from error
    content = save({name: value.contiguous().clone() for name, value in state.items()})  # it takes no shared memory
    checkpoint.write_atomically(path, lambda file: file.write(content))


FORMATS: dict[str, Callable[[State, Path], None]] = {
    ".pt": checkpoint.save,
    ".safetensors": _write_safetensors,
    ".npz": write_sparse,
}
