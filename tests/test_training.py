import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.optim.lr_scheduler import MultiStepLR

from utils.distributed import SINGLE
from utils.training import Schedule, _pruned_weights, make_optimizer, restore_momentum, train_epoch


def make_net(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def make_batches(count: int = 6, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(2)
    return [
        (torch.randn(size, 3, 6, 6, generator=draws), torch.randint(0, 3, (size,), generator=draws))
        for _ in range(count)
    ]


def half_masks(net: nn.Module) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(3)
    shapes = {name: net.get_parameter(name).shape for name in ("0.weight", "3.weight")}
    return {name: torch.rand(shape, generator=draws) < 0.5 for name, shape in shapes.items()}


def zero_where_pruned(net: nn.Module, mask: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, part in mask.items():
            net.get_parameter(name).mul_(part)


# One epoch of training.


def test_pruned_weights_are_zero_after_every_step():
    net = make_net()
    mask, checked = half_masks(net), []
    zero_where_pruned(net, mask)

    def batches():
        for batch in make_batches(6):
            yield batch
            checked.append(all((net.get_parameter(name)[~part] == 0).all() for name, part in mask.items()))

    optimizer = make_optimizer(net, 0.5, momentum=0.9, weight_decay=0.1)
    train_epoch(net, optimizer, batches(), [0.5] * 6, mask)
    assert checked == [True] * 6
    # They had every reason to move.
    momenta = [optimizer.state[net.get_parameter(name)]["momentum_buffer"][~part] for name, part in mask.items()]
    assert all((momentum != 0).any() for momentum in momenta)


def test_weights_that_were_not_zero_become_so_with_the_first_step():
    net = make_net()
    mask = half_masks(net)
    train_epoch(net, make_optimizer(net, 0.1, 0.9, 0.0), make_batches(1), [0.1], mask)
    assert all((net.get_parameter(name)[~part] == 0).all() for name, part in mask.items())
    assert all((net.get_parameter(name)[part] != 0).all() for name, part in mask.items())


def test_kept_weights_train_as_under_the_pruning_of_torch():
    net, reference = make_net(), make_net()
    mask = half_masks(net)
    zero_where_pruned(net, mask)
    for name, part in mask.items():
        prune.custom_from_mask(reference.get_submodule(name.removesuffix(".weight")), "weight", part)
    rates = [0.1, 0.1, 0.05, 0.05, 0.01, 0.2]

    # What the paper's scripts do.
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    for (images, labels), rate in zip(make_batches(6), rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        cross_entropy(reference(images), labels).backward()
        optimizer.step()
    for name in mask:
        prune.remove(reference.get_submodule(name.removesuffix(".weight")), "weight")

    before = {name: value.clone() for name, value in net.state_dict().items()}
    train_epoch(net, make_optimizer(net, 0.1, 0.9, 1e-2), make_batches(6), rates, mask)
    for name, value in net.state_dict().items():
        assert torch.allclose(value, reference.state_dict()[name], rtol=1e-5, atol=1e-7), name
        assert not torch.equal(value, before[name]), name


def test_masks_lie_in_memory_as_their_weights_do():
    """Else torch multiplies layer by layer."""
    net = make_net().to(memory_format=torch.channels_last)
    mask = half_masks(net)
    weights, masks = _pruned_weights(net, mask)
    for weight, part, expected in zip(weights, masks, mask.values(), strict=True):
        assert part.stride() == weight.stride() and not part.requires_grad
        assert torch.equal(part, expected.float())


def test_a_network_without_a_mask_trains_all_of_its_weights():
    net = make_net()
    before = {name: value.clone() for name, value in net.named_parameters()}
    train_epoch(net, make_optimizer(net, 0.1, 0.9, 0.0), make_batches(1), [0.1])
    assert all((value != before[name]).any() for name, value in net.named_parameters())


def test_every_batch_is_trained_at_its_own_rate():
    """A weight that only decays shrinks by 1 - rate with each batch: 1 · (1 - 0.5) · (1 - 0.25) · (1 - 0) = 0.375."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    nn.init.ones_(net[1].weight)
    batches = [(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]))] * 3
    train_epoch(net, make_optimizer(net, 9.0, momentum=0.0, weight_decay=1.0), batches, [0.5, 0.25, 0.0])
    assert net[1].weight.flatten().tolist() == [0.375, 0.375]


def test_the_training_score_is_that_of_each_batch_before_its_step():
    """A bias that starts at 0 and learns the labels 0, 0 at rate 1: it is (1/2, -1/2) when the second batch comes."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    batches = [
        (torch.zeros(2, 1, 1, 1), torch.tensor([0, 0])),
        (torch.zeros(3, 1, 1, 1), torch.tensor([0, 1, 1])),
    ]
    score = train_epoch(net, make_optimizer(net, 1.0, 0.0, 0.0), batches, [1.0, 1.0]).total(SINGLE)
    # The first batch is undecided (argmax is 0), the second says 0 with odds e.
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert (score.correct, score.images) == (3, 5)
    assert score.loss_sum == pytest.approx(2 * math.log(2) + right + 2 * wrong, rel=1e-6)


def test_training_uses_and_updates_the_statistics_of_the_batches():
    net = make_net().eval()
    train_epoch(net, make_optimizer(net, 0.1, 0.9, 0.0), make_batches(3), [0.1] * 3)
    assert net.training
    assert net[1].num_batches_tracked.item() == 3


@pytest.mark.parametrize("rates", [[0.1], [0.1] * 3])
def test_more_or_fewer_rates_than_batches_are_an_error(rates):
    net = make_net()
    with pytest.raises(ValueError, match="zip"):
        train_epoch(net, make_optimizer(net, 0.1, 0.9, 0.0), make_batches(2), rates)


def test_fused_steps_equal_plain_ones_to_rounding():
    nets = make_net(), make_net()
    plain = torch.optim.SGD(nets[1].parameters(), 0.1, momentum=0.9, weight_decay=1e-4, foreach=False, fused=False)
    for net, optimizer in zip(nets, (make_optimizer(nets[0], 0.1, 0.9, 1e-4), plain), strict=True):
        train_epoch(net, optimizer, make_batches(6), [0.1, 0.05] * 3, half_masks(net))
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict(), rtol=1e-5, atol=1e-6)


def test_mixed_precision_leaves_weights_and_statistics_in_float32(monkeypatch):
    monkeypatch.setattr("utils.evaluation.has_bfloat16", lambda device: True)
    net, exact = make_net(), make_net()
    mask = half_masks(net)
    train_epoch(net, make_optimizer(net, 0.1, 0.9, 1e-4), make_batches(3), [0.1] * 3, mask, amp=True)
    train_epoch(exact, make_optimizer(exact, 0.1, 0.9, 1e-4), make_batches(3), [0.1] * 3, mask)
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32, torch.int64}
    assert all((net.get_parameter(name)[~part] == 0).all() for name, part in mask.items())
    assert not torch.equal(net[6].weight, exact[6].weight)
    assert torch.allclose(net[6].weight, exact[6].weight, atol=0.05)


# The learning-rate schedule.


def test_warm_up_rises_in_equal_steps_from_the_first_batch_to_the_base():
    schedule = Schedule(0.8, (5,), warmup=2)
    rates = [schedule.learning_rate(epoch, step, 4) for epoch in range(3) for step in range(4)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8])


