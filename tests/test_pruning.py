import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from utils.pruning import (
    apply_mask,
    count_kept,
    count_prunable,
    dense_mask,
    density,
    largest_magnitudes,
    prunable_names,
    prune_random,
    prune_smallest,
)

SEVEN = {"a": torch.tensor([[0.5, -3.0], [0.0, 1.0]]), "b": torch.tensor([-2.0, 0.25, 4.0])}


def as_lists(mask) -> dict:
    return {name: part.int().tolist() for name, part in mask.items()}


def random_state(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {f"w{number}": torch.randn(shape, generator=draws) for number, shape in enumerate(shapes)}


def test_every_convolution_is_prunable_and_nothing_else():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1, bias=False)), nn.Linear(4, 2)
    )
    assert prunable_names(net, (nn.Conv2d,)) == ["0.weight", "2.0.weight"]


def test_a_dense_mask_keeps_every_weight_of_the_names_alone():
    mask = dense_mask({"a": torch.zeros(2, 3), "b": torch.ones(4), "bias": torch.ones(9)}, ["a", "b"])
    assert as_lists(mask) == {"a": [[1, 1, 1], [1, 1, 1]], "b": [1, 1, 1, 1]}
    assert {part.dtype for part in mask.values()} == {torch.bool}


def test_density_is_the_share_over_all_tensors_together():
    mask = {"a": torch.tensor([[True, False], [False, False]]), "b": torch.tensor([True])}
    assert (count_kept(mask), count_prunable(mask), density(mask)) == (2, 5, 0.4)


def test_pruned_weights_become_true_zeros_and_the_rest_is_left_alone():
    state = {"w": torch.tensor([-2.0, 3.0, -0.5, float("inf")]), "bias": torch.tensor([-1.0])}
    pruned = apply_mask(state, {"w": torch.tensor([False, True, False, False])})
    assert pruned["w"].tolist() == [0.0, 3.0, 0.0, 0.0]
    assert not pruned["w"].signbit().any()
    assert pruned["bias"].tolist() == [-1.0]
    assert state["w"].tolist() == [-2.0, 3.0, -0.5, float("inf")]


def test_a_negative_zero_in_a_file_becomes_a_true_zero():
    pruned = apply_mask({"w": torch.tensor([-0.0, 1.0])}, {"w": torch.tensor([False, True])})
    assert not pruned["w"].signbit().any()


@pytest.mark.parametrize(
    "keep, expected",
    [
        (0, {"a": [[0, 0], [0, 0]], "b": [0, 0, 0]}),
        (1, {"a": [[0, 0], [0, 0]], "b": [0, 0, 1]}),
        (2, {"a": [[0, 1], [0, 0]], "b": [0, 0, 1]}),
        (3, {"a": [[0, 1], [0, 0]], "b": [1, 0, 1]}),
        (5, {"a": [[1, 1], [0, 1]], "b": [1, 0, 1]}),
        (6, {"a": [[1, 1], [0, 1]], "b": [1, 1, 1]}),
        (7, {"a": [[1, 1], [1, 1]], "b": [1, 1, 1]}),
    ],
)
def test_the_largest_magnitudes_stay_over_all_tensors_at_once(keep, expected):
    assert as_lists(largest_magnitudes(SEVEN, ["a", "b"], keep)) == expected


def test_only_the_named_weights_count():
    assert as_lists(largest_magnitudes(SEVEN, ["a"], 2)) == {"a": [[0, 1], [0, 1]]}


@pytest.mark.parametrize(
    "keep, expected",
    [
        (1, {"a": [1, 0, 0], "b": [0, 0]}),
        (2, {"a": [1, 0, 0], "b": [1, 0]}),
        (3, {"a": [1, 1, 0], "b": [1, 0]}),
        (4, {"a": [1, 1, 0], "b": [1, 1]}),
    ],
)
def test_among_equal_magnitudes_the_first_ones_stay(keep, expected):
    state = {"a": torch.tensor([5.0, 2.0, 1.0]), "b": torch.tensor([-5.0, -2.0])}
    assert as_lists(largest_magnitudes(state, ["a", "b"], keep)) == expected


def test_the_order_of_the_names_decides_between_equal_tensors():
    state = {"a": torch.ones(2), "b": torch.ones(2)}
    assert as_lists(largest_magnitudes(state, ["b", "a"], 3)) == {"b": [1, 1], "a": [1, 0]}


def test_zeros_stay_where_too_few_weights_differ_from_zero():
    state = {"w": torch.tensor([0.0, -0.0, 7.0, 0.0])}
    assert as_lists(largest_magnitudes(state, ["w"], 3)) == {"w": [1, 1, 1, 0]}


