"""Residual networks for ImageNet (He et al. 2016, section 4.1), with a stem for small images by default.

Names, keys and shapes are torchvision's. That is not imported, since it takes almost as long as torch itself.
"""

from torch import Tensor, nn

from models.convolutions import conv1x1, conv3x3
from models.widths import split_width

WORDS = "ResNet for ImageNet, with a stem for small images unless --imagenet_arch (He et al. 2016)"
PATTERNS = {"resnetD_W": "the same for D = 18, 34, 50, 101 or 152, as wide as W first channels make it instead of 64"}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: (N, `in_planes`, H, W) to (N, `planes`, ⌈H/`stride`⌉, ⌈W/`stride`⌉).

    `downsample` gives the shortcut that shape; None where it has it already.
    """

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1 = conv3x3(in_planes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return self.relu(x)


class Bottleneck(nn.Module):
    """Convolutions of 1×1, 3×3 and 1×1 beside a shortcut, of which the middle one has the stride.

    (N, `in_planes`, H, W) to (N, 4 `planes`, ⌈H/`stride`⌉, ⌈W/`stride`⌉); `downsample` as for `BasicBlock`.
    """

    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1 = conv1x1(in_planes, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv1x1(planes, planes * self.expansion)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += shortcut
        return self.relu(x)


BLOCKS = {  # in each of the four layers, by depth
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
ARCHS = {f"resnet{depth}": blocks for depth, blocks in BLOCKS.items()}


class ResNet(nn.Module):
    """Images (N, 3, H, W) to logits (N, `classes`).

    Its four layers of `blocks` blocks each have `width`, 2 `width`, 4 `width` and 8 `width` channels (four times that
    for a `Bottleneck`). The ImageNet stem, a 7×7 convolution and a max-pool with stride 2 each, leaves a sixteenth as
    many pixels to them as the other, a 3×3 convolution. Weights are as torch initialises layers: what builds it has a
    method of its own.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, int, int, int],
        width: int,
        classes: int,
        imagenet_stem: bool = True,
    ):
        super().__init__()
        if imagenet_stem:
            self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        else:
            self.conv1, self.maxpool = conv3x3(3, width), nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _layer(block, width, width, blocks[0], stride=1)
        self.layer2 = _layer(block, width * block.expansion, 2 * width, blocks[1], stride=2)
        self.layer3 = _layer(block, 2 * width * block.expansion, 4 * width, blocks[2], stride=2)
        self.layer4 = _layer(block, 4 * width * block.expansion, 8 * width, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width * block.expansion, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _layer(
    block: type[BasicBlock | Bottleneck], in_planes: int, planes: int, blocks: int, stride: int
) -> nn.Sequential:
    out_planes, downsample = planes * block.expansion, None
    if stride != 1 or in_planes != out_planes:
        downsample = nn.Sequential(conv1x1(in_planes, out_planes, stride), nn.BatchNorm2d(out_planes))
    first = block(in_planes, planes, stride, downsample)
    return nn.Sequential(first, *(block(out_planes, planes) for _ in range(blocks - 1)))


def is_name(arch: str) -> bool:
    """Whether `arch` names one of these networks, with a depth that exists."""
    return split_width(arch, ARCHS) is not None


def build(arch: str, classes: int, imagenet_stem: bool = False) -> ResNet:
    """The network that `arch` names (`is_name` says whether one does): images (N, 3, H, W) to logits (N, `classes`)."""
    name, width = split_width(arch, ARCHS)
    net = ResNet(*ARCHS[name], width, classes, imagenet_stem)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):  # as in torchvision's networks
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
