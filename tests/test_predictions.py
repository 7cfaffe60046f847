"""Metrics of single networks and pairs, against scikit-learn and against formulas written out."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss, top_k_accuracy_score
from torch import nn

from utils.evaluation import evaluate, predict
from utils.predictions import BINS, Predictions, calibration_error, mcnemar, per_image


def random_logits(images: int = 200, outputs: int = 12, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(images, outputs, generator=draws)
    return logits, torch.randint(0, outputs, (images,), generator=draws)


def predictions(logits: torch.Tensor, labels: torch.Tensor) -> Predictions:
    return Predictions(*per_image(logits, labels))


def of_correct(correct: list[int], confidence: list[float] | None = None) -> Predictions:
    """Predictions of which nothing else matters."""
    zeros = torch.zeros(len(correct), dtype=torch.float64)
    sure = zeros + 0.5 if confidence is None else torch.tensor(confidence, dtype=torch.float64)
    return Predictions(torch.tensor(correct, dtype=torch.float64), zeros, sure, zeros, zeros)


class Outputs(nn.Module):
    """A network whose images are its logits; in training mode it answers otherwise."""

    def forward(self, images):
        return images if not self.training else -images


# One network


def test_metrics_are_those_of_scikit_learn():
    logits, labels = random_logits()
    summary = predictions(logits, labels).summary()
    probabilities = logits.double().softmax(1).numpy()
    classes = range(12)
    assert summary["images"] == 200
    assert summary["accuracy"] == 100 * (logits.argmax(1) == labels).double().mean()
    assert summary["top5_accuracy"] == pytest.approx(
        100 * top_k_accuracy_score(labels, probabilities, k=5, labels=classes)
    )
    assert summary["nll"] == pytest.approx(log_loss(labels, probabilities, labels=classes), rel=1e-12)
    one_hot = np.eye(12)[labels]
    assert summary["brier"] == pytest.approx(((probabilities - one_hot) ** 2).sum(1).mean(), rel=1e-12)


def test_brier_score_of_two_classes_is_twice_scikit_learns():
    """scikit-learn counts the one probability, the sum over classes counts both."""
    logits, labels = random_logits(outputs=2)
    score = brier_score_loss(labels, logits.double().softmax(1)[:, 1].numpy())
    assert predictions(logits, labels).summary()["brier"] == pytest.approx(2 * score)


def test_calibration_error_is_the_formula_of_guo_et_al():
    logits, labels = random_logits()
    confidence, predicted = logits.double().softmax(1).max(1)
    error = 0.0
    for lower in range(BINS):
        inside = (confidence > lower / BINS) & (confidence <= (lower + 1) / BINS)
        if inside.any():
            gap = (predicted[inside] == labels[inside]).double().mean() - confidence[inside].mean()
            error += 100 * float(inside.double().mean() * gap.abs())
    assert error > 10
    assert predictions(logits, labels).summary()["ece"] == pytest.approx(error, rel=1e-12)


def test_calibration_error_of_a_small_case_by_hand():
    bins = of_correct([1, 0, 1, 1], [0.61, 0.65, 0.99, 1.0]).bins()  # bins 10 and 15: (0.6, 0.667], (0.933, 1]
    assert {number: bin for number, bin in enumerate(bins, 1) if bin["images"]} == {
        10: {"images": 2, "correct": 1, "confidence_sum": pytest.approx(1.26)},
        15: {"images": 2, "correct": 2, "confidence_sum": pytest.approx(1.99)},
    }
    assert calibration_error(bins) == pytest.approx(100 * (0.26 + 0.01) / 4)


@pytest.mark.parametrize("confidence, number", [(0.0, 0), (1e-9, 0), (1 / 15, 0), (1 / 15 + 1e-9, 1), (1.0, 14)])
def test_bins_are_open_below_and_closed_above(confidence, number):
    assert [bin["images"] for bin in of_correct([1], [confidence]).bins()].index(1) == number


def test_sure_and_right_is_free_sure_and_wrong_is_finite():
    logits = torch.tensor([[200.0, 0, 0], [200.0, 0, 0]])
    found = predictions(logits, torch.tensor([0, 1]))
    assert found.nll.tolist() == pytest.approx([0, 200])
    assert found.brier.tolist() == pytest.approx([0, 2])


def test_of_equal_logits_five_are_the_top_five():
    """bfloat16 gives many equal ones."""
    result = predictions(torch.zeros(12, 12), torch.arange(12))
    assert result.correct.tolist() == [1, *[0] * 11]
    assert result.in_top5.tolist() == [*[1] * 5, *[0] * 7]


def test_top5_of_few_classes_is_everything():
    logits, labels = random_logits(outputs=4)
    assert predictions(logits, labels).summary()["top5_accuracy"] == 100


def test_spare_outputs_share_the_probability():
    logits = torch.zeros(1, 1000)
    found = predictions(logits, torch.tensor([3]))
    assert found.nll.item() == pytest.approx(math.log(1000))
    assert found.brier.item() == pytest.approx(1 - 1 / 1000)


# One pass


def test_a_pass_agrees_with_the_plain_score_whatever_the_batches():
    logits, labels = random_logits()
    net = Outputs().train()
    score = evaluate(net, [(logits, labels)])
    for size in (200, 64, 1):
        found = predict(net.train(), zip(logits.split(size), labels.split(size), strict=True))
        assert torch.equal(found.correct, (logits.argmax(1) == labels).double())
        assert found.summary()["accuracy"] == score.accuracy
        assert found.summary()["nll"] == pytest.approx(score.loss, rel=1e-6)


def test_a_process_without_images_has_nothing_to_say():
    assert len(predict(Outputs(), []).correct) == 0


def test_mixed_precision_counts_in_float64():
    logits, labels = random_logits()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = predict(Outputs(), [(logits, labels)])
    assert found.nll.dtype == torch.float64
    assert found.summary() == predict(Outputs(), [(logits, labels)]).summary()


# Two networks


@pytest.mark.parametrize(
    "only_first, only_second, p_value",
    [(0, 0, 1.0), (1, 0, 1.0), (0, 6, 2 / 2**6), (2, 8, 2 * (1 + 10 + 45) / 2**10), (5, 5, 1.0)],
)
def test_mcnemar_is_the_coin_toss_written_out(only_first, only_second, p_value):
    first = of_correct([1] * only_first + [0] * only_second + [0, 1, 1])
    second = of_correct([0] * only_first + [1] * only_second + [0, 1, 1])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(p_value)
    assert mcnemar(second, first).p_value == pytest.approx(p_value)


def test_other_images_cannot_be_paired():
    with pytest.raises(ValueError, match="2 and 3 images"):
        mcnemar(of_correct([1, 0]), of_correct([1, 0, 1]))
