"""Recalibrating batch norm: an interpolated network needs the statistics of its own activations."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.distributed import SINGLE, Processes
from utils.errors import UserError


@torch.no_grad()
def recalibrate(net: nn.Module, images: Iterable[Tensor], processes: Processes = SINGLE) -> None:
    """Set every running mean and variance of `net` to its mean over the batches in `images` (N×3×H×W each).

    Several `processes` each see batches of their own (or none); the statistics are the mean over all of them. UserError
    where none of them has any.

    As `torch.optim.swa_utils.update_bn` (Izmailov et al. 2018) does: statistics are reset, momentum is `None` (each
    batch counts alike), and batch norm is in train mode; unlike there, nothing else is, so that dropout stays off.
    Momenta and the mode of `net` are left in place.
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
    with lone_image_explained():
        for batch in images:
            net(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    net.train(was_training)
    if processes.world > 1:
        _mean_over_processes(layers, processes)


@contextlib.contextmanager
def lone_image_explained() -> Iterator[None]:
    """UserError where batch norm in train mode gets one value a channel: a lone image in a map of one pixel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "the last batch is a single image, which is too few for the batch norm of this --arch: choose another "
            "--batch_size, or another number of images (--bn_images, --val_images, --data_limit)"
        ) from error


def _mean_over_processes(layers: list[_BatchNorm], processes: Processes) -> None:
    """Replace each process's statistics by those over all batches, summed in float64 in one message."""
    statistics = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
    seen = layers[0].num_batches_tracked.double()
    # A process without a batch has NaN or nothing to say: it weighs nothing.
    flat = torch.cat([buffer.double().flatten() for buffer in statistics])
    sums = processes.sum_(torch.cat([seen.view(1), flat * seen if seen > 0 else torch.zeros_like(flat)]))
    if sums[0] == 0:
        raise UserError("none of the training images can be read: replace those above")
    means = (sums[1:] / sums[0]).split([buffer.numel() for buffer in statistics])
    for buffer, mean in zip(statistics, means, strict=True):
        buffer.copy_(mean.view_as(buffer))
    for layer in layers:
        layer.num_batches_tracked.fill_(int(sums[0]))
