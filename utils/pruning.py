"""Masks: which weights of a network remain.

A mask is a dict from the names of the prunable weights to bool tensors of the weights' shapes, True where a weight
remains. Weights and masks are plain tensors; no network is needed.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
Mask = dict[str, Tensor]


def prunable_names(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """The weights that IMP prunes: those of every layer of these kinds."""
    return [f"{name}.weight" for name, module in net.named_modules() if isinstance(module, kinds)]


def dense_mask(state: Mapping[str, Tensor], names: Iterable[str]) -> Mask:
    return {name: torch.ones_like(state[name], dtype=torch.bool) for name in names}


def count_kept(mask: Mask) -> int:
    """How many prunable weights remain."""
    return sum(int(part.sum()) for part in mask.values())


def count_prunable(mask: Mask) -> int:
    return sum(part.numel() for part in mask.values())


def density(mask: Mask) -> float:
    """The share of the prunable weights that remains, 0 to 1."""
    return count_kept(mask) / count_prunable(mask)


def apply_mask(state: Mapping[str, Tensor], mask: Mask) -> State:
    """`state` with true zeros (no -0.0) where the mask is False."""
    return {name: torch.where(mask[name], value, 0.0) if name in mask else value for name, value in state.items()}


def largest_magnitudes(state: Mapping[str, Tensor], names: Iterable[str], keep: int) -> Mask:
    """The mask of exactly `keep` weights, those of the largest magnitude over all of `names` at once.

    Among equal magnitudes the first ones stay, in the order of `names` and of the weights within each.
    """
    shapes = {name: state[name].shape for name in names}
    magnitudes = torch.cat([state[name].abs().flatten() for name in shapes])
    return _split(_top(magnitudes, keep), shapes)


def prune_smallest(state: Mapping[str, Tensor], mask: Mask, rate: float) -> Mask:
    """Global magnitude pruning: the mask without the `rate` smallest-magnitude share of the weights that remain.

    The number to prune is rounded to the nearest integer, as `torch.nn.utils.prune` does.
    """
    magnitudes = torch.cat([torch.where(part, state[name].abs(), -1.0).flatten() for name, part in mask.items()])
    return _split(_top(magnitudes, _remaining(mask, rate)), {name: part.shape for name, part in mask.items()})


def prune_random(mask: Mask, rate: float, generator: torch.Generator) -> Mask:
    """The mask without a random `rate` share of the weights that remain, drawn over all layers at once on the CPU."""
    kept = torch.cat([part.flatten() for part in mask.values()])
    ranks = torch.rand(kept.numel(), generator=generator, dtype=torch.float64).to(kept.device)
    chosen = _top(torch.where(kept, ranks, -1.0), _remaining(mask, rate))
    return _split(chosen, {name: part.shape for name, part in mask.items()})


def _remaining(mask: Mask, rate: float) -> int:
    kept = count_kept(mask)
    return kept - round(rate * kept)


def _top(scores: Tensor, keep: int) -> Tensor:
    """A bool vector with exactly `keep` of the largest scores; the first ones where scores are equal."""
    if keep <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    # In no order, which would cost. `kthvalue` is as fast on a CPU, but one block's work on a GPU (pytorch#75599).
    threshold = scores.topk(keep, sorted=False).values.min()
    chosen = scores > threshold
    equal = (scores == threshold).nonzero().flatten()
    chosen[equal[: keep - int(chosen.sum())]] = True
    return chosen


def _split(flat: Tensor, shapes: Mapping[str, torch.Size]) -> Mask:
    parts = flat.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
