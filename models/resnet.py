"""Residual networks for ImageNet (He et al. 2016, section 4.1), with a stem for small images by default."""

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet, conv3x3

from models.widths import split_width

WORDS = "ResNet for ImageNet, with a stem for small images unless --imagenet_arch (He et al. 2016)"
ARCHS = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}
PATTERNS = {"resnetD_W": "the same for D = 18, 34, 50, 101 or 152, as wide as W first channels make it instead of 64"}


class ResNetOfWidth(ResNet):
    """torchvision's network as wide as one likes: images (N, 3, H, W) to logits (N, `classes`).

    Its four stages have `width`, 2 `width`, 4 `width` and 8 `width` channels (four times that for a `Bottleneck`).
    Its weights are as torch initialises layers: what builds it has a method of its own.
    """

    def __init__(self, block: type[BasicBlock | Bottleneck], blocks: list[int], width: int, classes: int):
        # torchvision fixes the width at 64: let it build as little as it can, and rebuild all that depends on width.
        super().__init__(block, [1, 1, 1, 1], num_classes=1)
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._make_layer(block, width, blocks[0])
        self.layer2 = self._make_layer(block, 2 * width, blocks[1], stride=2)
        self.layer3 = self._make_layer(block, 4 * width, blocks[2], stride=2)
        self.layer4 = self._make_layer(block, 8 * width, blocks[3], stride=2)
        self.fc = nn.Linear(8 * width * block.expansion, classes)


def is_name(arch: str) -> bool:
    """Whether `arch` names one of these networks, with a depth that exists."""
    return split_width(arch, ARCHS) is not None


def build(arch: str, classes: int, imagenet_stem: bool = False) -> ResNet:
    """The network that `arch` names (`is_name` says whether one does): images (N, 3, H, W) to logits (N, `classes`).

    The CIFAR stem is a 3x3 convolution with stride 1 and no pooling; the ImageNet stem, a 7x7 convolution and a
    max-pool with stride 2 each, leaves a sixteenth as many pixels to the layers behind it.
    """
    name, width = split_width(arch, ARCHS)
    net = ResNetOfWidth(*ARCHS[name], width, classes)
    if not imagenet_stem:
        net.conv1, net.maxpool = conv3x3(3, width), nn.Identity()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):  # as in torchvision's own networks
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
