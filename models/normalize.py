"""Normalisation as the first layer of a network, so that a saved network carries the statistics it was trained with."""

from collections.abc import Sequence

import torch
from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of its pixels in 0..1, by channel


class Normalize(nn.Module):
    """Subtracts a mean from each colour channel and divides by a standard deviation.

    `mean` and `std` hold three numbers each, in the units of the images, and become buffers of shape (3,).
    """

    def __init__(self, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor):
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).clone())
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float images (N, 3, H, W) to normalised ones of the same shape."""
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


def normalize_first(
    net: nn.Module, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor
) -> nn.Module:
    """Let `net` normalise its images (float, 0 to 1) before anything else, and return it. Call it once per network.

    The statistics are saved as `normalize.mean` and `normalize.std` beside the network's own keys.
    """
    net.normalize = Normalize(mean, std)
    net.register_forward_pre_hook(_normalize_input)
    return net


def _normalize_input(net: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """The hook takes the layer from the network that is called, so a deep copy normalises with its own buffers."""
    (images,) = args
    return (net.normalize(images),)
