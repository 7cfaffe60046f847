"""One epoch of training, the optimizer, the learning-rate schedule."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from utils.batchnorm import lone_image_explained
from utils.distributed import Processes
from utils.evaluation import Score, autocast, total_score
from utils.images import Batch
from utils.pruning import Mask


@dataclass(frozen=True)
class Schedule:
    """The rate `base`, times `gamma` at every milestone (epochs).

    Over the first `warmup` epochs it rises linearly to that.
    """

    base: float
    milestones: tuple[int, ...]
    warmup: int = 0
    gamma: float = 0.1

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        """The rate of the 0-based `step` of `steps` in the 0-based `epoch`: a function of time, nothing is carried."""
        rate = self.decayed(epoch)
        if epoch < self.warmup:
            rate *= (epoch * steps + step + 1) / (self.warmup * steps)
        return rate

    def state(self, epoch: int) -> dict:
        """What torch's `MultiStepLR` would save after `epoch` epochs, for programs that go on with one."""
        return {
            "milestones": {milestone: self.milestones.count(milestone) for milestone in self.milestones},
            "gamma": self.gamma,
            "base_lrs": [self.base],
            "last_epoch": epoch,
            "_step_count": epoch + 1,
            "_last_lr": [self.decayed(epoch)],
        }

    def decayed(self, epoch: int) -> float:
        """The rate of the 0-based `epoch` without warm-up."""
        return self.base * self.gamma ** sum(milestone <= epoch for milestone in self.milestones)


def make_optimizer(net: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)


@dataclass
class EpochSums:
    """An epoch so far, in this process: batches, images, how many are correct, summed loss of the images (nats)."""

    batches: int = 0
    images: int = 0
    correct: int | Tensor = 0
    loss_sum: float | Tensor = 0.0

    def total(self, processes: Processes) -> Score:
        """Over all processes; reads the device."""
        return total_score(int(self.correct), self.images, float(self.loss_sum), processes)


@torch.no_grad()
def restore_momentum(optimizer: torch.optim.SGD, saved: dict, order: Sequence[nn.Parameter]) -> None:
    """Take the momentum from `saved`, the state dict of such an optimizer, and leave the rest as the flags have it.

    `order` is that in which `saved` numbers the parameters. ValueError where it is not one finite tensor of a
    parameter's shape for each; before the first step there is none.
    """
    (group,) = optimizer.param_groups
    state = saved.get("state")
    if state == {} or group["momentum"] == 0:
        return
    if type(state) is not dict or {*state} != {*range(len(order))}:
        raise ValueError("its optimizer has no momentum for each weight")
    found = {}
    for index, parameter in enumerate(order):
        part = state[index]
        momentum = part.get("momentum_buffer") if type(part) is dict and len(part) == 1 else None
        if not isinstance(momentum, Tensor) or momentum.shape != parameter.shape or momentum.dtype != parameter.dtype:
            raise ValueError(f"its optimizer's momentum of weight {index} does not fit")
        if not momentum.isfinite().all():
            raise ValueError(f"its optimizer's momentum of weight {index} is NaN or infinity")
        # Fused steps go through both as they lie in memory, so they must lie alike.
        found[parameter] = {"momentum_buffer": torch.empty_like(parameter).copy_(momentum)}
    optimizer.state.update(found)


def train_epoch(
    net: nn.Module,
    optimizer: torch.optim.SGD,
    batches: Iterable[Batch],
    rates: Iterable[float],
    mask: Mask | None = None,
    amp: bool = False,
    forward: nn.Module | None = None,
    sums: EpochSums | None = None,
) -> EpochSums:
    """One pass over `batches` of (images N×3×H×W, labels N) at one learning rate a batch; returns what it came to.

    Weights that `mask` prunes are set to zero after every step: momentum or weight decay could move them otherwise.
    `forward` is `net` by default; several processes give what wraps it and averages their gradients. `sums` grow with
    each batch: where `batches` raise an error, they and the network are those of the batches before it.
    """
    forward = net if forward is None else forward
    net.train()
    device = next(net.parameters()).device
    weights, masks = _pruned_weights(net, mask)
    sums = sums or EpochSums()
    for (inputs, labels), rate in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        with autocast(device, amp), lone_image_explained():
            outputs = forward(inputs)
            loss = cross_entropy(outputs.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            if weights:
                torch._foreach_mul_(weights, masks)
            sums.batches += 1
            sums.images += len(labels)
            sums.correct += (outputs.argmax(1) == labels).sum()
            sums.loss_sum += loss.detach().double() * len(labels)
    return sums


def _pruned_weights(net: nn.Module, mask: Mask | None) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and their masks as two lists, which torch multiplies in one call where they lie alike in memory."""
    parameters, mask = dict(net.named_parameters()), mask or {}
    weights = [parameters[name] for name in mask]
    return weights, [torch.empty_like(parameters[name]).copy_(part) for name, part in mask.items()]
