import math

import pytest
import torch

from utils.plain_data import MAX_PARTS, is_number, is_percent, is_plain, is_state, is_text, is_whole, misfit, refuse_odd

SHAPE = {"name": is_text, "pools": [{"level": is_whole, "accuracy": is_percent}]}


@pytest.mark.parametrize(
    "content, part",
    [
        ({"name": "run", "pools": []}, None),
        ({"name": "run", "pools": [{"level": 0, "accuracy": 12.5, "more": object()}], "other": 3}, None),
        ({"pools": []}, "name"),
        ({"name": 3, "pools": None}, "name"),
        ({"name": "run", "pools": {}}, "pools"),
        ({"name": "run", "pools": [{"level": 0, "accuracy": 1}, 5]}, "pools[1]"),
        ({"name": "run", "pools": [{"level": 0, "accuracy": 1}, {"level": 1}]}, "pools[1].accuracy"),
        ([], "its content"),
        (None, "its content"),
    ],
)
def test_the_part_that_does_not_fit_is_told_by_its_place(content, part):
    assert misfit(content, SHAPE) == part


@pytest.mark.parametrize("value", [True, None, "1", math.nan, math.inf, -math.inf, 10**400, [1], 1j])
def test_what_is_no_number(value):
    assert not is_number(value) and not is_whole(value) and not is_percent(value)


def test_bounds():
    assert is_whole(0) and not is_whole(-1) and not is_whole(1.0) and not is_whole(10**12)
    assert is_percent(0) and is_percent(100.0) and not is_percent(100.1) and not is_percent(-0.1)


def test_states_are_named_finite_tensors():
    assert is_state({"w": torch.ones(2), "count": torch.tensor(3)})
    for odd in ({"w": torch.tensor([math.nan])}, {0: torch.ones(2)}, {"w": [1.0]}, [torch.ones(2)], None):
        assert not is_state(odd)


def test_plain_data_has_no_tensors_and_an_end():
    assert is_plain({"a": [1, 2.5, None, True, "x", ()]})
    assert not is_plain({"a": torch.ones(2)}) and not is_plain(torch.empty(0)) and not is_plain(object())


def test_wide_data_is_counted_where_it_stands():
    wide = [0] * (MAX_PARTS // 4)
    refuse_odd([wide, wide])
    with pytest.raises(ValueError, match="without end"):
        refuse_odd([[wide, wide], [wide, wide, wide]])


def test_tensors_are_counted_where_they_stand():
    weights = torch.ones(10)
    refuse_odd([weights, weights], tensor_bytes=80)
    with pytest.raises(ValueError, match="larger"):
        refuse_odd([weights, weights, weights], tensor_bytes=80)
