import pytest
import torch

from utils.interpolation import interpolate


def test_the_coefficient_is_the_share_that_the_pool_keeps():
    pool, candidate = {"w": torch.tensor([4.0, -8.0])}, {"w": torch.tensor([0.0, 4.0])}
    assert interpolate(pool, candidate, 0.75)["w"].tolist() == [3.0, -5.0]
    assert interpolate(candidate, pool, 0.75)["w"].tolist() == [1.0, 1.0]


def test_buffers_of_batch_norm_are_interpolated_with_the_weights():
    pool = {"bn.weight": torch.tensor([1.0]), "bn.running_mean": torch.tensor([2.0]), "bn.running_var": torch.ones(1)}
    candidate = {
        "bn.weight": torch.tensor([3.0]),
        "bn.running_mean": torch.tensor([10.0]),
        "bn.running_var": torch.tensor([5.0]),
    }
    result = interpolate(pool, candidate, 0.5)
    assert {name: value.item() for name, value in result.items()} == {
        "bn.weight": 2.0,
        "bn.running_mean": 6.0,
        "bn.running_var": 3.0,
    }


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 0.5, 1.0])
def test_integer_buffers_are_the_pools(coefficient):
    pool, candidate = {"count": torch.tensor(7)}, {"count": torch.tensor(100)}
    result = interpolate(pool, candidate, coefficient)["count"]
    assert result.item() == 7
    assert result.dtype == torch.int64


def test_the_ends_are_exactly_the_two_networks():
    """On numbers of very different sizes, which rounding would change."""
    draws = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.randint(-8, 8, (2, 4096), generator=draws)
    first, second = torch.randn(2, 4096, generator=draws) * sizes
    assert torch.equal(interpolate({"w": first}, {"w": second}, 1.0)["w"], first)
    assert torch.equal(interpolate({"w": first}, {"w": second}, 0.0)["w"], second)


@pytest.mark.parametrize("coefficient", [0.05, 0.3, 0.5, 0.95])
def test_weights_that_both_networks_share_do_not_move(coefficient):
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(interpolate({"w": weights}, {"w": weights.clone()}, coefficient)["w"], weights)


@pytest.mark.parametrize("coefficient", [0.0, 0.4, 1.0])
def test_neither_network_changes_then_or_later(coefficient):
    pool = {"w": torch.tensor([1.0, 2.0]), "count": torch.tensor(3)}
    candidate = {"w": torch.tensor([5.0, 7.0]), "count": torch.tensor(4)}
    result = interpolate(pool, candidate, coefficient)
    for value in result.values():
        value += 100
    assert (pool["w"].tolist(), pool["count"].item()) == ([1.0, 2.0], 3)
    assert (candidate["w"].tolist(), candidate["count"].item()) == ([5.0, 7.0], 4)


def test_names_keep_the_pools_order_and_weights_their_type():
    pool = {"b": torch.ones(2, 1, dtype=torch.float64), "a": torch.ones(3)}
    result = interpolate(pool, {"a": torch.zeros(3), "b": torch.zeros(2, 1, dtype=torch.float64)}, 0.5)
    assert [(name, value.dtype, tuple(value.shape)) for name, value in result.items()] == [
        ("b", torch.float64, (2, 1)),
        ("a", torch.float32, (3,)),
    ]
