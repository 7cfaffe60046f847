"""What a network is worth: accuracy and loss of a state dict on images, and the statistics that it needs for that.

Here and in `utils.training` networks run; the algorithms above know state dicts and scores alone.
"""

import contextlib
import math
import platform
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from utils.batchnorm import recalibrate
from utils.distributed import SINGLE, Processes
from utils.errors import UserError
from utils.images import Batch, Images
from utils.predictions import FIELDS, Predictions, per_image
from utils.pruning import State, apply_mask, largest_magnitudes
from utils.tickets import Ticket, TicketFile, fit_to_network, may_be_missing, read_ticket
from utils.workers import Workers


@dataclass(frozen=True)
class Score:
    """Counts over a set of images: exact, so that they can be summed over batches and processes."""

    correct: int
    images: int
    loss_sum: float

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100.0 * self.correct / self._counted

    @property
    def loss(self) -> float:
        """Cross-entropy in nats, mean over the images."""
        return self.loss_sum / self._counted

    @property
    def _counted(self) -> int:
        if self.images == 0:
            raise UserError("none of the images can be read: replace those above")
        return self.images


WORST = -1e9  # a score that can be written to a file and loses against every other

# What `--select_by` names: higher is better.
SELECTIONS: dict[str, Callable[[Score], float]] = {
    "accuracy": lambda score: score.accuracy,
    "loss": lambda score: -score.loss if math.isfinite(score.loss) else WORST,
}


@torch.inference_mode()
def evaluate(net: nn.Module, batches: Iterable[Batch], processes: Processes = SINGLE) -> Score:
    """Score `net` in evaluation mode on batches of (images N×3×H×W, labels N), reading the device once at the end.

    With several `processes`, each has batches of its own and all get the score over all of them.
    """
    net.eval()
    images, correct, loss = 0, 0, 0.0
    for inputs, labels in batches:
        outputs = net(inputs).float()
        correct += (outputs.argmax(1) == labels).sum()
        loss += cross_entropy(outputs, labels, reduction="sum").double()
        images += len(labels)
    return total_score(int(correct), images, float(loss), processes)


@torch.inference_mode()
def predict(net: nn.Module, batches: Iterable[Batch], processes: Processes = SINGLE) -> Predictions:
    """What `net` in evaluation mode says of each image of `batches` (as for `evaluate`); the device is read once.

    With several `processes`, each has images of its own, and all get those of rank 0, then those of rank 1, and so on.
    """
    net.eval()
    return gathered([per_image(net(images), labels) for images, labels in batches], processes)


def gathered(parts: Sequence[Tensor], processes: Processes = SINGLE) -> Predictions:
    """One `Predictions` of all processes, by rank; `parts` are this one's results of `per_image` (5×N each)."""
    mine = torch.cat([*parts], 1).cpu() if parts else torch.empty(FIELDS, 0, dtype=torch.float64)
    return Predictions(*torch.cat(processes.gather_objects(mine), 1))


def total_score(correct: int, images: int, loss_sum: float, processes: Processes) -> Score:
    """The sum of every process's counts and losses."""
    correct, images = processes.sum_counts(correct, images)
    return Score(correct, images, float(processes.sum_(torch.tensor(loss_sum, dtype=torch.float64))))


