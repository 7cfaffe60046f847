"""VGG with batch norm (Simonyan and Zisserman 2015), and one linear layer for a head instead of three."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from models.widths import FULL_WIDTH, split_width

WORDS = "VGG with batch norm, images of 16×16 or more (Simonyan and Zisserman 2015)"
# The paper's configurations A, B, D and E by depth: the channels of each convolution, and M for a max-pool. Without the
# last max-pool, as the published scripts and OpenLTH have it: of 32×32 pixels 2×2 are left, whose mean the head takes.
LAYERS = {
    11: (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    13: (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    16: (64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3),
    19: (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4),
}
ARCHS = {f"vgg{depth}_bn": layers for depth, layers in LAYERS.items()}
PATTERNS = {"vggD_bn_W": "VGG of D = 11, 13, 16 or 19, as wide as W first channels make it instead of 64"}


class VGG(nn.Module):
    """The convolutions of one of `LAYERS`: images (N, 3, H, W) to logits (N, `classes`).

    The first convolution has `width` channels, the last eight times as many. `smallest_image` is the least height and
    width in pixels: each of the four poolings halves them.
    """

    smallest_image = 16

    def __init__(self, layers: Sequence[int | str], width: int, classes: int):
        super().__init__()
        self.features = _features(layer if layer == "M" else layer * width // FULL_WIDTH for layer in layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(8 * width, classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def _features(layers: Iterable[int | str]) -> nn.Sequential:
    modules, in_planes = [], 3
    for planes in layers:
        if planes == "M":
            modules.append(nn.MaxPool2d(2))
        else:
            convolution = nn.Conv2d(in_planes, planes, kernel_size=3, padding=1)
            modules += [convolution, nn.BatchNorm2d(planes), nn.ReLU(inplace=True)]
            in_planes = planes
    return nn.Sequential(*modules)


def is_name(arch: str) -> bool:
    """Whether `arch` names one of these networks, with a depth that exists."""
    return split_width(arch, ARCHS) is not None


def build(arch: str, classes: int) -> VGG:
    """The network that `arch` names (`is_name` says whether one does)."""
    name, width = split_width(arch, ARCHS)
    return VGG(ARCHS[name], width, classes)
