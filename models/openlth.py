"""Networks of OpenLTH (github.com/facebookresearch/open_lth), with its names, keys and shapes, to read its tickets.

Its ImageNet networks save their keys behind `model.`; here they have none of it.
"""

import re
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn

from models.convolutions import conv1x1, conv3x3
from models.resnet import BLOCKS, BasicBlock, Bottleneck, ResNet
from models.vgg import LAYERS
from models.widths import FULL_WIDTH
from utils.errors import UserError

IMAGENET_CLASSES = 1000

_DEPTHS = {
    "cifar_resnet": "8, 14, 20, …",
    "cifar_vgg": "11, 13, 16, 19",
    "imagenet_resnet": "18, 26, 34, 50, 101, 152, 200",
}
PATTERNS = {
    "cifar_resnet_D[_W]": f"OpenLTH's ResNet for CIFAR; D: {_DEPTHS['cifar_resnet']}; W: first channels, 16 by default",
    "cifar_vgg_D": f"OpenLTH's VGG; D: {_DEPTHS['cifar_vgg']}",
    "imagenet_resnet_D[_W]": f"OpenLTH's ResNet for ImageNet; D: {_DEPTHS['imagenet_resnet']}; W: 64 by default",
}
DEPTHS = f"D: {'; '.join(f'{depths} for {name}' for name, depths in _DEPTHS.items())}; W: the first layer's channels"

IMAGENET_BLOCKS = {**BLOCKS, 26: (BasicBlock, (2, 3, 4, 3)), 200: (Bottleneck, (3, 24, 36, 3))}


class OpenlthBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; where the channels change, (N, in_planes, H, W) to (N, planes, H/2, W/2)."""

    def __init__(self, in_planes: int, planes: int):
        super().__init__()
        stride = 1 if in_planes == planes else 2
        self.conv1 = conv3x3(in_planes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if in_planes != planes:
            self.shortcut = nn.Sequential(conv1x1(in_planes, planes, stride), nn.BatchNorm2d(planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(residual + self.shortcut(x))


class OpenlthResNet(nn.Module):
    """`cifar_resnet`: images (N, 3, H, W) to logits (N, `classes`).

    Three segments of `blocks` blocks each have `width`, 2 `width` and 4 `width` channels.
    """

    def __init__(self, blocks: int, width: int, classes: int):
        super().__init__()
        self.conv = conv3x3(3, width)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        planes = [width, *(width * factor for factor in (1, 2, 4) for _ in range(blocks))]
        self.blocks = nn.Sequential(*(OpenlthBlock(before, after) for before, after in pairwise(planes)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.relu(self.bn(self.conv(images))))
        return self.fc(self.avgpool(x).flatten(1))


class OpenlthVGG(nn.Module):
    """`cifar_vgg`: images (N, 3, H, W) to logits (N, `classes`).

    `smallest_image` is the least height and width in pixels: each of the four poolings halves them.
    """

    smallest_image = 16

    def __init__(self, depth: int, classes: int):
        super().__init__()
        layers, in_planes = [], 3
        for planes in LAYERS[depth]:
            if planes == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers.append(_convolution(in_planes, planes))
                in_planes = planes
        self.layers = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.avgpool(self.layers(images)).flatten(1))


def _convolution(in_planes: int, planes: int) -> nn.Sequential:
    """A 3x3 convolution with a bias, and batch norm and ReLU behind it."""
    conv = nn.Conv2d(in_planes, planes, kernel_size=3, padding=1)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(planes), relu=nn.ReLU(inplace=True)))


def is_name(arch: str) -> bool:
    """Whether `arch` names one of these networks, with a depth that exists."""
    return _parse(arch) is not None


def _parse(arch: str) -> tuple[str, int, int | None] | None:
    """Family, depth and width (None: the family's default) that `arch` names, or None if there is no such network."""
    match = re.fullmatch(r"(cifar_resnet|cifar_vgg|imagenet_resnet)_([1-9][0-9]*)(?:_([1-9][0-9]*))?", arch)
    if match is None:
        return None
    family, depth, width = match[1], int(match[2]), int(match[3]) if match[3] else None
    exists = {
        "cifar_resnet": depth >= 8 and depth % 6 == 2,
        "cifar_vgg": depth in LAYERS and width is None,
        "imagenet_resnet": depth in IMAGENET_BLOCKS,
    }[family]
    return (family, depth, width) if exists else None


def build(arch: str, classes: int) -> nn.Module:
    """The network that `arch` names (`is_name` says whether one does), initialised as OpenLTH does by default.

    An `imagenet_resnet` has 1,000 outputs whatever `classes` says: so OpenLTH writes its ImageNet tickets, however few
    classes the images have. UserError where they have more.
    """
    family, depth, width = _parse(arch)
    if family == "imagenet_resnet" and classes > IMAGENET_CLASSES:
        raise UserError(
            f"--arch {arch} tells {IMAGENET_CLASSES} classes apart, the images have {classes}: name another"
        )
    if family == "cifar_resnet":
        net = OpenlthResNet((depth - 2) // 6, width or 16, classes)
    elif family == "cifar_vgg":
        net = OpenlthVGG(depth, classes)
    else:
        net = ResNet(*IMAGENET_BLOCKS[depth], width or FULL_WIDTH, IMAGENET_CLASSES)
    return net.apply(_initialize)


def _initialize(module: nn.Module) -> None:
    """OpenLTH's `kaiming_normal` for weights and `uniform` for batch norm; other biases stay as torch makes them."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight)
        nn.init.zeros_(module.bias)