@pytest.mark.parametrize("keep", [0, 1, 137, 499, 500])
def test_exactly_as_many_weights_stay_as_asked_among_many_ties(keep):
    draws = torch.Generator().manual_seed(keep)
    state = {"a": torch.randint(-3, 4, (20, 20), generator=draws).float(), "b": torch.zeros(100)}
    mask = largest_magnitudes(state, ["a", "b"], keep)
    kept = torch.cat([state[name][mask[name]].abs() for name in state])
    dropped = torch.cat([state[name][~mask[name]].abs() for name in state])
    assert len(kept) == keep
    assert not len(kept) or not len(dropped) or kept.min() >= dropped.max()


def test_weights_that_are_channels_last_in_memory_are_masked_where_they_are():
    weight = torch.arange(24.0).view(2, 3, 2, 2)
    mask = largest_magnitudes({"w": weight.to(memory_format=torch.channels_last)}, ["w"], 5)
    assert torch.equal(mask["w"], weight >= 19)


def test_the_smallest_of_the_remaining_weights_are_pruned():
    mask = {"a": torch.tensor([[True, True], [False, True]]), "b": torch.tensor([True, True, False])}
    # Remaining: 0.5, -3, 1, -2, 0.25. Two fifths of them go.
    assert as_lists(prune_smallest(SEVEN, mask, 0.4)) == {"a": [[0, 1], [0, 1]], "b": [1, 0, 0]}


def test_a_pruned_weight_stays_pruned_however_large_it_is():
    state = {"w": torch.tensor([100.0, 1.0, 2.0, 3.0, 0.0])}
    mask = {"w": torch.tensor([False, True, True, True, True])}
    assert as_lists(prune_smallest(state, mask, 0.5)) == {"w": [0, 0, 1, 1, 0]}


def test_a_kept_zero_outlasts_a_pruned_weight():
    state = {"w": torch.tensor([9.0, 0.0, 0.0, 0.0])}
    mask = {"w": torch.tensor([False, True, True, True])}
    assert as_lists(prune_smallest(state, mask, 1 / 3)) == {"w": [0, 1, 1, 0]}


@pytest.mark.parametrize("rate, left", [(0.2, 8), (0.24, 8), (0.26, 7), (0.04, 10), (0.25, 8), (0.35, 6), (0.99, 0)])
def test_the_number_pruned_is_rounded_to_the_nearest_and_halves_to_even(rate, left):
    state = random_state((10,))
    assert count_kept(prune_smallest(state, dense_mask(state, state), rate)) == left


def test_pruning_leaves_the_old_mask_alone():
    mask = dense_mask(SEVEN, SEVEN)
    prune_smallest(SEVEN, mask, 0.5)
    prune_random(mask, 0.5, torch.Generator())
    assert count_kept(mask) == 7


@pytest.mark.parametrize("rate", [0.2, 0.37, 0.5])
def test_rounds_of_pruning_give_the_masks_of_torch(rate):
    """Seven rounds on one network, whose weights change between the rounds as training would change them."""
    torch.manual_seed(7)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3), nn.Conv2d(7, 4, 1))
    modules = [(module, "weight") for module in net]
    names = prunable_names(net, (nn.Conv2d,))
    mask = dense_mask(net.state_dict(), names)
    for _ in range(7):
        state = {name: module.weight.detach().clone() for name, (module, _) in zip(names, modules, strict=True)}
        mask = prune_smallest(state, mask, rate)
        prune.global_unstructured(modules, prune.L1Unstructured, amount=rate)
        for name, (module, _) in zip(names, modules, strict=True):
            assert torch.equal(mask[name], module.weight_mask.bool())
        with torch.no_grad():
            for module, _ in modules:
                module.weight_orig += 0.1 * torch.randn_like(module.weight_orig)
                module.weight = module.weight_orig * module.weight_mask


def test_random_pruning_removes_its_share_of_what_remained():
    old = {"a": torch.arange(60).view(6, 10) % 3 > 0, "b": torch.ones(40, dtype=torch.bool)}
    new = prune_random(old, 0.2, torch.Generator().manual_seed(1))
    assert count_kept(old) == 80
    assert count_kept(new) == 64
    assert all(not (new[name] & ~old[name]).any() for name in old)
    assert {name: part.shape for name, part in new.items()} == {"a": (6, 10), "b": (40,)}


def test_random_pruning_follows_from_its_generator():
    old = {"a": torch.ones(100, dtype=torch.bool)}
    first, again, other = (prune_random(old, 0.5, torch.Generator().manual_seed(seed))["a"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_pruning_hits_all_layers_and_places_alike():
    """Half of 10,000 weights go, so each quarter loses 1,250, with a standard deviation of 22."""
    old = {name: torch.ones(5000, dtype=torch.bool) for name in "ab"}
    new = prune_random(old, 0.5, torch.Generator().manual_seed(3))
    for part in (new["a"][:2500], new["a"][2500:], new["b"][:2500], new["b"][2500:]):
        assert abs(int(part.sum()) - 1250) < 6 * 22
