"""Residual networks for ImageNet (He et al. 2016, section 4.1), with a stem for small images by default."""

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet, conv3x3

WORDS = "ResNet for ImageNet, with a stem for small images unless --imagenet_arch (He et al. 2016)"
ARCHS = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}


def build(arch: str, classes: int, imagenet_stem: bool = False) -> ResNet:
    """The network that `arch`, a key of `ARCHS`, names: images (N, 3, H, W) to logits (N, `classes`).

    The CIFAR stem is a 3x3 convolution with stride 1 and no pooling; the ImageNet stem, a 7x7 convolution and a
    max-pool with stride 2 each, leaves a sixteenth as many pixels to the layers behind it.
    """
    block, blocks = ARCHS[arch]
    net = ResNet(block, blocks, num_classes=classes)
    if not imagenet_stem:
        net.conv1 = conv3x3(3, 64)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    return net
