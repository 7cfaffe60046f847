"""Networks run on test images, in and out of distribution, and pools set against the tickets that they came from."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.corruptions import SEVERITIES, CorruptedImages, mean_accuracy
from utils.errors import UserError
from utils.evaluation import gathered
from utils.network_files import NetworkFile
from utils.predictions import (
    McNemarResult,
    Predictions,
    ProbabilityCache,
    as_logits,
    mcnemar,
    mean_probabilities,
    per_image,
)
from utils.progress import progress_bar
from utils.ticket_cache import TicketCache
from utils.tickets import TicketFile


@dataclass
class Scored:
    """A network and what it is worth.

    `files` hold it: one, or those of an ensemble's members. `density` is 0..1, or None where no mask tells it; `digest`
    is the one that a pool knows its ticket by; `quality` is `Predictions.summary()`. `paired` (ticket first, pool
    second) is of a pool whose `ticket` was scored too. `corrupted` maps each corruption to the accuracies (percent) at
    the five severities.
    """

    network: NetworkFile
    files: list[TicketFile]
    density: float | None
    digest: str
    predictions: Predictions | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    ticket: "Scored | None" = None
    paired: McNemarResult | None = None
    corrupted: dict[str, list[float]] = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        """What a pool has over its ticket, in points of accuracy."""
        return self.quality["accuracy"] - self.ticket.quality["accuracy"] if self.ticket else None

    @property
    def corrupted_accuracy(self) -> float | None:
        """Percent; see `utils.corruptions.mean_accuracy`."""
        return mean_accuracy(self.corrupted)


def read_networks(networks: Sequence[NetworkFile], cache: TicketCache) -> list[Scored]:
    """All networks, not scored yet; UserError for a file that holds none of the evaluator's kind."""
    scores = []
    for network in networks:
        files = [file for file, _ in network.members] or [network.file]
        first = cache.read(files[0])
        for file, digest in network.members:
            if file not in cache.digests:
                cache.read(file)
            if digest != cache.digests[file]:
                raise UserError(f"{file.path} is not the ticket that {network.file.path} was made with")
        density = network.density
        if density is None and not first.lost_its_mask:
            density = first.density
        if network.level is None and density == 1:  # as read without a mask, whatever was pruned
            density = None
        scores.append(Scored(network, files, density, cache.digests[files[0]]))
    return scores


def _predict(
    scored: Scored, cache: TicketCache, batches: Callable[[], Iterable], found: ProbabilityCache
) -> Predictions:
    """Of an ensemble, by its members' mean probabilities; `found` has those on these images."""
    evaluator = cache.evaluator
    if len(scored.files) == 1:
        return evaluator.predict(cache.read(scored.files[0]).state, batches())
    members = (
        found.get(file, lambda file=file: evaluator.probabilities(cache.read(file).state, batches()))
        for file in scored.files
    )
    mean, labels = mean_probabilities(members)
    return gathered([per_image(as_logits(mean), labels)] if len(labels) else [], evaluator.processes)


def score_networks(
    scores: Sequence[Scored],
    cache: TicketCache,
    corrupted: CorruptedImages | None,
    say: Callable[[str], None],
) -> None:
    """Fill in `scores`: every network on the test images, and on the `corrupted` ones if there are any."""
    evaluator, found = cache.evaluator, ProbabilityCache()
    for scored in scores:
        test = functools.partial(evaluator.data.eval_batches, "test", evaluator.batch_size)
        scored.predictions = _predict(scored, cache, test, found)
        if not len(scored.predictions.correct):
            raise UserError("--data: none of the test images can be read")
        scored.quality = scored.predictions.summary()
        if not math.isfinite(scored.quality["nll"]):
            raise UserError(f"{scored.network.file.path} answers with NaN or infinity: it cannot be scored")
        say(f"  {scored.quality['accuracy']:6.2f}%  {scored.network.file.path}")
    _set_pools_against_tickets(scores)
    if corrupted:
        _score_corrupted(scores, cache, corrupted, say)


def _set_pools_against_tickets(scores: Sequence[Scored]) -> None:
    tickets = {scored.digest: scored for scored in scores if scored.network.start is None}
    for scored in scores:
        if scored.network.start in tickets:
            scored.ticket = tickets[scored.network.start]
            scored.paired = mcnemar(scored.ticket.predictions, scored.predictions)


def _score_corrupted(
    scores: Sequence[Scored],
    cache: TicketCache,
    corrupted: CorruptedImages,
    say: Callable[[str], None],
) -> None:
    """All networks on one set of images, then on the next: of photographs, no more than one set has room in memory."""
    evaluator = cache.evaluator
    passes = len(corrupted.names) * len(SEVERITIES) * len(scores)
    with progress_bar(evaluator.processes, "corrupted images", passes, "pass") as bar:
        for name in corrupted.names:
            for severity in SEVERITIES:
                batches = functools.partial(corrupted.batches, name, severity, evaluator.batch_size)
                found = ProbabilityCache()
                for scored in scores:
                    correct = _predict(scored, cache, batches, found).correct
                    if not len(correct):
                        raise UserError(f"--corruptions: no image of {name}, severity {severity}, can be read")
                    scored.corrupted.setdefault(name, []).append(100 * float(correct.sum()) / len(correct))
                    bar.update()
            bar.clear()
            say(f"  {name}: all networks, all severities")
