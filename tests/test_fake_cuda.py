"""What would go wrong on a CUDA device, seen without one: tensors on two devices, and waits for the device in loops.

Tensors of `OnCuda` say that they are on a GPU, and their numbers lie in the CPU's memory. What mixes them with tensors
of the CPU is an error, as on a GPU; what would wait for a GPU is noted. Under torch.autocast they stay in float32.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import models
from CIFAR import dataset
from utils.batchnorm import recalibrate
from utils.evaluation import Evaluator, evaluate
from utils.interpolation import interpolate
from utils.pools import Pool, greedy, search
from utils.pruning import Mask, State, apply_mask, largest_magnitudes
from utils.tickets import Ticket
from utils.training import make_optimizer, train_epoch

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/test_cuda.py has a real one"),
    pytest.mark.skipif(not hasattr(torch._C, "_ensureCUDADeviceGuardSet"), reason="this torch asks CUDA's driver"),
]

ARCH = "cifar_resnet_8_4"
BATCH_SIZES = (64, 16)
COEFFICIENTS = (0.3, 0.7)
COPIES = ("aten::_to_copy", "aten::copy_")
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select", "aten::_unique2")
INDEXING = ("aten::index", "aten::index_put_", "aten::_index_put_impl_")

waits: list[str] = []  # where in this project


class OnCuda(Tensor):
    """A tensor that says it is on a GPU and has its `numbers` in a tensor of the CPU.

    To torch's own code it is on the device "meta", for which neither autograd nor anything else asks for a driver.
    """

    @staticmethod
    def __new__(cls, numbers: Tensor):
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset(), "dtype": numbers.dtype}
        made = Tensor._make_wrapper_subclass(cls, numbers.size(), **layout, device=torch.device("meta"))
        made.numbers = numbers
        return made

    device = property(lambda self: torch.device("cuda", 0))
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> list:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        with _disable_current_modes():
            return run(operation, args, kwargs or {})


class Cuda(TorchDispatchMode):
    """Has tensors made on `OnCuda` where a GPU is asked for."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        with _disable_current_modes():
            return run(operation, args, kwargs or {})


def run(operation, args: tuple, kwargs: dict) -> object:
    """The operation on the numbers themselves; RuntimeError where they are not on one device."""
    name, (flat, structure) = operation._schema.name, tree_flatten((args, kwargs))
    tensors = [part for part in flat if isinstance(part, Tensor)]
    there = [part for part in tensors if isinstance(part, OnCuda)]
    asked = kwargs.get("device")
    target = bool(there) if asked is None else torch.device(asked).type in ("cuda", "meta")
    if name == "aten::copy_":
        target = isinstance(args[0], OnCuda)
    if name in COPIES:
        if not kwargs.get("non_blocking") and any(isinstance(part, OnCuda) != target for part in tensors):
            waits.append(place())
    elif there:
        check(name, args, tensors)
    known = {id(part.numbers): part for part in there}  # what is changed in place comes back as it is
    inner, options = tree_unflatten([part.numbers if isinstance(part, OnCuda) else part for part in flat], structure)
    found = operation(*inner, **(options if asked is None else {**options, "device": "cpu"}))
    if not target:
        return found
    found = tree_map(lambda part: known.get(id(part), part), found)
    found = tree_map(lambda part: OnCuda(part) if type(part) is Tensor else part, found)
    return found if name in COPIES or not there else return_and_correct_aliasing(operation, args, kwargs, found)


def check(name: str, args: tuple, tensors: list[Tensor]) -> None:
    """Note a wait for the device, or raise for a tensor that is not on it; single numbers may be elsewhere."""
    elsewhere = [part for part in tensors if not isinstance(part, OnCuda) and part.dim()]
    if name in INDEXING:
        indices = [part for part in args[1] if part is not None]
        if any(part.dtype == torch.bool or not isinstance(part, OnCuda) for part in indices):
            waits.append(place())
        elsewhere = [part for part in elsewhere if not any(part is index for index in indices)]
    if elsewhere:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} in {place()}")
    if name in WAITING:
        waits.append(place())


def place() -> str:
    """The innermost line of the project, tests left out, that runs now."""
    frame = sys._getframe()
    while frame := frame.f_back:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("utils", "CIFAR", "models"):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
    return "a test"