@pytest.mark.parametrize(
    "epoch, rate", [(0, 0.1), (90, 0.1), (91, 0.01), (135, 0.01), (136, 0.001), (181, 0.001), (500, 0.001)]
)
def test_the_rate_falls_tenfold_at_every_milestone(epoch, rate):
    schedule = Schedule(0.1, (91, 136))
    assert schedule.learning_rate(epoch, 0, 352) == pytest.approx(rate)
    assert schedule.learning_rate(epoch, 351, 352) == pytest.approx(rate)


def test_a_milestone_at_the_first_epoch_and_another_factor_count_too():
    schedule = Schedule(1.0, (0, 2), gamma=0.5)
    assert [schedule.learning_rate(epoch, 0, 1) for epoch in range(4)] == [0.5, 0.5, 0.25, 0.25]


def torch_schedule(schedule: Schedule) -> tuple[torch.optim.SGD, MultiStepLR]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], schedule.base)
    return optimizer, MultiStepLR(optimizer, schedule.milestones, schedule.gamma)


SCHEDULES = pytest.mark.parametrize(
    "schedule, epochs",
    [
        (Schedule(0.1, (91, 136)), 182),
        (Schedule(0.4, (30, 60, 80)), 90),
        (Schedule(0.1, ()), 5),
        (Schedule(0.1, (3, 3, 5)), 8),
        (Schedule(0.1, (5, 2)), 8),
        (Schedule(0.3, (1, 4), gamma=0.2), 8),
    ],
    ids=["cifar", "imagenet", "constant", "twice at once", "not in order", "another factor"],
)


