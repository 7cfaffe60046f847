"""Ways in which a file can be damaged, wrong or hostile.

Each takes random draws and the bytes of a good file and returns those of a bad one. The lists at the end say which kind
of file each is for.
"""

import io
import json
import math
import pickle
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Mutation = Callable[[random.Random, bytes], bytes]
TERABYTES = 10**13


# Bytes of any file


def truncate(draws: random.Random, data: bytes) -> bytes:
    return data[: draws.randrange(len(data))]


def cut_end(draws: random.Random, data: bytes) -> bytes:
    return data[: -draws.randrange(1, 200)]


def flip_bit(draws: random.Random, data: bytes) -> bytes:
    place = draws.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :]


def flip_many_bits(draws: random.Random, data: bytes) -> bytes:
    for _ in range(draws.randrange(2, 50)):
        data = flip_bit(draws, data)
    return data


def flip_bit_at_an_end(draws: random.Random, data: bytes) -> bytes:
    """Where formats keep their headers and directories."""
    edge = min(len(data), 2000)
    if draws.random() < 0.5:
        return flip_bit(draws, data[:edge]) + data[edge:]
    return data[:-edge] + flip_bit(draws, data[-edge:])


def overwrite_block(draws: random.Random, data: bytes) -> bytes:
    place = draws.randrange(len(data))
    block = draws.randbytes(draws.randrange(1, 500)) if draws.random() < 0.5 else bytes(draws.randrange(1, 500))
    return (data[:place] + block + data[place + len(block) :])[: len(data)]


def insert_bytes(draws: random.Random, data: bytes) -> bytes:
    place = draws.randrange(len(data))
    return data[:place] + draws.randbytes(draws.randrange(1, 100)) + data[place:]


def remove_bytes(draws: random.Random, data: bytes) -> bytes:
    place = draws.randrange(len(data))
    return data[:place] + data[place + draws.randrange(1, 100) :]


def append_bytes(draws: random.Random, data: bytes) -> bytes:
    return data + draws.randbytes(draws.randrange(1, 5000))


def nothing(draws: random.Random, data: bytes) -> bytes:
    return b""


def noise(draws: random.Random, data: bytes) -> bytes:
    return draws.randbytes(draws.randrange(1, 3000))


def text(draws: random.Random, data: bytes) -> bytes:
    return draws.choice(["no such thing\n", "\x1b[2J\x1b]0;title\x07", "{}", "cos\nsystem\n(S'true'\ntR."]).encode()


# Zip archives, which torch's files and .npz files are


