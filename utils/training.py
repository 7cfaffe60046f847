"""One epoch of training, the optimizer, the learning-rate schedule."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from utils.evaluation import Score, autocast
from utils.pruning import Mask


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` epochs, then ×`gamma` at every milestone (epochs)."""

    base: float
    milestones: tuple[int, ...]
    warmup: int = 0
    gamma: float = 0.1

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        """The rate of the 0-based `step` of `steps` in the 0-based `epoch`: a function of time, nothing is carried."""
        decayed = self.base * self.gamma ** bisect_right(self.milestones, epoch)
        if epoch < self.warmup:
            decayed *= (epoch * steps + step + 1) / (self.warmup * steps)
        return decayed

    def state(self, epoch: int) -> dict:
        """What torch's `MultiStepLR` would save after `epoch` epochs, for programs that go on with one."""
        rate = self.base * self.gamma ** bisect_right(self.milestones, epoch)
        return {
            "milestones": {milestone: self.milestones.count(milestone) for milestone in self.milestones},
            "gamma": self.gamma,
            "base_lrs": [self.base],
            "last_epoch": epoch,
            "_step_count": epoch + 1,
            "_last_lr": [rate],
        }


def make_optimizer(net: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay)


def train_epoch(
    net: nn.Module,
    optimizer: torch.optim.SGD,
    batches: Iterable[tuple[Tensor, Tensor]],
    rates: Iterable[float],
    mask: Mask | None = None,
    amp: bool = False,
) -> Score:
    """One pass over `batches` of (images N×3×H×W, labels N) at one learning rate a batch; returns the training score.

    Weights that `mask` prunes are set to zero after every step: momentum or weight decay could move them otherwise.
    """
    net.train()
    device = next(net.parameters()).device
    pruned = _pruned_weights(net, mask)
    images, correct, loss_sum = 0, 0, 0.0
    for (inputs, labels), rate in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        with autocast(device, amp):
            outputs = net(inputs)
            loss = cross_entropy(outputs.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        zero_pruned(pruned)
        with torch.no_grad():
            images += len(labels)
            correct += (outputs.argmax(1) == labels).sum()
            loss_sum += loss.detach().double() * len(labels)
    return Score(int(correct), images, float(loss_sum))


def _pruned_weights(net: nn.Module, mask: Mask | None) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and their masks as two lists, which torch multiplies in one call for all layers."""
    parameters = dict(net.named_parameters())
    weights = [parameters[name] for name in mask or {}]
    return weights, [part.to(weight) for weight, part in zip(weights, (mask or {}).values(), strict=True)]


@torch.no_grad()
def zero_pruned(pruned: tuple[list[Tensor], list[Tensor]]) -> None:
    weights, masks = pruned
    if weights:
        torch._foreach_mul_(weights, masks)
