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

    As `torch.optim.swa_utils.update_bn` (Izmailov et al. 2018) does: each batch counts alike, and batch norm is in
    train mode; unlike there, nothing else is, so that dropout stays off. Momenta and the mode of `net` are put back.
    """
    layers = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not layers:
        return
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    was_training, batches = net.training, 0
    net.eval()
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
            # With momentum 1 each batch leaves its own statistics in the buffers, for `_set_to_mean` to average.
            # Torch's own average (momentum None) reads a counter in every layer and batch: a wait for the GPU each
            # time, and more than torch.compile can follow.
            layer.momentum, layer.num_batches_tracked = 1.0, None
        batches = _set_to_mean(layers, net, images, processes)
    finally:
        for layer, (momentum, counter) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, counter.fill_(batches)
        net.train(was_training)


def _set_to_mean(layers: list[_BatchNorm], net: nn.Module, images: Iterable[Tensor], processes: Processes) -> int:
    """Set the statistics of `layers` to their mean over all batches, summed in float64; returns how many these are."""
    statistics = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
    total = torch.zeros(sum(map(torch.numel, statistics)), dtype=torch.float64, device=statistics[0].device)
    batches = 0
    with lone_image_explained():
        for batch in images:
            net(batch)
            total += torch.cat(statistics)
            batches += 1
    (batches,) = processes.sum_counts(batches)
    if batches == 0:
        raise UserError("none of the training images can be read: replace those above")
    mean = processes.sum_(total) / batches
    for buffer, part in zip(statistics, mean.split([buffer.numel() for buffer in statistics]), strict=True):
        buffer.copy_(part)
    return batches


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
