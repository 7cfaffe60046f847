"""What a CUDA device does as a CPU does: batches, training, the search. Skipped where there is none."""

import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import IMP, SMALL, Script
from torch import Tensor, nn

import models
from CIFAR import Lottery_pools, evaluate, main_imp
from CIFAR.dataset import ImageData, load_data
from utils.batchnorm import recalibrate
from utils.evaluation import evaluate as score
from utils.method_names import METHODS
from utils.pruning import dense_mask, largest_magnitudes
from utils.tickets import CONNECTIVITY_JSON, EVALUATION_CSV, find_tickets, read_ticket
from utils.training import make_optimizer, train_epoch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CUDA = ["--device", "cuda"]
VAL_IMAGES = 20  # of the 200 that SMALL limits digits to
FAST_ARITHMETIC = [
    [],
    ["--amp", "--channels_last"],
    ["--amp", "--channels_last", "--compile"],
    ["--amp", "--channels_last", "--compile_mode", "reduce-overhead"],
]


@pytest.fixture(autouse=True)
def _settings(monkeypatch) -> Iterator[None]:
    """Convolutions in float32 are not rounded to TF32, so that both devices compute alike."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    # A test that failed may have left it an error to wait for the device.
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def digits() -> ImageData:
    return load_data("digits", None, "cuda", data_limit=200)


@pytest.fixture
def net(digits) -> nn.Module:
    return models.build("cifar_resnet_8_4", len(digits.classes), digits.mean, digits.std).to("cuda")


def search(tickets: Path, folder: Path, *flags: str) -> list[dict]:
    coefficients = ["--interpolation_value_list", "0.3", "0.7"]
    Lottery_pools.main([*SMALL, *coefficients, "--checkpoint", str(tickets), "--save_dir", str(folder), *flags])
    return json.loads((folder / "pools.json").read_text())["pools"]


def digests(folder: Path) -> list[str]:
    return [read_ticket(file).digest() for file in find_tickets(folder)]


def test_it_sees_the_same_batches():
    cpu, cuda = (load_data("digits", None, device) for device in ("cpu", "cuda"))
    assert (cpu.mean, cpu.std) == (cuda.mean, cuda.std)
    cpu.flip = cuda.flip = True
    for mine, theirs in zip(cpu.train_batches(128, 1), cuda.train_batches(128, 1), strict=True):
        torch.testing.assert_close(mine[0], theirs[0].cpu(), rtol=1e-6, atol=0)  # CUDA divides by multiplying
        assert torch.equal(mine[1], theirs[1].cpu())


@pytest.mark.parametrize("keep", [1, 137, 4_999, 5_000])
def test_it_keeps_the_same_weights_among_many_ties(keep):
    draws = torch.Generator().manual_seed(keep)
    state = {"a": torch.randint(-9, 10, (40, 100), generator=draws).float(), "b": torch.randn(1_000, generator=draws)}
    mask = largest_magnitudes({name: value.cuda() for name, value in state.items()}, state, keep)
    for name, expected in largest_magnitudes(state, state, keep).items():
        assert torch.equal(mask[name].cpu(), expected)


def test_an_epoch_ends_in_the_weights_of_a_cpu_but_for_rounding(tmp_path):
    ended = []
    for device in ("cpu", "cuda"):
        flags = [*SMALL, "--epochs", "1", "--prune_type", "lt", "--pruning_times", "1", "--device", device]
        main_imp.main([*flags, "--save_dir", str(tmp_path / device)])
        ended.append(torch.load(tmp_path / device / "0checkpoint.pth.tar", weights_only=True)["state_dict"])
    for name, value in ended[0].items():
        torch.testing.assert_close(ended[1][name], value, rtol=0, atol=1e-4)


def test_tickets_and_their_pools_score_as_on_a_cpu_but_for_an_image(small_tickets, tmp_path):
    pools = {device: search(small_tickets, tmp_path / device, "--device", device) for device in ("cpu", "cuda")}
    for mine, theirs in zip(pools["cuda"], pools["cpu"], strict=True):
        for name in ("ticket_val_accuracy", "pool_val_accuracy"):
            assert abs(mine[name] - theirs[name]) <= 100 / VAL_IMAGES
        (mine, *_), (theirs, *_) = mine["steps"], theirs["steps"]  # later ones go on from what this one chose
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=100 / VAL_IMAGES)


def test_a_run_that_was_stopped_goes_on_to_the_same_tickets(tmp_path):
    flags = [*SMALL, *IMP, "--epochs", "30", *CUDA, "--deterministic"]
    assert Script("main_imp.py", *flags, "--save_dir", tmp_path / "whole").end()[0] == 0
    stopped = Script("main_imp.py", *flags, "--save_dir", tmp_path / "stopped")
    stopped.wait_for("epoch   2")
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.end()[0] == 75
    assert Script("main_imp.py", *flags, "--save_dir", tmp_path / "stopped").end()[0] == 0
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")


@pytest.mark.parametrize("flags", FAST_ARITHMETIC, ids=" ".join)
def test_tickets_made_there_are_pooled_there(flags, tmp_path):
    main_imp.main([*SMALL, *IMP, *CUDA, *flags, "--save_dir", str(tmp_path / "tickets")])
    pools = search(tmp_path / "tickets", tmp_path / "pools", *CUDA, *flags)
    assert [entry["level"] for entry in pools] == [0, 1, 2]
    record = torch.load(tmp_path / "tickets" / "2checkpoint.pth.tar", weights_only=True)
    assert {value.device.type for value in record["state_dict"].values()} == {"cpu"}, "others may have no such device"


@pytest.mark.parametrize("method", [name for name in METHODS if name != "linear_inter"])
def test_pools_of_every_method_are_made_and_scored(method, small_tickets, tmp_path):
    pools = small_tickets / "pools" / method
    search(small_tickets, pools, *CUDA, "--interpolate_method", method, "--learned_steps", "2")
    images = ["--dataset", "digits", "--data_limit", "200", "--arch", "cifar_resnet_8_4"]
    evaluate.main([str(pools), "--score", *images, *CUDA, "--save_dir", str(tmp_path)])
    tickets_and_pools = (tmp_path / EVALUATION_CSV).read_text().splitlines()[1:]
    assert len(tickets_and_pools) == 3 + 3


def test_lines_between_tickets_are_scored(small_tickets, tmp_path):
    files = ["--checkpoint", str(small_tickets), "--save_dir", str(tmp_path)]
    Lottery_pools.main([*SMALL, *files, *CUDA, "--interpolate_method", "linear_inter"])
    assert (tmp_path / CONNECTIVITY_JSON).exists()


def test_replicas_are_averaged_there(tmp_path):
    main_imp.main([*SMALL, *IMP, *CUDA, "--replicas", "2", "--save_dir", str(tmp_path)])
    assert len(find_tickets(tmp_path)) == 3


def without_waiting(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """`batches`; whoever waits for the device between the first one and the end gets an error."""
    batches = list(batches)
    torch.cuda.set_sync_debug_mode("error")
    yield from batches
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("amp", [False, True])
def test_training_waits_for_the_device_once_an_epoch(amp, net, digits):
    optimizer = make_optimizer(net, 0.1, 0.9, 1e-4)
    state = net.state_dict()
    mask = dense_mask(state, [name for name, value in state.items() if value.dim() == 4])
    for watched in (iter, without_waiting):  # the first time libraries are loaded
        batches = list(digits.train_batches(64, 1))
        assert train_epoch(net, optimizer, watched(batches), [0.1] * len(batches), mask, amp).images == 180


def test_recalibration_and_scores_wait_for_the_device_at_their_end(net, digits):
    for watched in (iter, without_waiting):
        recalibrate(net, (images for images, _ in watched(digits.bn_batches(64, 1))))
        assert score(net, watched(digits.eval_batches("val", 8))).images == VAL_IMAGES
