"""1×1 convolutions with stride, as residual networks have them in their shortcuts, safe to train on a CPU."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d


class StridedPointwise(nn.Conv2d):
    """A 1×1 convolution with stride 2, of images (N, C, H, W) to (N, `out_channels`, ⌈H/2⌉, ⌈W/2⌉), without a bias.

    It takes every second pixel by itself, and convolves those. On a CPU, oneDNN's own gradient of such a convolution
    writes past the end of its memory where channels are last and fewer than a vector register holds (seen with torch
    2.14 and 2.15: with AVX2 of 2 to 6 channels, with AVX-512 on odd numbers of images).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1, stride=2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return conv2d(avg_pool2d(images, 1, 2), self.weight)


def make_shortcuts_safe(net: nn.Module) -> None:
    """Replace every 1×1 convolution of `net` with stride 2 and no bias by a `StridedPointwise` of the same weights."""
    for module in [*net.modules()]:
        for name, layer in module.named_children():
            strided = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride == (2, 2)
            if strided and layer.bias is None:
                safe = StridedPointwise(layer.in_channels, layer.out_channels)
                safe.weight = layer.weight
                setattr(module, name, safe)
