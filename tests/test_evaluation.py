"""What a network is worth, and the evaluator that scores, recalibrates and differentiates states."""

import copy
import math

import pytest
import torch
from tiny_imp import Data, make_net
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import models
from CIFAR.dataset import load_data
from utils.evaluation import Evaluator, Score, autocast, evaluate, precision_name

# Scores. The "network" reads its answers from the images: one pixel a class.


def answers(*logits: list[float]) -> torch.Tensor:
    return torch.tensor(logits)[:, :, None, None]


def test_a_score_is_in_percent_and_nats_an_image():
    score = Score(correct=3, images=8, loss_sum=4.0)
    assert (score.accuracy, score.loss) == (37.5, 0.5)


def test_right_answers_and_losses_are_summed_over_batches_of_any_size():
    third = math.log(3)
    batches = [
        (answers([0, third], [third, 0], [0, third]), torch.tensor([1, 1, 1])),
        (answers([third, 0]), torch.tensor([0])),
    ]
    score = evaluate(nn.Flatten(), batches)
    # Odds of 3 to 1: -log(3/4) where the answer is right, -log(1/4) where it is wrong.
    assert (score.correct, score.images) == (3, 4)
    assert score.loss_sum == pytest.approx(3 * math.log(4 / 3) + math.log(4), rel=1e-6)
    assert type(score.correct) is type(score.images) is int


def test_the_loss_is_that_of_torch():
    batches, net = [*Data().train_batches(7)], make_net()
    score = evaluate(net, batches)
    images, labels = map(torch.cat, zip(*batches, strict=True))
    outputs = net.eval()(images)
    assert score.loss == pytest.approx(cross_entropy(outputs, labels).item(), rel=1e-5)
    assert score.correct == sum(int(row.argmax() == label) for row, label in zip(outputs, labels, strict=True))


def test_an_evaluation_neither_uses_nor_changes_the_statistics_of_its_images():
    net = make_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batches = [*Data().train_batches(8)]
    together = evaluate(net, batches)
    one_by_one = [
        (image, label)
        for images, labels in batches
        for image, label in zip(images.split(1), labels.split(1), strict=True)
    ]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert evaluate(net, one_by_one).loss == pytest.approx(together.loss, rel=1e-5)


class FourImages:
    """The same four images in both splits; all are class 0 in validation, half of them in test."""

    def eval_batches(self, split):
        labels = {"val": [0, 0, 0, 0], "test": [0, 1, 0, 1]}[split]
        yield torch.ones(4, 1, 1, 1), torch.tensor(labels)


def test_validation_and_test_score_the_state_that_is_given():
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    evaluator = Evaluator("tiny", [net], FourImages(), batch_size=4)
    says_0 = {"1.weight": torch.tensor([[1.0], [0.0]]), "1.bias": torch.zeros(2)}
    says_1 = {"1.weight": torch.tensor([[0.0], [1.0]]), "1.bias": torch.zeros(2)}
    assert [evaluator.validate(state).accuracy for state in (says_0, says_1, says_0)] == [100.0, 0.0, 100.0]
    assert evaluator.test(says_0).accuracy == 50.0


# Recalibration.


class OneBatch:
    """Data that remember what they were asked for."""

    def __init__(self):
        self.calls = []

    def bn_batches(self, batch_size, *purpose, limit=0):
        self.calls.append((batch_size, purpose, limit))
        yield torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([0, 1])


def test_a_state_gets_statistics_of_its_own_and_stays_as_it_was():
    data, net = OneBatch(), nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    state = {**copy.deepcopy(net.state_dict()), "0.weight": torch.full((1, 1, 1, 1), 3.0)}
    result = Evaluator("tiny", [net], data, 128, bn_images=1000).recalibrate(state, 41, "recalibrate", 5, 2)
    assert data.calls == [(128, (41, "recalibrate", 5, 2), 1000)]
    assert result["0.weight"].item() == 3.0
    assert result["1.running_mean"].item() == 6.0
    assert state["1.running_mean"].item() == 0.0


def test_without_updates_a_state_keeps_its_statistics_unless_images_are_asked_for():
    data, net = OneBatch(), nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    state = {**copy.deepcopy(net.state_dict()), "0.weight": torch.full((1, 1, 1, 1), 3.0)}
    evaluator = Evaluator("tiny", [net], data, 128, bn_images=1000, update_bn=False)
    assert evaluator.recalibrate(state, 1) is state and not data.calls
    assert evaluator.recalibrate(state, 1, bn_images=0)["1.running_mean"].item() == 6.0
    assert data.calls == [(128, (1,), 0)]


def test_the_next_state_does_not_change_the_one_before():
    """One network lends itself to all of them."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    evaluator, state = Evaluator("tiny", [net], OneBatch(), 128), copy.deepcopy(net.state_dict())
    first = evaluator.recalibrate({**state, "0.weight": torch.full((1, 1, 1, 1), 3.0)}, 1)
    evaluator.recalibrate({**state, "0.weight": torch.full((1, 1, 1, 1), 5.0)}, 1)
    assert (first["0.weight"].item(), first["1.running_mean"].item()) == (3.0, 6.0)


# Arithmetic and gradients.


def test_a_device_without_bfloat16_computes_in_float32_and_says_so(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("utils.evaluation.has_bfloat16", lambda device: False)
    with autocast(cpu, amp=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert precision_name(cpu, amp=True).startswith("float32 (")
    assert precision_name(cpu, amp=False) == "float32"
    monkeypatch.setattr("utils.evaluation.has_bfloat16", lambda device: True)
    with autocast(cpu, amp=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert precision_name(cpu, amp=True) == "bfloat16"


def test_float32_on_a_gpu_is_called_what_its_convolutions_compute_in(monkeypatch):
    gpu = torch.device("cuda")  # to be named, not to be used
    monkeypatch.setattr("utils.evaluation.has_bfloat16", lambda device: True)
    for allowed, name in ((True, "float32 (convolutions in TF32)"), (False, "float32")):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert precision_name(gpu, amp=False) == name
    monkeypatch.setattr("utils.evaluation.has_bfloat16", lambda device: False)  # nor has it TF32
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert precision_name(gpu, amp=False) == "float32"


@pytest.mark.parametrize("amp", [False, True])
def test_loss_and_gradient_on_validation_images_are_those_of_plain_autograd(amp, monkeypatch):
    monkeypatch.setattr("utils.evaluation.has_bfloat16", lambda device: True)
    data = load_data("digits", None, "cpu", val_images=1201, data_limit=1400)  # the last batches are smaller
    net = models.build("cifar_resnet_8_4", len(data.classes), data.mean, data.std)
    evaluator = Evaluator("cifar_resnet_8_4", [net], data, 64, amp=amp)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    assert evaluator.validate(state).images == 1201
    loss, gradients = evaluator.loss_gradient(state)
    leaves = {name: state[name].clone().requires_grad_() for name, _ in net.named_parameters()}
    images = data.val.images.permute(0, 3, 1, 2) / 255
    expected = cross_entropy(functional_call(net.eval(), {**state, **leaves}, (images,)), data.val.labels)
    expected.backward()
    tolerance = {"rtol": 0.1, "atol": 0.05} if amp else {"rtol": 1e-4, "atol": 1e-6}
    assert loss == pytest.approx(expected.item(), rel=1e-2 if amp else 1e-5)
    assert {*gradients} == {*leaves}
    for name, leaf in leaves.items():
        torch.testing.assert_close(gradients[name], leaf.grad, **tolerance)