def records_of(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def archive_of(records: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two records of one name are meant
        for name, content in records:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def remove_record(draws: random.Random, data: bytes) -> bytes:
    records = records_of(data)
    needed = [record for record in records if "/" not in record[0] or "/data" in record[0]]
    records.remove(draws.choice([record for record in needed if "serialization" not in record[0]]))
    return archive_of(records)


def duplicate_record(draws: random.Random, data: bytes) -> bytes:
    records = records_of(data)
    name, content = draws.choice(records)
    records.insert(draws.randrange(len(records)), (name, flip_bit(draws, content + b"0")))
    return archive_of(records)


def rename_record(draws: random.Random, data: bytes) -> bytes:
    records = records_of(data)
    place = draws.randrange(len(records))
    name = draws.choice(["../../../tmp/outside", "/etc/outside", "x" * 60_000, "a\x1b[31mred", "archive/data/99999"])
    return archive_of([*records[:place], (name, records[place][1]), *records[place + 1 :]])


def swap_record_names(draws: random.Random, data: bytes) -> bytes:
    """Records of different lengths under each other's names, all checksums right."""
    records = records_of(data)
    first, second = draws.sample(range(len(records)), 2)
    while len(records[first][1]) == len(records[second][1]):
        first, second = draws.sample(range(len(records)), 2)
    names = [name for name, _ in records]
    names[first], names[second] = names[second], names[first]
    return archive_of([(name, content) for name, (_, content) in zip(names, records, strict=True)])


def deflate_records(draws: random.Random, data: bytes) -> bytes:
    return archive_of(records_of(data), zipfile.ZIP_DEFLATED)


def claim_sizes(draws: random.Random, data: bytes) -> bytes:
    """The archive's directory says of a record that it is much larger than the file."""
    size = struct.pack("<I", draws.choice([2**32 - 2, 2**31, 10**9]))
    place = _random_entry(draws, data)
    return data[: place + 20] + 2 * size + data[place + 28 :]


def claim_encryption(draws: random.Random, data: bytes) -> bytes:
    place = _random_entry(draws, data)
    return data[: place + 8] + bytes([data[place + 8] | 1]) + data[place + 9 :]


def claim_compression(draws: random.Random, data: bytes) -> bytes:
    place = _random_entry(draws, data)
    return data[: place + 10] + struct.pack("<H", draws.choice([8, 12, 14, 99])) + data[place + 12 :]


def _random_entry(draws: random.Random, data: bytes) -> int:
    """Where an entry of the archive's directory begins."""
    places, place = [], data.find(b"PK\x01\x02", data.rfind(b"PK\x05\x06") - 200_000 if len(data) > 200_000 else 0)
    while place >= 0:
        places.append(place)
        place = data.find(b"PK\x01\x02", place + 46)
    return draws.choice(places)


# The pickle in torch's files


def with_pickle(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The file with another pickle in it, all checksums right."""
    return archive_of(
        [(name, change(content) if name.endswith("/data.pkl") else content) for name, content in records_of(data)]
    )


def flip_pickle(draws: random.Random, data: bytes) -> bytes:
    return with_pickle(data, lambda content: flip_bit(draws, content))


def cut_pickle(draws: random.Random, data: bytes) -> bytes:
    return with_pickle(data, lambda content: content[: draws.randrange(len(content))])


def protocol_five(draws: random.Random, data: bytes) -> bytes:
    """A pickle as torch does not write it."""
    return with_pickle(data, lambda content: pickle.dumps({"state_dict": {"conv.weight": 1}}, protocol=5))


def put_in_pickle(data: bytes, part: bytes) -> bytes:
    """The file with one more thing in its outermost dict, which `part` leaves on the stack."""
    return with_pickle(data, lambda content: content[:-1] + b"X\x01\x00\x00\x00!" + part + b"s.")


def replace_pickle(draws: random.Random, data: bytes, part: bytes) -> bytes:
    """`part` beside the good content or in its place."""
    if draws.random() < 0.5:
        return put_in_pickle(data, part)
    return with_pickle(data, lambda content: b"\x80\x02}X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00w" + part + b"ss.")


COMMAND = b"X\x10\x00\x00\x00touch /tmp/owned"
CALLS = (
    b"cposix\nsystem\n" + COMMAND + b"\x85R",
    b"cos\nsystem\n" + COMMAND + b"\x85R",
    b"csubprocess\nPopen\n" + COMMAND + b"\x85R",
    b"c__builtin__\neval\nX\x13\x00\x00\x00__import__('os').x()\x85R",
    b"c__builtin__\nexec\nX\x04\x00\x00\x00a=1\n\x85R",
    b"cbuiltins\ngetattr\ncos\nX\x06\x00\x00\x00system\x86R",
    b"cpathlib\nPath\nX\x0a\x00\x00\x00/tmp/owned\x85R",
    b"cnumpy.core.multiarray\nscalar\n)R",
    b"ctorch.hub\nload\nX\x01\x00\x00\x00a\x85R",
    b"cruntime\nsystem\n" + COMMAND + b"\x85\x81",  # NEWOBJ
    b"(X\x10\x00\x00\x00touch /tmp/ownedios\nsystem\n",  # INST
    b"(cos\nsystem\n" + COMMAND + b"o",  # OBJ
    b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93" + COMMAND + b"\x85R",  # STACK_GLOBAL
    b"\x82\x01",  # EXT1
    b"ccollections\nOrderedDict\n)R}X\x07\x00\x00\x00__class__cos\nsystem\nsb",  # BUILD
    b"ctorch._utils\n_rebuild_tensor_v2\ncos\nsystem\n" + COMMAND + b"\x85R\x85R",
)


def call_foreign_code(draws: random.Random, data: bytes) -> bytes:
    return replace_pickle(draws, data, draws.choice(CALLS))


def call_in_tensor(draws: random.Random, data: bytes) -> bytes:
    """Code among what the first tensor is made of: in place of its hooks, its shape or its storage."""
    call = draws.choice(CALLS)
    places = [b"ccollections\nOrderedDict\n", b"\x89", b"Q", b"ctorch\nFloatStorage\n"]
    return with_pickle(data, lambda content: content.replace(draws.choice(places), call, 1))


def big_number(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little")


ALLOCATIONS = (  # what torch.load(weights_only=True) calls with what follows
    *(b"ctorch._utils\n_rebuild_qtensor\n", b"ctorch._utils\n_rebuild_sparse_tensor\n"),
    *(b"c__builtin__\nbytearray\n", b"ctorch\nFloatTensor\n", b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n"),
    *(b"ctorch.storage\nUntypedStorage\n", b"ctorch.storage\nTypedStorage\n", b"ctorch\nFloatStorage\n"),
    *(b"ctorch.nn.parameter\nParameter\n", b"ctorch\nSize\n", b"ccollections\nCounter\n", b"ctorch\nTensor\n"),
)


def allocate_by_call(draws: random.Random, data: bytes) -> bytes:
    number = big_number(draws.choice([3 * 10**9, TERABYTES]))
    return replace_pickle(draws, data, draws.choice(ALLOCATIONS) + number + b"\x85" + draws.choice([b"R", b"\x81"]))


def claim_string(draws: random.Random, data: bytes) -> bytes:
    """Strings and memo places that would be gigabytes."""
    claims = (b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 7 + b"\x00", b"\x8b\xff\xff\xff\x7f", b"]r\xff\xff\xff\xff")
    return replace_pickle(draws, data, draws.choice(claims))


def repeat_without_end(draws: random.Random, data: bytes) -> bytes:
    """A list of twice a list of twice a list …: a few bytes that a program walks for ever."""
    nested = b"]"
    for memo in range(draws.randrange(25, 200)):
        nested = b"](" + nested + bytes([ord("q"), memo, ord("h"), memo]) + b"e"
    return replace_pickle(draws, data, nested)


def hold_itself(draws: random.Random, data: bytes) -> bytes:
    return replace_pickle(draws, data, draws.choice([b"]q\x00h\x00a", b"}q\x00X\x01\x00\x00\x00ah\x00s"]))


def nest_deeply(draws: random.Random, data: bytes) -> bytes:
    depth = draws.choice([100, 2000, 30_000])
    nested = draws.choice([b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth])
    return replace_pickle(draws, data, nested)


def nest_in_key(draws: random.Random, data: bytes) -> bytes:
    """Hashing such a key ends Python."""
    return replace_pickle(draws, data, b"})" + b"\x85" * draws.choice([5, 1000, 300_000]) + b"K\x01s")


def claim_storage(draws: random.Random, data: bytes) -> bytes:
    """A tensor whose storage should have more numbers than its record."""
    number = draws.choice([5_000_000, 2**31 - 1, TERABYTES])

    def change(content: bytes) -> bytes:
        place = content.find(b"tq", content.find(b"cpuq"))
        start = content.rfind(b"q", 0, place) + 2
        return content[:start] + big_number(number) + content[place:]

    return with_pickle(data, change)


# Tensors in torch's files


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def with_state(data: bytes, change: Callable[[dict[str, Tensor]], None]) -> bytes:
    """The checkpoint or state dict in `data` with its weights changed."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    change(content.get("state_dict", content))
    return saved(content)


def weight_name(draws: random.Random, state: dict[str, Tensor]) -> str:
    """What a ticket cannot do without; in a file of masks, any."""
    weights = [name for name, value in state.items() if value.is_floating_point() and "normalize" not in name]
    return draws.choice(weights or list(state))


def changes_weight(change: Callable[[random.Random, Tensor], Any]) -> Mutation:
    """A mutation that replaces one tensor of the state by what `change` makes of it."""

    def mutate(draws: random.Random, data: bytes) -> bytes:
        def replace(state: dict[str, Tensor]) -> None:
            name = weight_name(draws, state)
            state[name] = change(draws, state[name])

        return with_state(data, replace)

    mutate.__name__ = change.__name__
    return mutate


@changes_weight
def other_type(draws: random.Random, value: Tensor) -> Tensor:
    types = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e5m2, torch.uint16)
    return value.to(draws.choice(types))


@changes_weight
def double_precision(draws: random.Random, value: Tensor) -> Tensor:
    return value.double()


@changes_weight
def other_shape(draws: random.Random, value: Tensor) -> Tensor:
    return draws.choice(
        [value[None], value.flatten()[:-1], value.flatten()[:0], torch.cat([value, value]), value[..., None]]
    )


@changes_weight
def not_finite(draws: random.Random, value: Tensor) -> Tensor:
    # Everywhere: what a mask prunes may be anything.
    return torch.full_like(value, draws.choice([math.nan, math.inf, -math.inf]))


@changes_weight
def beyond_float32(draws: random.Random, value: Tensor) -> Tensor:
    return torch.full_like(value, 1e300, dtype=torch.float64)


@changes_weight
def giant_of_one_number(draws: random.Random, value: Tensor) -> Tensor:
    return torch.zeros(1).expand(*draws.choice([(10**6, 10**6), (10**9,), (1000, 1000, 1000, 1000)]))


@changes_weight
def giant_without_numbers(draws: random.Random, value: Tensor) -> Tensor:
    return torch.empty(draws.choice([(0, 10**9), (10**9, 0, 10**9)]))


@changes_weight
def sparse(draws: random.Random, value: Tensor) -> Tensor:
    giant = torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (10**6, 10**6), check_invariants=True)
    return draws.choice([value.to_sparse(), giant])


@changes_weight
def without_data(draws: random.Random, value: Tensor) -> Tensor:
    return torch.empty(draws.choice([tuple(value.shape), (10**6, 10**6)]), device="meta")


@changes_weight
def no_tensor(draws: random.Random, value: Tensor) -> Any:
    return draws.choice([None, 1.0, [1.0], "weight", {"a": value}, value.shape])


def drop_weight(draws: random.Random, data: bytes) -> bytes:
    return with_state(data, lambda state: state.pop(weight_name(draws, state)))


def add_weight(draws: random.Random, data: bytes) -> bytes:
    names = (
        "extra.weight",
        "x" * 10**6,
        "\x1b[2J\x07red",
        "a\nb",
        "",
        "\ud800",
        "..",
        "fc.weight_orig",
        "x_mask",
        5,
        None,
    )
    return with_state(data, lambda state: state.update({draws.choice(names): torch.ones(3, 3)}))


def rename_weight(draws: random.Random, data: bytes) -> bytes:
    def rename(state: dict[str, Tensor]) -> None:
        name = weight_name(draws, state)
        state[draws.choice([f"{name}_orig", f"{name}.x", name.upper(), "y" * 10**6])] = state.pop(name)

    return with_state(data, rename)


def empty_state(draws: random.Random, data: bytes) -> bytes:
    return with_state(data, dict.clear)


def wrap_state(draws: random.Random, data: bytes) -> bytes:
    content = torch.load(io.BytesIO(data), weights_only=True)
    state = content.get("state_dict", content)
    wrappers = ([state], (state,), {"state_dict": {"state_dict": state}}, {"state_dict": [state]}, {"model": state})
    return saved(draws.choice([*wrappers, torch.ones(3), "state", 5, None]))


def share_weights(draws: random.Random, data: bytes) -> bytes:
    """One tensor under a thousand names."""
    return with_state(
        data, lambda state: state.update(dict.fromkeys(map(str, range(1000)), max(state.values(), key=Tensor.numel)))
    )


# Masks: in a pruned ticket, or in a file of their own


def with_mask(data: bytes, change: Callable[[dict[str, Tensor], str], None], draws: random.Random) -> bytes:
    def change_one(state: dict[str, Tensor]) -> None:
        masks = [name for name in state if name.endswith("_mask")] or list(state)
        change(state, draws.choice(masks))

    return with_state(data, change_one)


def mask_value(draws: random.Random, data: bytes) -> bytes:
    value = draws.choice([0.5, 2, -1, math.nan, math.inf])

    def change(state: dict[str, Tensor], name: str) -> None:
        state[name] = state[name].float()
        state[name].view(-1)[draws.randrange(state[name].numel())] = value

    return with_mask(data, change, draws)


def mask_shape(draws: random.Random, data: bytes) -> bytes:
    def change(state: dict[str, Tensor], name: str) -> None:
        state[name] = draws.choice([state[name][None], state[name].flatten(), torch.ones(1).expand(10**6, 10**6)])

    return with_mask(data, change, draws)


def mask_of_nothing_prunable(draws: random.Random, data: bytes) -> bytes:
    suffix = "_mask" if b"_mask" in data else ""
    name, shape = draws.choice([("bn.weight", 4), ("fc.bias", 10), ("blocks.0.bn1.running_mean", 4), ("other", 3)])
    return with_state(data, lambda state: state.update({f"{name}{suffix}": torch.ones(shape)}))


def drop_mask(draws: random.Random, data: bytes) -> bytes:
    return with_mask(data, lambda state, name: state.pop(name), draws)


def mask_beside_plain_name(draws: random.Random, data: bytes) -> bytes:
    def change(state: dict[str, Tensor], name: str) -> None:
        plain = name.removesuffix("_mask")
        state[plain] = state[f"{plain}_orig"] + 1

    return with_mask(data, change, draws)


# Plain data: JSON, and what records hold beside tensors

ODD = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1.5,
        -0.5,
        10**9 + 1,
        10**100,
        1e308,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "x",
        "\x1b[2J",
    ),
    *("x" * 10**5, "\ud800", [], [[]], {}, [None], [1, "a"], {"a": None}, {"level": "one"}, [{}], "NaN", "1"),
)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a tree of dicts and lists."""
    found, waiting = [], [content]
    while waiting:
        part = waiting.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        found += [(part, key) for key in keys]
        waiting += [part[key] for key in keys]
    return found


def replace_part(draws: random.Random, content: Any) -> None:
    container, key = draws.choice(places(content))
    container[key] = draws.choice(ODD)


def drop_part(draws: random.Random, content: Any) -> None:
    container, key = draws.choice(places(content))
    del container[key]


def add_part(draws: random.Random, content: Any) -> None:
    """Another name beside those that are known, in any of the dicts."""
    parts = [part for part in (content, *(container[key] for container, key in places(content))) if type(part) is dict]
    draws.choice(parts)["another"] = draws.choice(ODD)


def double_part(draws: random.Random, content: Any) -> None:
    container, key = draws.choice(places(content))
    container[key] = [container[key], container[key]]


def nest_part(draws: random.Random, content: Any) -> None:
    container, key = draws.choice(places(content))
    for _ in range(draws.choice([10, 60, 200])):
        container[key] = draws.choice([[container[key]], {"a": container[key]}])


def swap_parts(draws: random.Random, content: Any) -> None:
    (first, one), (second, other) = draws.choice(places(content)), draws.choice(places(content))
    first[one], second[other] = json.loads(json.dumps([second[other], first[one]], default=str))


def edits_json(change: Callable[[random.Random, Any], None]) -> Mutation:
    def mutate(draws: random.Random, data: bytes) -> bytes:
        content = json.loads(data)
        for _ in range(draws.choice([1, 1, 1, 3])):
            change(draws, content)
        return json.dumps(content).encode()

    mutate.__name__ = f"{change.__name__}_of_json"
    return mutate


def edits_record(change: Callable[[random.Random, Any], None]) -> Mutation:
    def mutate(draws: random.Random, data: bytes) -> bytes:
        content = torch.load(io.BytesIO(data), weights_only=True)
        change(draws, content)
        return saved(content)

    mutate.__name__ = f"{change.__name__}_of_record"
    return mutate


def deep_json(draws: random.Random, data: bytes) -> bytes:
    depth = draws.choice([900, 5000, 200_000])
    nested = draws.choice([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth])
    return draws.choice([nested, b'{"settings": ' + nested + b"}", data.rstrip()[:-1] + b', "deep": ' + nested + b"}"])


def odd_json(draws: random.Random, data: bytes) -> bytes:
    numbers = (b"1" * 5000, b"1e999", b"-1e999", b"NaN", b'"\\ud800"', b"0.1e-999", b"123456789" * 400)
    return draws.choice([b"null", b"[]", b"3", b'"text"', b"{}", data.replace(b"41", draws.choice(numbers))])


# Arrays


def npy(header: str, content: bytes = b"") -> bytes:
    head = header.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


def claim_shape(draws: random.Random, data: bytes) -> bytes:
    """An array whose header says that it is terabytes, or something else that its bytes do not hold."""
    shape = draws.choice(
        ["(1000000000, 32, 32)", "(10000000000000,)", "(-1, 8, 8)", "(0, 8, 8)", "(2, 8, 8)", "()", "x"]
    )
    kind = draws.choice(["|u1", "<f8", "<U1000000000", "|O", "|V9", "<M8[s]", ">i4", "nonsense", "<U0"])
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    return _with_array(draws, data, npy(header, bytes(draws.choice([0, 128, 1000]))))


def no_array(draws: random.Random, data: bytes) -> bytes:
    return _with_array(draws, data, draws.choice([b"", b"no array", b"\x93NUMPY\x09\x09", pickle.dumps([1])]))


def _with_array(draws: random.Random, data: bytes, content: bytes) -> bytes:
    records = dict(records_of(data))
    records[draws.choice(list(records))] = content
    return archive_of(list(records.items()), draws.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))


def with_arrays(data: bytes, draws: random.Random, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    with np.load(io.BytesIO(data)) as old:
        draws.choice([np.savez, np.savez_compressed])(buffer, **{**old, **arrays})
    return buffer.getvalue()


def objects(draws: random.Random, data: bytes) -> bytes:
    return with_arrays(data, draws, **{draws.choice(["x_train", "y_test", "classes"]): np.array([None, print], object)})


def other_arrays(draws: random.Random, data: bytes) -> bytes:
    images = draws.choice(
        [np.zeros((3, 8, 8)), np.zeros((3, 8, 9), np.uint8), np.zeros((0, 8, 8), np.uint8), np.uint8(3)]
    )
    labels = draws.choice([np.array([10**12]), np.array([-1]), np.array([1.5]), np.array(["a"]), np.array([[1]])])
    names = draws.choice([np.frombuffer(b"\xff\xff\xff\xff" * 10, "<U1"), np.zeros(10**6, "<U1"), np.array(["a"])])
    return with_arrays(data, draws, **draws.choice([{"x_train": images}, {"y_train": labels}, {"classes": names}]))


def deflate_thousandfold(draws: random.Random, data: bytes) -> bytes:
    """10 kB that unpack to 10 MB, of the wrong kind."""
    return with_arrays(data, draws, x_train=np.zeros((10**7 // 64, 8, 8), np.uint8))


# Photographs


def another_format(draws: random.Random, data: bytes) -> bytes:
    """What Pillow would know by its content: some are unpacked without bounds, EPS is a program that it would run."""
    if draws.random() < 0.3:
        program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch /tmp/owned) (w) file\n"
        return program + b"showpage\n%%EOF\n"
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, draws.choice(["GIF", "ICO", "PCX", "TGA", "PDF", "ICNS", "DDS", "SGI"]))
    return buffer.getvalue()


def enormous(draws: random.Random, data: bytes) -> bytes:
    """Headers of images of too many pixels, and one whose shorter side is a pixel."""
    width, height = draws.choice(
        [(2**31 - 1, 2**31 - 1), (65_500, 65_500), (10**8, 1), (80_000_000, 1), (12_000, 12_000)]
    )
    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    if draws.random() < 0.5:
        return f"P6 {width} {height} 255\n".encode() + bytes(1000)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    png = buffer.getvalue()
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + chunk))
    return png[:16] + chunk + crc + png[33:]


def long_strip(draws: random.Random, data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", draws.choice([(20_000, 1), (1, 50_000)])).save(buffer, draws.choice(["PNG", "BMP", "PPM"]))
    return buffer.getvalue()


def damaged_listed_format(draws: random.Random, data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 44), 90).convert("RGB").save(buffer, draws.choice(["PNG", "PPM", "BMP", "TIFF", "WEBP"]))
    return draws.choice([truncate, flip_bit, flip_bit_at_an_end, flip_many_bits])(draws, buffer.getvalue())


DAMAGE = (
    *(truncate, cut_end, flip_bit, flip_many_bits, flip_bit_at_an_end, overwrite_block, insert_bytes, remove_bytes),
    *(append_bytes, nothing, noise, text),
)
ZIP = (
    *(remove_record, duplicate_record, rename_record, swap_record_names, deflate_records),
    *(claim_sizes, claim_encryption, claim_compression),
)
PICKLE = (
    *(flip_pickle, cut_pickle, protocol_five, call_foreign_code, call_in_tensor, allocate_by_call, claim_string),
    *(repeat_without_end, hold_itself, nest_deeply, nest_in_key, claim_storage),
)
STATE = (
    *(
        other_type,
        double_precision,
        other_shape,
        not_finite,
        beyond_float32,
        giant_of_one_number,
        giant_without_numbers,
    ),
    *(sparse, without_data, no_tensor, drop_weight, add_weight, rename_weight, empty_state, wrap_state),
    share_weights,
)
MASK = (mask_value, mask_shape, mask_of_nothing_prunable, mask_beside_plain_name, drop_mask)
MASK_FILE = (mask_value, mask_shape, mask_of_nothing_prunable, empty_state, wrap_state, sparse, without_data, no_tensor)
PLAIN = (replace_part, drop_part, add_part, double_part, nest_part, swap_parts)
JSON = (*(edits_json(change) for change in PLAIN), deep_json, odd_json)
RECORD = tuple(edits_record(change) for change in PLAIN)
ARRAYS = (claim_shape, no_array, objects, other_arrays, deflate_thousandfold)
PHOTOGRAPH = (another_format, enormous, long_strip, damaged_listed_format)
# These may turn a good file into another good one, all checksums right: a forger can write whatever weights he likes.
FORGED = (flip_pickle, call_in_tensor)
