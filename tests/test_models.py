"""The networks: sizes, keys and shapes, normalisation, and what the registry refuses."""

import copy
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import ROOT

import models
from models import openlth, vgg
from models.convolutions import StridedPointwise
from models.normalize import Normalize, normalize_first
from models.resnet_cifar import ShortcutA
from utils.errors import UserError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FIXED = [name for name in models.described_archs() if "D" not in name]
OPENLTH = [f"imagenet_resnet_{depth}" for depth in openlth.IMAGENET_BLOCKS]
OPENLTH += [f"cifar_vgg_{depth}" for depth in vgg.LAYERS]
OPENLTH += ["cifar_resnet_8", "cifar_resnet_20", "cifar_resnet_110_4", "imagenet_resnet_18_8", "imagenet_resnet_50_128"]


def _on_meta(arch: str, classes: int = 10, imagenet_stem: bool = False) -> torch.nn.Module:
    """The network without memory or numbers: keys and shapes alone."""
    with torch.device("meta"):
        return models.build(arch, classes, MEAN, STD, imagenet_stem)


def _parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


# VGG-11 by hand: 9 weights for each pair of channels that a convolution joins, 9·(3·64 + 64·128 + 128·256 + 256·256
# + 256·512 + 3·512·512) = 9,217,728; a bias and two batch-norm numbers for each of 64 + 128 + 2·256 + 4·512 = 2,752
# channels, 8,256; a head of 512·10 + 10 = 5,130. VGG-13 adds 9·(64·64 + 128·128) + 3·(64 + 128) = 184,896, and VGG-16
# and VGG-19 add 9·(256·256 + 2·512·512) + 3·(256 + 2·512) = 5,312,256 each.
# A quarter as wide, ResNet-18 has 9·(3·16 + 4·16² + 16·32 + 3·32² + 32·64 + 3·64² + 64·128 + 3·128²) weights and
# 16·32 + 32·64 + 64·128 in shortcuts, two numbers for each of 16·5 + 32·5 + 64·5 + 128·5 channels, and VGG-16's head.
# A quarter as wide, VGG-16 has 9·(3·16 + (16² + 16·32 + 32² + 32·64 + 2·64² + 64·128 + 5·128²)) weights, three
# numbers for each of 16·(2·1 + 2·2 + 3·4 + 6·8) channels, and a head of 128·10 + 10.
# OpenLTH's ResNet-20 has the 269,722 of resnet20s, and its shortcuts 16·32 + 2·32 + 32·64 + 2·64 = 2,752.
@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        ("resnet20s", 269_722),
        ("resnet32s", 464_154),
        ("resnet44s", 658_586),
        ("resnet56s", 853_018),
        ("resnet110s", 1_727_962),
        ("resnet18", 11_173_962),
        ("resnet50", 23_520_842),
        ("resnet18_64", 11_173_962),
        ("resnet18_16", 697_776 + 2 * 1_200 + 1_290),
        ("vgg11_bn", 9_217_728 + 8_256 + 5_130),
        ("vgg13_bn", 9_231_114 + 184_896),
        ("vgg16_bn", 14_728_266),
        ("vgg19_bn", 14_728_266 + 5_312_256),
        ("vgg16_bn_64", 14_728_266),
        ("vgg16_bn_16", 919_728 + 3 * 1_056 + 1_290),
        ("cifar_resnet_20", 269_722 + 2_752),
        ("cifar_vgg_16", 14_728_266),
    ],
)
def test_parameter_counts(arch, parameters):
    assert _parameters(_on_meta(arch)) == parameters


@pytest.mark.parametrize("arch", FIXED + OPENLTH)
def test_every_network_builds_and_has_as_many_outputs_as_asked(arch):
    head = list(_on_meta(arch, classes=7).parameters())[-1]
    assert head.numel() == (1000 if arch.startswith("imagenet_resnet") else 7)


