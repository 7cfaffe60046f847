"""Arithmetic on state dicts."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def interpolate(pool: Mapping[str, Tensor], candidate: Mapping[str, Tensor], coefficient: float) -> dict[str, Tensor]:
    """`coefficient · pool + (1 - coefficient) · candidate`, for weights and buffers alike.

    The coefficient is the share that the pool keeps; at 0 and 1 the result is exactly one of the two. Integer buffers
    (batch norm's counters) are the pool's. Both state dicts have the same keys and shapes.
    """
    return {
        name: torch.lerp(candidate[name], value, coefficient) if value.is_floating_point() else value.clone()
        for name, value in pool.items()
    }


def mean(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The plain mean of one or more state dicts; integer buffers are the first's. Two are in memory at a time."""
    states = iter(states)
    total = dict(next(states))
    for number, state in enumerate(states, start=1):
        total = interpolate(total, state, number / (number + 1))
    return total
