"""What a network says of each image, and what follows: accuracy, likelihood, calibration, and which of two is better.

Nothing here runs a network; `utils.evaluation.predict` does.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

BINS = 15  # of confidence, as in Guo et al. 2017
TOP = 5
KEPT_BYTES = 2**30


@dataclass(frozen=True)
class Predictions:
    """Measures of one network on N images: float64 tensors (N) on the CPU; `correct` and `in_top5` hold 0 or 1.

    `confidence` is the probability of the class that the network names, `nll` minus the logarithm of the true one's
    (nats), `brier` the squared distance between all probabilities and the truth, 0 to 2 (Brier 1950).
    """

    correct: Tensor
    in_top5: Tensor
    confidence: Tensor
    nll: Tensor
    brier: Tensor

    def summary(self) -> dict[str, Any]:
        """Means over the images: accuracies and `ece` in percent; of no more than five classes all are in the top 5."""
        images = len(self.correct)
        return {
            "images": images,
            "accuracy": 100 * float(self.correct.sum()) / images,
            "top5_accuracy": 100 * float(self.in_top5.sum()) / images,
            "nll": float(self.nll.mean()),
            "ece": calibration_error(self.bins()),
            "brier": float(self.brier.mean()),
        }

    def bins(self) -> list[dict[str, float]]:
        """The reliability diagram: for each of 15 equal bins of confidence, (0, 1/15] to (14/15, 1], sums over images.

        `images`, how many of them are `correct`, and `confidence_sum`, of 0 to 1 each.
        """
        index = (self.confidence * BINS).ceil().long().clamp(1, BINS) - 1
        counts = torch.bincount(index, minlength=BINS).tolist()
        sums = [torch.bincount(index, value, minlength=BINS).tolist() for value in (self.correct, self.confidence)]
        return [
            {"images": images, "correct": round(correct), "confidence_sum": confidence}
            for images, correct, confidence in zip(counts, *sums, strict=True)
        ]


FIELDS = len(fields(Predictions))


def per_image(logits: Tensor, labels: Tensor) -> Tensor:
    """The fields of `Predictions` as rows (5×N float64) for `logits` (N × outputs) and `labels` (N int64).

    There may be more outputs than classes: they share the probability like any other.
    """
    logs = log_softmax(logits.double(), 1)
    predicted = logits.float().argmax(1)  # as `evaluate` counts: of equal logits, which bfloat16 often gives, one
    true = logs.gather(1, labels[:, None])
    before = torch.arange(logs.shape[1], device=logs.device) < labels[:, None]  # of equals the first is ahead
    ahead = ((logs > true) | (before & (logs == true))).sum(1)
    confidence = logs.gather(1, predicted[:, None]).squeeze(1).exp()
    brier = logs.exp().square().sum(1) - 2 * true.squeeze(1).exp() + 1
    return torch.stack([predicted == labels, ahead < TOP, confidence, -true.squeeze(1), brier])


def mean_probabilities(answers: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The mean of several networks' probabilities (N × outputs), and the labels (N) of the images.

    `answers` are these two for each network, on the same images; those of two networks are in memory at a time.
    """
    answers = iter(answers)
    mean, labels = next(answers)
    for number, (probabilities, _) in enumerate(answers, start=2):
        mean = mean + (probabilities - mean) / number
    return mean, labels


class ProbabilityCache:
    """A cache of networks' probabilities and labels, as `mean_probabilities` takes them.

    So a network runs once for all its ensembles. It holds KEPT_BYTES of probabilities at most; what has no room is
    computed each time.
    """

    def __init__(self):
        self._found: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def get(self, network: Hashable, run: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """What `run` gives for this network."""
        if network in self._found:
            return self._found[network]
        found = run()
        if sum(probabilities.nbytes for probabilities, _ in [*self._found.values(), found]) <= KEPT_BYTES:
            self._found[network] = found
        return found


def as_logits(probabilities: Tensor) -> Tensor:
    """Logits whose softmax is `probabilities` (N × outputs); one that was rounded to 0 counts as the least above it."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error in percent (Guo et al. 2017): |accuracy - confidence| of each bin, by its images."""
    gaps = sum(abs(bin["correct"] - bin["confidence_sum"]) for bin in bins)
    return 100 * gaps / sum(bin["images"] for bin in bins)


@dataclass(frozen=True)
class McNemarResult:
    """Two networks on the same images: which images one alone has right, and McNemar's exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Predictions, second: Predictions) -> McNemarResult:
    """Whether two networks differ by more than chance (McNemar 1947), by the images that just one has right.

    If they were equally good, each of these images would be a fair coin: an exact binomial test, two-sided. ValueError
    when the two did not see as many images.
    """
    from scipy.stats import binomtest  # here, since it takes a second to import and comparing recorded results does not

    if len(first.correct) != len(second.correct):
        raise ValueError(f"{len(first.correct)} and {len(second.correct)} images cannot be paired")
    only_first = int((first.correct > second.correct).sum())
    only_second = int((second.correct > first.correct).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemarResult(only_first, only_second, p_value)
