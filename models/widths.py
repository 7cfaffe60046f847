"""Names of networks with a first width behind them: `resnet18_16` is `resnet18` with 16 first channels."""

import re
from collections.abc import Iterable

FULL_WIDTH = 64  # first channels of VGG and of ImageNet's ResNets in their papers


def split_width(arch: str, names: Iterable[str]) -> tuple[str, int] | None:
    """The one of `names` that `arch` begins with, and the width behind it (none: FULL_WIDTH); None for other words."""
    match = re.fullmatch(rf"({'|'.join(map(re.escape, names))})(?:_([1-9][0-9]*))?", arch)
    return match and (match[1], int(match[2] or FULL_WIDTH))
