"""Small residual networks for CIFAR (He et al. 2016, "Deep residual learning for image recognition", section 4.2)."""

import torch
from torch import nn

from models.convolutions import conv3x3
from models.resnet import BasicBlock

WORDS = "ResNet for CIFAR, three layers of 16, 32 and 64 channels (He et al. 2016)"
# Blocks in each of the three layers.
ARCHS = {"resnet20s": 3, "resnet32s": 5, "resnet44s": 7, "resnet56s": 9, "resnet110s": 18}


class ShortcutA(nn.Module):
    """The paper's shortcut option A, which has no parameters: (N, planes/2, H, W) to (N, planes, ⌈H/2⌉, ⌈W/2⌉).

    Takes every second pixel, and pads with `planes // 4` channels of zeros in front and as many behind.
    """

    def __init__(self, planes: int):
        super().__init__()
        self.pad = planes // 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Of x[:, :, ::2, ::2] the gradient would not be channels last, and training on a CPU a tenth slower.
        every_second = nn.functional.avg_pool2d(x, 1, 2)
        return nn.functional.pad(every_second, (0, 0, 0, 0, self.pad, self.pad))


class ResNetCifar(nn.Module):
    """Images (N, 3, H, W) to logits (N, `classes`).

    Three layers of `blocks` basic blocks each have 16, 32 and 64 channels.
    """

    def __init__(self, blocks: int, classes: int):
        super().__init__()
        self.conv1 = conv3x3(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _layer(BasicBlock(16, 16), blocks)
        self.layer2 = _layer(BasicBlock(16, 32, stride=2, downsample=ShortcutA(32)), blocks)
        self.layer3 = _layer(BasicBlock(32, 64, stride=2, downsample=ShortcutA(64)), blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _layer(first: BasicBlock, blocks: int) -> nn.Sequential:
    """`blocks` basic blocks, all after the `first` with as many channels as it puts out."""
    planes = first.conv2.out_channels
    return nn.Sequential(first, *(BasicBlock(planes, planes) for _ in range(blocks - 1)))


def build(arch: str, classes: int) -> ResNetCifar:
    """The network that `arch`, a key of `ARCHS`, names."""
    return ResNetCifar(ARCHS[arch], classes)
