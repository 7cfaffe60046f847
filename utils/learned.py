"""Interpolation weights found by gradient descent on validation images, as in Wortsman et al. 2022 (learned soup).

One weight a member, or one a member and layer or block, softmax-parametrised, so that the mixture stays between them.
Unlike theirs, no temperature of the logits is learned along with the weights.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from utils.errors import UserError
from utils.pools import Member, Pool, Tools, ticket_alone
from utils.pruning import State

SAID_EVERY = 10  # steps

# What `--learned_per` names: functions from a tensor's name to its group. Tensors of one group have the same shares.
Grouping = Callable[[str], str]
GROUPS: dict[str, Grouping] = {
    "network": lambda name: "",
    # layer1.0 of layer1.0.conv1.weight; a VGG has no blocks, and its layers stand alone.
    "block": lambda name: ".".join(name.split(".")[:-1][:2]),
    "layer": lambda name: name.rpartition(".")[0],
}


def learned(
    members: Sequence[Member], tools: Tools, steps: int, learning_rate: float, groups: Grouping = GROUPS["network"]
) -> Pool:
    """The mixture of `members` (the ticket first) with learned shares, finished; accepted whatever it scores.

    Its score is measured on the images that its shares were fitted to, and so is too high. All members are in memory
    together. Where `groups` of tensors have shares of their own, the pool's `shares` are the means over all weights.
    UserError where the loss diverges.
    """
    if len(members) == 1:
        return ticket_alone(members[0])
    ticket = members[0].read()
    stacked = stack([ticket, *(member.read() for member in members[1:])])
    shares = learn_shares(stacked, ticket, tools, steps, learning_rate, groups)
    pool = tools.finish(_detached(mix(stacked, shares), ticket), 1)
    weights = torch.tensor([values[0].numel() for values in stacked.values()], dtype=torch.float64)
    overall = weights / weights.sum() @ torch.stack([shares[name] for name in stacked]).cpu()
    overall = overall.clamp(max=1.0)  # rounding may leave a little more
    levels = [member.level for member in members]
    return Pool(pool, tools.score(pool), dict(zip(levels, overall.tolist(), strict=True)))


def learn_shares(
    stacked: State,
    ticket: State,
    tools: Tools,
    steps: int,
    learning_rate: float,
    groups: Grouping = GROUPS["network"],
) -> dict[str, Tensor]:
    """For each tensor the shares (N, float64) of the networks in `stacked`, `ticket` the first, learned on the loss.

    Each of the `steps` of Adam mixes, prunes and recalibrates (always on the same images), and takes the gradient at
    the network that this gives. Pruning and batch-norm statistics count as constant there (straight through), so that a
    weight that is pruned now still says which way to mix. All shares are equal at first. Two choices were measured by
    the validation loss, on tickets of a resnet20s for CIFAR-100: interpolated statistics ended higher (3.133 against
    3.052, level 2, 5 steps), and so did a start near the ticket (2.932 against 2.921, level 4, 20 steps). UserError
    where it diverges.
    """
    some = next(iter(stacked.values()))
    logits = {
        group: torch.zeros(len(some), dtype=torch.float64, device=some.device, requires_grad=True)
        for group in dict.fromkeys(map(groups, stacked))
    }
    optimizer = torch.optim.Adam(logits.values(), learning_rate)
    for step in range(1, steps + 1):
        mixture = mix(stacked, {name: logits[groups(name)].softmax(0) for name in stacked})
        loss, gradients = tools.loss_gradient(tools.finish(_detached(mixture, ticket), 1))
        if not math.isfinite(loss):
            raise UserError(f"learned: the validation loss is {loss} at step {step}: give a smaller --learned_lr")
        optimizer.zero_grad()
        torch.autograd.backward([mixture[name] for name in gradients], [*gradients.values()])
        optimizer.step()
        if step % SAID_EVERY == 1 or step == steps:
            mean = torch.stack([part.detach().softmax(0) for part in logits.values()]).mean(0)
            shares = " ".join(f"{share:.3f}" for share in mean.tolist())
            tools.say(f"  step {step:3d}: validation loss {loss:.4f}, then shares {shares}")
    return {name: logits[groups(name)].detach().softmax(0) for name in stacked}


def mix(stacked: Mapping[str, Tensor], shares: Mapping[str, Tensor]) -> State:
    """The mean over the first dimension of each tensor, weighted by its shares (N); gradients flow to the shares."""
    return {name: torch.tensordot(shares[name].to(values), values, 1) for name, values in stacked.items()}


def stack(states: Sequence[State]) -> State:
    """All weights and statistics of N networks, by name and along a new first dimension; no integer buffers."""
    names = [name for name, value in states[0].items() if value.is_floating_point()]
    return {name: torch.stack([state[name] for state in states]) for name in names}


def _detached(mixture: State, ticket: State) -> State:
    """A state dict: integer buffers are the ticket's."""
    return {name: mixture[name].detach() if name in mixture else value for name, value in ticket.items()}