@pytest.mark.parametrize(
    ("arch", "pixels", "outputs"),
    [
        ("resnet20s", 8, 5),
        ("resnet110s", 9, 5),
        ("resnet18", 8, 5),
        ("resnet50", 8, 5),
        ("resnet50_4", 8, 5),
        ("vgg11_bn", 16, 5),
        ("vgg13_bn_8", 32, 5),
        ("cifar_resnet_8_4", 8, 5),
        ("cifar_resnet_14", 9, 5),
        ("cifar_vgg_11", 16, 5),
        ("imagenet_resnet_18_8", 32, 1000),
        ("imagenet_resnet_50_4", 40, 1000),
    ],
)
def test_a_training_step_reaches_every_parameter(arch, pixels, outputs):
    net = models.build(arch, 5, MEAN, STD)
    assert getattr(net, "smallest_image", 1) <= pixels
    logits = net(torch.rand(2, 3, pixels, pixels))
    assert logits.shape == (2, outputs)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("arch", ["vgg11_bn", "vgg11_bn_4", "cifar_vgg_11"])
def test_smallest_image_is_the_smallest(arch):
    net = models.build(arch, 5, MEAN, STD).eval()
    size = net.smallest_image
    assert net(torch.rand(1, 3, size, size)).shape == (1, 5)
    with pytest.raises(RuntimeError):
        net(torch.rand(1, 3, size - 1, size - 1))


def test_shortcut_a_takes_every_second_pixel_and_pads_channels_on_both_sides():
    image = torch.arange(18.0).reshape(1, 2, 3, 3)
    expected = torch.zeros(1, 4, 2, 2)
    expected[0, 1] = torch.tensor([[0.0, 2.0], [6.0, 8.0]])
    expected[0, 2] = torch.tensor([[9.0, 11.0], [15.0, 17.0]])
    assert torch.equal(ShortcutA(4)(image), expected)


def test_shortcut_a_passes_its_gradient_on_in_channels_last():
    images = torch.rand(2, 2, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.rand(2, 4, 3, 3)
    (gradient,) = torch.autograd.grad((ShortcutA(4)(images) * weights).sum(), images)
    (expected,) = torch.autograd.grad((images[:, :, ::2, ::2] * weights[:, 1:3]).sum(), images)
    assert torch.equal(gradient, expected)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "arch, pieces", [("resnet18_4", 3), ("resnet50_4", 3), ("cifar_resnet_8_4", 2), ("resnet20s", 0)]
)
def test_every_shortcut_with_stride_is_safe_to_train(arch, pieces):
    net = models.build(arch, 10, MEAN, STD)
    strided = [
        layer
        for layer in net.modules()
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1)
    ]
    assert [type(layer) for layer in strided] == [StridedPointwise] * pieces