class Evaluator:
    """Scores state dicts on the images of one data set by loading each into a network that is made once and reused.

    `nets`, all of one `arch`, are on the data's device; with several, as many states can be worked on at the same
    time. `bn_images` bounds how many training images a recalibration sees (0: all of them); without `update_bn` there
    is none but on images that the caller asks for. With several `processes`, all call the same methods with the same
    states one after another, and all get the same scores.
    """

    def __init__(
        self,
        arch: str,
        nets: Sequence[nn.Module],
        data: Images,
        batch_size: int,
        bn_images: int = 0,
        amp: bool = False,
        processes: Processes = SINGLE,
        update_bn: bool = True,
    ):
        self.arch, self.net, self.data, self.processes = arch, nets[0], data, processes
        self.batch_size, self.bn_images, self.amp, self.update_bn = batch_size, bn_images, amp, update_bn
        self.device = next(self.net.parameters()).device
        # As they are before the networks work: what a ticket's file lacks must be the same at every reading.
        self._defaults = {name: value.clone() for name, value in self.net.state_dict().items() if may_be_missing(name)}
        self.workers = Workers(len(nets))
        self._idle = queue.SimpleQueue()
        for net in nets:
            self._idle.put(net)

    def read_ticket(self, file: TicketFile) -> Ticket:
        """The ticket on the device, checked to be one of this network."""
        ticket = fit_to_network(read_ticket(file), {**self.net.state_dict(), **self._defaults}, self.arch)
        return replace(ticket, state=self.to_device(ticket.state), mask=self.to_device(ticket.mask))

    def to_device(self, state: Mapping[str, Tensor]) -> State:
        return {name: value.to(self.device, copy=True) for name, value in state.items()}

    def recalibrate(self, state: State, *purpose: int | str, bn_images: int | None = None) -> State:
        """`state` with batch-norm statistics of its own, from augmented training images: `bn_images` or the usual ones.

        CIFAR's images and their augmentation are drawn from `purpose`; ImageNet's are the same for every purpose.
        Without `update_bn` and `bn_images` it is `state` itself.
        """
        if bn_images is None and not self.update_bn:
            return state
        limit = self.bn_images if bn_images is None else bn_images
        batches = self.data.bn_batches(self.batch_size, *purpose, limit=limit)
        with self._network(state) as net:
            recalibrate(net, self.workers.watched(images for images, _ in batches), self.processes)
            return {name: value.detach().clone() for name, value in net.state_dict().items()}

    def prune_and_recalibrate(
        self, ticket: Ticket, state: State, *purpose: int | str, bn_images: int | None = None
    ) -> State:
        """An interpolated `state`, pruned to the density of `ticket` (a dense one is not) and then `recalibrate`d."""
        if not ticket.is_dense:
            state = apply_mask(state, largest_magnitudes(state, ticket.mask, ticket.kept))
        return self.recalibrate(state, *purpose, bn_images=bn_images)

    def validate(self, state: State) -> Score:
        """The score on all validation images."""
        return self._score(state, self.data.eval_batches("val"))

    def test(self, state: State) -> Score:
        """For reports alone: nothing may be chosen by it."""
        return self._score(state, self.data.eval_batches("test"))

    def loss_gradient(self, state: State) -> tuple[float, State]:
        """Cross-entropy on the validation images (nats, mean over them) and its gradient by each parameter.

        Batch norm is in evaluation mode: its statistics are constants.
        """
        with self._network(state) as net:
            net.eval()
            parameters = dict(net.named_parameters())
            gradients = {name: torch.zeros_like(value) for name, value in parameters.items()}
            images, loss_sum = 0, torch.zeros((), dtype=torch.float64, device=self.device)
            for inputs, labels in self.workers.watched(self.data.eval_batches("val", self.batch_size)):
                # Labels decoded while networks were scored are inference tensors, which autograd cannot save;
                # clones are none.
                loss = cross_entropy(net(inputs).float(), labels.clone(), reduction="sum")
                found = torch.autograd.grad(loss, [*parameters.values()])
                for total, part in zip(gradients.values(), found, strict=True):
                    total += part
                images, loss_sum = images + len(labels), loss_sum + loss.detach()
        score = total_score(0, images, float(loss_sum), self.processes)
        flat = self.processes.sum_(torch.cat([part.flatten() for part in gradients.values()])) / score.images
        parts = flat.split([part.numel() for part in gradients.values()])
        return score.loss, {name: part.view_as(parameters[name]) for name, part in zip(gradients, parts, strict=True)}

    def predict(self, state: State, batches: Iterable[Batch]) -> Predictions:
        """What the network says of each image of `batches`; each process has its part of them."""
        with self._network(state) as net:
            return predict(net, self.workers.watched(batches), self.processes)

    def _score(self, state: State, batches: Iterable[Batch]) -> Score:
        """The score on the images of `batches`; each process has its part of them."""
        with self._network(state) as net:
            return evaluate(net, self.workers.watched(batches), self.processes)

    def probabilities(self, state: State, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """The classes' probabilities on this process's `batches` (N × outputs, float32) and the labels (N)."""
        with self._network(state) as net, torch.inference_mode():
            net.eval()
            parts = [(net(images).float().softmax(1), labels) for images, labels in self.workers.watched(batches)]
        if not parts:
            return torch.empty(0, 1, device=self.device), torch.empty(0, dtype=torch.int64, device=self.device)
        outputs, labels = zip(*parts, strict=True)
        return torch.cat(outputs), torch.cat(labels)

    @contextlib.contextmanager
    def _network(self, state: State) -> Iterator[nn.Module]:
        """A network that nobody else works with, holding `state`."""
        net = self._idle.get()
        try:
            net.load_state_dict(state)
            with autocast(self.device, self.amp):
                yield net
        finally:
            self._idle.put(net)


def autocast(device: torch.device, amp: bool) -> contextlib.AbstractContextManager:
    """bfloat16 arithmetic where it is safe, or none; weights and batch-norm statistics stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp and has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16; where it would only imitate that, float32 is faster and better."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Torch knows x86 alone; of other CPUs the best is believed.
    return torch.cpu._is_avx512_bf16_supported() if platform.machine() in ("x86_64", "AMD64") else True


def precision_name(device: torch.device, amp: bool) -> str:
    """What arithmetic `autocast` gives, for the log."""
    if amp and not has_bfloat16(device):
        return "float32 (it has no bfloat16 for --amp)"
    if amp:
        return "bfloat16"
    # Torch's default, as in the published scripts: the products of convolutions have ten bits of each factor.
    in_tf32 = device.type == "cuda" and has_bfloat16(device) and torch.backends.cudnn.allow_tf32
    return "float32 (convolutions in TF32)" if in_tf32 else "float32"