@pytest.fixture(autouse=True)
def _cuda(monkeypatch) -> Iterator[None]:
    # Tensors of inference mode cannot be wrapped.
    monkeypatch.setattr(torch._C, "_InferenceMode", lambda mode: torch.no_grad())
    with FakeTensorMode(), Cuda():  # the first keeps torch from looking for a driver, and sees nothing else
        yield


class Work:
    """Digits, a network and its mask on a device, in batches of one size for all that is done with them."""

    def __init__(self, device: str, batch_size: int, monkeypatch):
        monkeypatch.setattr(dataset, "EVAL_BATCH_SIZES", dict.fromkeys(("cpu", "cuda"), batch_size // 8))
        self.batch_size = batch_size
        self.data = dataset.load_data("digits", None, device, data_limit=200)
        torch.manual_seed(1)
        self.net = models.build(ARCH, len(self.data.classes), self.data.mean, self.data.std)
        state = self.net.state_dict()
        self.mask: Mask = largest_magnitudes(state, [name for name in state if state[name].dim() == 4], 2_000)
        self.net.load_state_dict({name: value.to(device) for name, value in state.items()}, assign=True)
        waits.clear()

    def train(self) -> State:
        """One epoch under the mask, which is on the CPU as in a run of IMP."""
        rates = [0.1] * self.data.train_batch_count(self.batch_size)
        optimizer = make_optimizer(self.net, 0.1, 0.9, 1e-4)
        train_epoch(self.net, optimizer, self.data.train_batches(self.batch_size, 1), rates, self.mask)
        return self.net.state_dict()

    def recalibrate(self) -> State:
        """Its statistics, and then its score."""
        recalibrate(self.net, (images for images, _ in self.data.bn_batches(self.batch_size, 1)))
        evaluate(self.net, self.data.eval_batches("val"))
        return self.net.state_dict()

    def search(self) -> State:
        """The pool of a sparse ticket and one candidate."""
        evaluator = Evaluator(ARCH, [self.net], self.data, self.batch_size)
        mask, whole = evaluator.to_device(self.mask), evaluator.to_device(self.net.state_dict())
        ticket = Ticket(1, Path("ticket"), apply_mask(whole, mask), mask)
        assert ticket.kept == 2_000
        waits.clear()

        def finish(state: State, number: int) -> State:
            return evaluator.prune_and_recalibrate(ticket, state, "recalibrate", number)

        def score(state: State) -> float:
            return evaluator.validate(state).accuracy

        pool, candidates = Pool(ticket.state, 0.0, {1: 1.0}), [(0, lambda: whole)]
        return search(pool, candidates, greedy(COEFFICIENTS), finish, score).state


@pytest.mark.parametrize("work", [Work.train, Work.recalibrate, Work.search])
def test_all_is_on_the_device_and_comes_to_what_a_cpu_comes_to(work, monkeypatch):
    """A tensor left on the CPU ends it in an error; the results are those of a CPU, bit for bit, and on the device."""
    expected = work(Work("cpu", 64, monkeypatch))
    found = work(Work("cuda", 64, monkeypatch))
    assert {value.device.type for value in found.values()} == {"cuda"}
    assert all(torch.equal(found[name].cpu(), value) for name, value in expected.items())


@pytest.mark.parametrize("work", [Work.train, Work.recalibrate, Work.search])
def test_more_batches_are_no_more_waits_for_the_device(work, monkeypatch):
    """Four times as many batches wait in the same lines as often: what waits in each batch leaves a GPU idle."""
    found = []
    for batch_size in BATCH_SIZES:
        work(Work("cuda", batch_size, monkeypatch))
        found.append([*waits])
    assert found[0] == found[1]


def test_a_trial_waits_to_prune_and_to_score_and_not_for_each_tensor(monkeypatch):
    """Twice to break ties in pruning, and twice to read the score."""
    Work("cuda", 64, monkeypatch).search()
    in_trials = [line for line in waits if not line.startswith("CIFAR/dataset.py")]  # which draws once a candidate
    assert 0 < len(in_trials) <= 4 * len(COEFFICIENTS), in_trials


def test_a_tensor_of_the_cpu_is_an_error_there():
    """What these tests rely on: mixed devices are refused, and reading a number is noted."""
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        interpolate({"a": there}, {"a": here}, 0.5)
    waits.clear()
    assert float((there + there).sum()) == 6
    assert waits == ["a test"]