@pytest.mark.parametrize("side", [7, 8])
def test_a_safe_shortcut_and_its_gradients_are_those_of_the_convolution(side):
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(3, 5, 1, stride=2, bias=False).double()
    safe = StridedPointwise(3, 5).double()
    safe.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    results = []
    for layer in (plain, safe):
        outputs = layer(images)
        weights = torch.arange(outputs.numel(), dtype=torch.float64).view_as(outputs)
        results.append([outputs, *torch.autograd.grad((outputs * weights).sum(), (images, layer.weight))])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_gradient_of_a_narrow_shortcut_stays_within_its_memory():
    """With channels last, torch's own writes past the end, which most often ends the process by a signal."""
    program = """
import torch
from models.convolutions import StridedPointwise
layer, kept = StridedPointwise(4, 8), []
for number in range(60):
    images = torch.randn(3 + number % 2, 4, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    layer(images).square().sum().backward()
    kept = [*kept[-9:], torch.empty(10 + 37 * number)]
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_imagenet_resnet_at_full_width_is_torchvisions(depth):
    with torch.device("meta"):
        expected = _shapes(torchvision.models.get_model(f"resnet{depth}", weights=None).state_dict())
    expected |= {"normalize.mean": (3,), "normalize.std": (3,)}
    assert _shapes(_on_meta(f"imagenet_resnet_{depth}").state_dict()) == expected
    assert _shapes(_on_meta(f"resnet{depth}", 1000, imagenet_stem=True).state_dict()) == expected


def test_full_width_resnets_compute_what_torchvisions_do():
    for arch, outputs in (("resnet18", 10), ("resnet50", 10)):
        net = models.build(arch, outputs, (0, 0, 0), (1, 1, 1), imagenet_stem=True).double().eval()
        theirs = torchvision.models.get_model(arch, weights=None, num_classes=outputs).double().eval()
        theirs.load_state_dict({name: value for name, value in net.state_dict().items() if "normalize" not in name})
        images = torch.rand(2, 3, 40, 48, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(net(images), theirs(images))


def test_vgg_computes_what_the_published_one_does():
    """That is torchvision's configuration D without its last max-pool, and the mean of the 2×2 pixels that remain.

    Poolings have no weights: a network with another one would read the same tickets, and score them wrongly.
    """
    net = models.build("vgg16_bn_16", 10, (0, 0, 0), (1, 1, 1)).double().eval()
    layers = [layer if layer == "M" else layer // 4 for layer in torchvision.models.vgg.cfgs["D"][:-1]]
    features = torchvision.models.vgg.make_layers(layers, batch_norm=True).double().eval()
    features.load_state_dict(net.features.state_dict())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        maps = features(images)
        assert maps.shape == (2, 128, 2, 2)
        torch.testing.assert_close(net(images), net.classifier(maps.mean((2, 3))))


def test_more_classes_than_openlths_networks_have_are_refused():
    models.build("imagenet_resnet_18_4", 1000, MEAN, STD)
    with pytest.raises(UserError, match=r"^--arch imagenet_resnet_18_4 tells 1000 classes apart, the images have 1001"):
        models.build("imagenet_resnet_18_4", 1001, MEAN, STD)


def test_stems():
    small, large = _on_meta("resnet18"), _on_meta("resnet18", imagenet_stem=True)
    assert small.conv1.weight.shape == (64, 3, 3, 3)
    assert large.conv1.weight.shape == (64, 3, 7, 7)
    pixels = torch.empty(1, 3, 32, 32, device="meta")
    assert small.maxpool(small.conv1(pixels)).shape == (1, 64, 32, 32)
    assert large.maxpool(large.conv1(pixels)).shape == (1, 64, 8, 8)


def test_bottleneck_width_follows_the_first_width():
    shapes = _shapes(_on_meta("imagenet_resnet_50_16").state_dict())
    assert shapes["layer1.0.conv1.weight"] == (16, 16, 1, 1)
    assert shapes["layer1.0.conv3.weight"] == (64, 16, 1, 1)
    assert shapes["layer4.2.conv2.weight"] == (128, 128, 3, 3)
    assert shapes["fc.weight"] == (1000, 512)


def test_vgg_keys_and_shapes():
    shapes = _shapes(_on_meta("vgg16_bn", 100).state_dict())
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    assert shapes["features.0.bias"] == shapes["features.1.running_var"] == (64,)
    assert shapes["features.40.weight"] == (512, 512, 3, 3)
    assert shapes["classifier.weight"] == (100, 512)
    assert {key.split(".")[0] for key in shapes} == {"normalize", "features", "classifier"}


def test_cifar_vgg_keys_and_shapes():
    shapes = _shapes(_on_meta("cifar_vgg_16", 100).state_dict())
    assert shapes["layers.0.conv.weight"] == (64, 3, 3, 3)
    assert shapes["layers.3.conv.bias"] == shapes["layers.3.bn.running_mean"] == (128,)
    assert shapes["layers.16.conv.weight"] == (512, 512, 3, 3)
    assert shapes["fc.weight"] == (100, 512)
    assert not any(key.startswith(("layers.2.", "layers.17.")) for key in shapes)


def test_cifar_resnet_keys_and_shapes():
    shapes = _shapes(_on_meta("cifar_resnet_20_8", 100).state_dict())
    assert shapes["conv.weight"] == (8, 3, 3, 3)
    assert shapes["bn.weight"] == (8,)
    assert shapes["blocks.3.conv1.weight"] == (16, 8, 3, 3)
    assert shapes["blocks.3.shortcut.0.weight"] == (16, 8, 1, 1)
    assert shapes["blocks.6.shortcut.1.running_var"] == (32,)
    assert shapes["blocks.8.conv2.weight"] == (32, 32, 3, 3)
    assert shapes["fc.weight"] == (100, 32)
    convolved = {key.split(".")[1] for key in shapes if "shortcut" in key}
    assert convolved == {"3", "6"}
    assert _shapes(_on_meta("cifar_resnet_20").state_dict()) == _shapes(_on_meta("cifar_resnet_20_16").state_dict())


def test_convolutions_start_with_the_deviation_of_their_method():
    """Kaiming: sqrt(2 / fan), where fan counts the outputs (torchvision) or the inputs (He et al., OpenLTH)."""
    torch.manual_seed(0)
    expected = [
        (models.build("resnet18", 10, MEAN, STD).conv1, 64 * 9),
        (models.build("vgg11_bn", 10, MEAN, STD).features[4], 128 * 9),
        (models.build("resnet20s", 10, MEAN, STD).layer3[0].conv1, 32 * 9),
        (models.build("cifar_resnet_8", 10, MEAN, STD).blocks[2].conv1, 32 * 9),
    ]
    for convolution, fan in expected:
        assert convolution.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.06)


def test_openlth_batch_norm_starts_uniform():
    torch.manual_seed(0)
    net = models.build("cifar_resnet_8", 10, MEAN, STD)
    scale, shift = net.blocks[2].shortcut[1].weight, net.blocks[2].shortcut[1].bias
    assert scale.min() >= 0 and scale.max() <= 1 and scale.std() > 0.2
    assert not shift.any()


def test_normalize_on_a_hand_worked_image():
    images = torch.tensor([0.5, 0.5, 0.5]).reshape(1, 3, 1, 1)
    out = Normalize((0.0, 0.5, 1.0), (0.5, 0.1, 0.25))(images)
    assert torch.allclose(out.flatten(), torch.tensor([1.0, 0.0, -2.0]))


@pytest.mark.parametrize("arch", ["resnet20s", "resnet18", "vgg11_bn"])
def test_images_are_normalised_before_anything_else(arch):
    net = models.build(arch, 10, MEAN, STD).eval()
    plain = models.build(arch, 10, (0, 0, 0), (1, 1, 1)).eval()
    own = {key: value for key, value in net.state_dict().items() if not key.startswith("normalize.")}
    plain.load_state_dict(own, strict=False)
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(net(images), plain((images - mean) / std), atol=1e-5)
        assert not torch.allclose(net(images), plain(images), atol=1e-2)


@pytest.mark.parametrize("arch", ["cifar_resnet_8", "cifar_vgg_11", "imagenet_resnet_18_8"])
def test_openlth_networks_keep_openlths_statistics(arch):
    net = models.build(arch, 10, MEAN, STD)
    assert net.normalize.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert net.normalize.std.tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_a_copy_normalises_with_its_own_statistics():
    net = normalize_first(torch.nn.Flatten(), torch.zeros(3), torch.ones(3))
    other = copy.deepcopy(net)
    other.normalize.mean.fill_(1.0)
    images = torch.ones(1, 3, 1, 1)
    assert net(images).tolist() == [[1.0, 1.0, 1.0]]
    assert other(images).tolist() == [[0.0, 0.0, 0.0]]


def test_statistics_are_copied_from_the_tensors_given():
    mean = torch.zeros(3)
    layer = Normalize(mean, torch.ones(3))
    mean.fill_(1.0)
    assert layer.mean.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "arch",
    [
        "resnet19",
        "",
        "cifar_resnet_2",
        "cifar_resnet_21",
        "cifar_resnet_20_0",
        "cifar_resnet_20_16_2",
        "cifar_resnet_D[_W]",
        "cifar_vgg_12",
        "cifar_vgg_16_64",
        "vgg12_bn_16",
        "vgg16_bn_0",
        "vggD_bn_W",
        "resnet19_16",
        "resnet18_0",
        "resnet18_",
        "resnet18_16_2",
        "resnetD_W",
        "imagenet_resnet_20",
        "imagenet_resnet_18\n",
        "model.imagenet_resnet_18",
    ],
)
def test_unknown_networks_are_refused_in_one_line(arch):
    with pytest.raises(UserError) as error:
        models.build(arch, 10, MEAN, STD)
    message = str(error.value)
    assert message.startswith("--arch") and "\n" not in message
    assert all(name in message for name in models.described_archs())


@pytest.mark.parametrize("arch", ["resnet20s", "vgg16_bn", "cifar_resnet_20", "imagenet_resnet_18"])
def test_the_imagenet_stem_is_for_torchvisions_resnets_alone(arch):
    with pytest.raises(UserError, match=r"^--imagenet_arch: .*resnet18, resnet34, resnet50, resnet101, resnet152$"):
        models.build(arch, 10, MEAN, STD, imagenet_stem=True)


def test_an_unknown_network_with_the_imagenet_stem_is_first_of_all_unknown():
    with pytest.raises(UserError, match=r"^--arch"):
        models.build("resnet19", 10, MEAN, STD, imagenet_stem=True)
