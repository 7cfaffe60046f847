"""Recalibrating batch norm: an interpolated network needs the statistics of its own activations."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate(net: nn.Module, images: Iterable[Tensor]) -> None:
    """Set every running mean and variance of `net` to its mean over the batches in `images` (N×3×H×W each).

    As `torch.optim.swa_utils.update_bn` (Izmailov et al. 2018) does: statistics are reset, momentum is `None` (each
    batch counts alike), and only batch norm is in train mode. Momenta and the mode of `net` are left in place.
    """
    layers = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    was_training = net.training
    net.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for batch in images:
        net(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    net.train(was_training)