@SCHEDULES
def test_rates_are_those_of_torch_in_every_epoch(schedule, epochs):
    optimizer, scheduler = torch_schedule(schedule)
    for epoch in range(epochs):
        assert schedule.learning_rate(epoch, 0, 1) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


@SCHEDULES
def test_the_state_after_an_epoch_is_what_torch_would_save(schedule, epochs):
    optimizer, scheduler = torch_schedule(schedule)
    for epoch in range(epochs):
        expected, state = scheduler.state_dict(), schedule.state(epoch)
        for name in ("milestones", "gamma", "base_lrs", "last_epoch", "_step_count"):
            assert state[name] == expected[name]
        assert state["_last_lr"] == pytest.approx(expected["_last_lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("done", range(9))
def test_a_scheduler_of_torch_goes_on_from_the_state_of_any_epoch(done):
    schedule = Schedule(0.1, (2, 5), warmup=1)
    expected = [0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001, 0.001]
    optimizer, scheduler = torch_schedule(schedule)
    scheduler.load_state_dict(schedule.state(done))
    optimizer.param_groups[0]["lr"] = scheduler.get_last_lr()[0]
    rates = []
    for _ in range(done, 9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected[done:])
    assert scheduler.last_epoch == 9


# The momentum of a saved run.


def test_momentum_is_all_that_is_taken_from_a_saved_optimizer():
    net = torch.nn.Linear(3, 2)
    saved, fresh = (make_optimizer(net, rate, 0.9, 1e-4) for rate in (0.1, 0.4))
    net(torch.ones(1, 3)).sum().backward()
    saved.step()
    state = saved.state_dict()
    state["param_groups"][0].update(lr="large", maximize=True)
    restore_momentum(fresh, state, [*net.parameters()])
    assert fresh.param_groups[0]["lr"] == 0.4 and not fresh.param_groups[0]["maximize"]
    for parameter in net.parameters():
        assert torch.equal(fresh.state[parameter]["momentum_buffer"], saved.state[parameter]["momentum_buffer"])


def test_before_the_first_step_there_is_no_momentum():
    net = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(net, 0.1, 0.9, 0.0)
    restore_momentum(optimizer, optimizer.state_dict(), [*net.parameters()])
    assert not optimizer.state


@pytest.mark.parametrize("saved, taken", [(0, 1), (1, 0), (1, 1)], ids=str)
def test_momentum_is_each_weights_own_however_both_lie_in_memory(saved, taken):
    """With 0 channel by channel, with 1 channels last, as --channels_last has it."""
    layouts = (torch.contiguous_format, torch.channels_last)
    first, second = (make_net().to(memory_format=layouts[layout]) for layout in (saved, taken))
    before, after = (make_optimizer(net, 0.1, 0.9, 0.0) for net in (first, second))
    train_epoch(first, before, make_batches(2), [0.1] * 2)
    second.load_state_dict(first.state_dict())
    restore_momentum(after, copy.deepcopy(before.state_dict()), [*second.parameters()])
    for net, optimizer in ((first, before), (second, after)):
        train_epoch(net, optimizer, make_batches(2), [0.1] * 2)
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=1e-5, atol=1e-6)


def test_momentum_is_numbered_in_the_order_that_is_given():
    net = torch.nn.Linear(3, 2)
    saved = {"state": {0: {"momentum_buffer": torch.ones(2)}, 1: {"momentum_buffer": torch.full((2, 3), 2.0)}}}
    optimizer = make_optimizer(net, 0.1, 0.9, 0.0)
    restore_momentum(optimizer, saved, [net.bias, net.weight])
    assert (optimizer.state[net.bias]["momentum_buffer"] == 1).all()
    assert (optimizer.state[net.weight]["momentum_buffer"] == 2).all()
