"""The registry of networks: what `--arch` can name, and the networks themselves, which normalise their own images."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import nn

from models import openlth, resnet, resnet_cifar, vgg
from models.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize_first
from utils.errors import UserError

_FIXED = {arch: family for family in (resnet_cifar, resnet, vgg) for arch in family.ARCHS}
_PATTERNED = (resnet, vgg, openlth)


def described_archs() -> dict[str, str]:
    """What `--arch` can name, in a few words each: fixed names, then patterns with a depth D and a first width W."""
    fixed = {arch: family.WORDS for arch, family in _FIXED.items()}
    return {**fixed, **{pattern: words for family in _PATTERNED for pattern, words in family.PATTERNS.items()}}


def build(
    arch: str,
    classes: int,
    mean: Sequence[float] | torch.Tensor,
    std: Sequence[float] | torch.Tensor,
    imagenet_stem: bool = False,
) -> nn.Module:
    """A freshly initialised network: float images (N, 3, H, W) from 0 to 1, to logits (N, `classes`).

    It first normalises its images with `mean` and `std`, three numbers each. OpenLTH's networks use ImageNet's
    statistics, as OpenLTH does for every data set, and its `imagenet_resnet` has 1,000 outputs. A network that cannot
    take images of every size has an attribute `smallest_image` (height and width in pixels). Raises `UserError` if no
    network is called `arch`, or if the ImageNet stem is asked of one that has no choice of stems (all but `resnet`).
    """
    family = _family(arch, imagenet_stem)
    net = resnet.build(arch, classes, imagenet_stem) if family is resnet else family.build(arch, classes)
    return normalize_first(net, *((IMAGENET_MEAN, IMAGENET_STD) if family is openlth else (mean, std)))


def _family(arch: str, imagenet_stem: bool) -> ModuleType:
    """The module that builds `arch`; raises `UserError`, in one line that names the flag, for what none can make."""
    family = _FIXED.get(arch) or next((family for family in _PATTERNED if family.is_name(arch)), None)
    if family is None:
        raise UserError(f"--arch: no network {arch!r}; choose from {', '.join(described_archs())} ({openlth.DEPTHS})")
    if imagenet_stem and family is not resnet:
        raise UserError(
            f"--imagenet_arch: {arch} has only one stem; leave the flag out or choose --arch from "
            f"{', '.join(resnet.ARCHS)}"
        )
    return family
