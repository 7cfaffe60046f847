"""The convolutions that residual networks are made of, without biases."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d


def conv3x3(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """Images (N, `in_planes`, H, W) to (N, `planes`, ⌈H/`stride`⌉, ⌈W/`stride`⌉)."""
    return nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """Images (N, `in_planes`, H, W) to (N, `planes`, ⌈H/`stride`⌉, ⌈W/`stride`⌉), with a stride of 1 or 2."""
    if stride == 1:
        return nn.Conv2d(in_planes, planes, kernel_size=1, bias=False)
    return StridedPointwise(in_planes, planes)


class StridedPointwise(nn.Conv2d):
    """A 1×1 convolution with stride 2, as shortcuts have it, safe to train on a CPU.

    It takes every second pixel by itself, and convolves those. On a CPU, oneDNN's own gradient of such a convolution
    writes past the end of its memory where channels are last and fewer than a vector register holds (seen with torch
    2.14 and 2.15: with AVX2 of 2 to 6 channels, with AVX-512 on odd numbers of images).
    """

    def __init__(self, in_planes: int, planes: int):
        super().__init__(in_planes, planes, kernel_size=1, stride=2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return conv2d(avg_pool2d(images, 1, 2), self.weight)
