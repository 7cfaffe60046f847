"""What a file may hold before anybody works with it: plain data of a known shape, no larger than its file."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

MAX_PARTS = 1_000_000  # values in a file; ten checkpoints of a ResNet-200 have as many
MAX_DEPTH = 50
PLAIN = (str, int, float, bool, type(None))
WHOLE_LIMIT = 10**9
MISSING = object()  # fits no shape

Schema = Callable[[Any], bool] | dict[str, "Schema"] | list["Schema"]


def refuse_odd(content: object, tensor_bytes: int = -1) -> None:
    """ValueError unless `content` is dicts, lists, tuples, strings, numbers and dense tensors, and can be walked.

    What stands in several places counts in each, as for a program that walks it: a tiny file can refer to its own parts
    so that they are without end. `tensor_bytes` is what all tensors may have together; below 0, there may be none.
    """
    waiting, seen = [(content, 0)], 1
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Tensor):
            tensor_bytes -= value.numel() * value.element_size()
            if tensor_bytes < 0:
                raise ValueError("its tensors are larger than the file")
            continue
        children = _children(value)
        seen += len(children)
        if seen > MAX_PARTS or (children and depth == MAX_DEPTH):
            raise ValueError("it is nested too deeply, or repeats itself without end")
        waiting.extend((child, depth + 1) for child in children)


def _children(value: object) -> list | tuple:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return value
    if type(value) not in PLAIN:
        raise ValueError(f"it holds a {type(value).__name__}, which is neither tensor nor plain data")
    return ()


def misfit(content: object, shape: Schema, name: str = "") -> str | None:
    """Which part of `content` is missing or is not as `shape` says (`pools[3].level`, say); None if all is well.

    A shape is a test, a dict of the names that must be there with the shape of each, or a list with the shape of its
    items. Names that the shape does not have are not looked at.
    """
    if isinstance(shape, dict) and isinstance(content, dict):
        parts = [(f"{name}.{key}" if name else key, content.get(key, MISSING), part) for key, part in shape.items()]
    elif isinstance(shape, list) and type(content) is list:
        parts = [(f"{name}[{index}]", item, shape[0]) for index, item in enumerate(content)]
    else:
        fits = callable(shape) and shape(content)
        return None if fits else name or "its content"
    return next(filter(None, (misfit(value, part, title) for title, value, part in parts)), None)


def is_whole(value: object) -> bool:
    """A whole number from 0 to WHOLE_LIMIT."""
    return type(value) is int and 0 <= value <= WHOLE_LIMIT


def is_number(value: object) -> bool:
    """A finite number."""
    return type(value) in (int, float) and abs(value) < 1e100


def is_share(value: object) -> bool:
    """A number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def is_percent(value: object) -> bool:
    """A number from 0 to 100."""
    return is_number(value) and 0 <= value <= 100


def is_bool(value: object) -> bool:
    return type(value) is bool


def is_text(value: object) -> bool:
    return type(value) is str


def is_dict(value: object) -> bool:
    return isinstance(value, dict)


def is_state(value: object) -> bool:
    """Named tensors without NaN or infinity."""
    return isinstance(value, dict) and all(
        type(name) is str and isinstance(part, Tensor) and bool(part.isfinite().all()) for name, part in value.items()
    )


def is_shares(value: object) -> bool:
    """The share that each of several levels has."""
    return isinstance(value, dict) and all(map(is_whole, value)) and all(map(is_share, value.values()))


def is_plain(value: object) -> bool:
    """Whether it holds no tensor, so that it can be compared, printed and written as JSON."""
    try:
        refuse_odd(value)
    except ValueError:
        return False
    return True
