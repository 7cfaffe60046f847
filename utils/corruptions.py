"""Corrupted test images (Hendrycks and Dietterich 2019): which corruptions there are and what is averaged over them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Protocol

from utils.images import Batch

SEVERITIES = (1, 2, 3, 4, 5)
# Those of CIFAR-10-C, CIFAR-100-C and ImageNet-C that count for the mean, in the paper's order; the data sets hold
# four more (speckle_noise, gaussian_blur, spatter, saturate) for choosing hyper-parameters by.
STANDARD = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)


class CorruptedImages(Protocol):
    """The test images of a data set, each under every one of the corruptions `names` at each of the SEVERITIES."""

    names: Sequence[str]

    def batches(self, corruption: str, severity: int, batch_size: int) -> Iterator[Batch]:
        """This process's part: images N×3×H×W in 0..1 and labels N, on the device."""


def in_order(names: Iterable[str]) -> list[str]:
    """The standard corruptions in the paper's order, then the others by name."""
    names = set(names)
    return [*(name for name in STANDARD if name in names), *sorted(names - set(STANDARD))]


def mean_accuracy(accuracies: Mapping[str, Sequence[float]]) -> float | None:
    """The mean over severities and the standard corruptions that are there; None if there are none of these.

    `accuracies` maps each corruption to one value a severity.
    """
    means = [mean(values) for name, values in accuracies.items() if name in STANDARD]
    return mean(means) if means else None


def counted(names: Iterable[str]) -> str:
    """Which of the corruptions `names` count for `mean_accuracy`, for people."""
    found = [name for name in names if name in STANDARD]
    if len(found) == len(STANDARD):
        return f"the {len(STANDARD)} standard corruptions"
    return f"{len(found)} of the {len(STANDARD)} standard corruptions ({', '.join(found) or 'none is there'})"
