import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from utils.batchnorm import recalibrate


def make_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.BatchNorm2d(6, momentum=0.3),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.BatchNorm1d(5, momentum=None),
    )


def make_batches(*sizes: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(4)
    return [torch.randn(size, 3, 7, 7, generator=draws) * 2 + 1 for size in sizes]


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_statistics_are_the_mean_over_batches():
    net = nn.Sequential(nn.BatchNorm2d(1))
    # Batches 1, 3 (mean 2, variance 2) and 4, 8 (mean 6, variance 8): each batch counts alike.
    recalibrate(net, [torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([4.0, 8.0]).view(2, 1, 1, 1)])
    assert net[0].running_mean.item() == pytest.approx(4.0)
    assert net[0].running_var.item() == pytest.approx(5.0)
    assert net[0].num_batches_tracked.item() == 2


def test_a_small_batch_counts_as_much_as_a_large_one():
    net = nn.Sequential(nn.BatchNorm2d(1))
    recalibrate(net, [torch.zeros(6, 1, 1, 1), torch.tensor([8.0, 10.0]).view(2, 1, 1, 1)])
    assert net[0].running_mean.item() == pytest.approx(4.5)


def test_statistics_are_those_of_torch_to_rounding():
    net, reference, batches = make_net(), make_net(), make_batches(8, 8, 3)
    recalibrate(net, batches)
    update_bn(batches, reference)
    assert state_of(net).keys() == state_of(reference).keys()
    for name, value in state_of(net).items():
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=1e-6, atol=1e-6)


def test_a_compiled_network_stays_one_graph():
    """With `fullgraph`, torch raises an error where a number that is read breaks the graph."""
    plain, compiled, batches = make_net(), make_net(), make_batches(8, 8, 3)
    compiled.compile(backend="eager", fullgraph=True)
    recalibrate(plain, batches)
    recalibrate(compiled, batches)
    for name, value in state_of(compiled).items():
        torch.testing.assert_close(value, plain.state_dict()[name])


def test_earlier_statistics_leave_no_trace():
    fresh, used, batches = make_net(), make_net(), make_batches(4, 2)
    with torch.no_grad():
        used(make_batches(16)[0] * 50)
    recalibrate(fresh, batches)
    recalibrate(used, batches)
    for name, value in state_of(fresh).items():
        assert torch.equal(value, used.state_dict()[name]), name


def test_only_statistics_change():
    net = make_net()
    before = state_of(net)
    recalibrate(net, make_batches(4, 4))
    changed = {name for name, value in state_of(net).items() if not torch.equal(value, before[name])}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{layer}.{buffer}" for layer in (1, 4, 7) for buffer in buffers}
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_momenta_counters_and_mode_are_put_back(training):
    net = make_net().train(training)
    buffers = {*map(id, net.buffers())}
    recalibrate(net, make_batches(4))
    assert [net[layer].momentum for layer in (1, 4, 7)] == [0.1, 0.3, None]
    assert {*map(id, net.buffers())} == buffers  # others may hold them: they are filled, not replaced
    assert {module.training for module in net.modules()} == {training}


def test_images_that_break_off_leave_a_network_that_works():
    net = make_net().train()
    names = {*net.state_dict()}

    def broken():
        yield from make_batches(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate(net, broken())
    assert [net[layer].momentum for layer in (1, 4, 7)] == [0.1, 0.3, None]
    assert {*net.state_dict()} == names and {module.training for module in net.modules()} == {True}


@pytest.mark.parametrize(
    "layer", [nn.GroupNorm(1, 3), nn.BatchNorm2d(3, track_running_stats=False)], ids=["no batch norm", "no statistics"]
)
def test_a_network_that_keeps_no_statistics_sees_no_images(layer):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), layer)
    before = state_of(net)
    images = iter(make_batches(4, 4))
    recalibrate(net, images)
    assert len(list(images)) == 2
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in state_of(net).items())


def test_a_layer_beside_one_that_keeps_no_statistics_gets_its_own():
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))
    recalibrate(net, make_batches(5))
    assert net[0].running_mean is None
    assert torch.allclose(net[1].running_mean, torch.zeros(3), atol=1e-5)


def test_dropout_stays_off():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
    (images,) = make_batches(4)
    recalibrate(net, [images])
    torch.testing.assert_close(net[1].running_mean, images.mean((0, 2, 3)))


def test_no_gradients_are_recorded():
    class Watch(nn.Module):
        def forward(self, images):
            assert not torch.is_grad_enabled()
            return images

    recalibrate(nn.Sequential(nn.BatchNorm2d(3), Watch()), make_batches(4))
    assert torch.is_grad_enabled()
