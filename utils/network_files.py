"""The networks that `evaluate.py` is given, by folder or by file, as one list."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from utils import checkpoint, schemas, tickets
from utils.errors import UserError
from utils.method_names import TICKET, unique_labels
from utils.plain_data import misfit
from utils.pool_results import Results, label_of, read_results, refuse_mixture
from utils.schemas import is_settings
from utils.tickets import TicketFile


@dataclass(frozen=True)
class NetworkFile:
    """A ticket, a pool, an ensemble or another network on disk.

    `method` is what tables and pictures call it. A pool knows its `density` (0..1) and the digest of the ticket that it
    started from, `start`; of the others, reading them tells. Other networks than these have no `level`, and a density
    only where they hold a mask. An ensemble's `file` is the `pools.json` that describes it; its `members` are tickets,
    the start first, with their digests. `settings` are the flags of the command that made it, where it says so.
    """

    method: str
    level: int | None
    file: TicketFile
    density: float | None = None
    start: str | None = None
    members: tuple[tuple[TicketFile, str], ...] = ()
    settings: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def is_ticket(self) -> bool:
        return self.start is None and self.level is not None


def holds_pools(path: Path) -> bool:
    """Whether `path` is a folder with a `pools.json`, or such a file, whatever it is called."""
    return path.suffix == Path(tickets.POOLS_JSON).suffix or (path / tickets.POOLS_JSON).is_file()


def find_networks(paths: Sequence[Path]) -> list[NetworkFile]:
    """The networks in `paths`, none of them twice: folders of tickets, folders of pools, single checkpoints.

    A folder of pools that lies where Lottery_pools.py puts it brings along the tickets that its pools started from.
    Raises UserError, which names the path, for anything else, and for tickets or pools of one method that are of
    different experiments.
    """
    unique: dict[tuple[Path, int], NetworkFile] = {}
    for path in paths:
        for network in _networks_in(path):
            unique.setdefault((network.file.path.resolve(), network.file.level), network)
    networks = _with_distinct_names([*unique.values()])
    refuse_mixture((one.method, one.file.path, one.settings) for one in networks if one.settings)
    return networks


def _networks_in(path: Path) -> list[NetworkFile]:
    if not path.exists():
        raise UserError(f"there is no {path}: name folders of tickets, folders of pools, or checkpoints")
    if holds_pools(path):
        return _pools(path.parent if path.is_file() else path)
    if path.is_file():
        return [_single(path)]
    if (path / tickets.CONNECTIVITY_JSON).exists():
        raise UserError(f"{path} holds scores of lines between tickets (linear_inter) and no network: leave it out")
    try:
        return _tickets(path)
    except UserError as error:
        below = ", ".join(str(pools.parent) for pools in sorted(path.glob(f"*/{tickets.POOLS_JSON}")))
        hint = f"; pools are in {below}" if below else ""
        raise UserError(f"{error}; nor is there a {path / tickets.POOLS_JSON}{hint}") from error


def _tickets(folder: Path) -> list[NetworkFile]:
    return _as_tickets(tickets.find_tickets(folder))


def _as_tickets(files: Sequence[TicketFile]) -> list[NetworkFile]:
    """`files`, all of one run, with its flags."""
    path = tickets.settings_path(files[0])
    content = checkpoint.load_json(path) if path.is_file() else {"settings": {}}
    if odd := misfit(content, {"settings": is_settings}):
        raise UserError(f"{path} is damaged ({odd}): move it away")
    return [NetworkFile(TICKET, file.level, file, settings=content["settings"]) for file in files]


def _pools(folder: Path) -> list[NetworkFile]:
    """The pools in `folder`, after the tickets that they started from if it lies among those."""
    results = read_results(folder)
    if results.ensembles:
        pools = _ensembles(results)
    else:
        paths = [tickets.pool_path(folder, level) for level in results.entries]
        pools = [_pool(path, checkpoint.load(path)) for path in paths]
    beside, levels = [], {pool.level for pool in pools}
    for place in filter(None, (folder, tickets.tickets_beside(folder))):
        with contextlib.suppress(UserError):  # a courtesy: pools may lie anywhere
            beside += [ticket for ticket in _tickets(place) if ticket.level in levels]
    return [*beside, *pools]


def _ensembles(results: Results) -> list[NetworkFile]:
    """They are made of tickets, which are found where Lottery_pools.py leaves pools beside them."""
    beside = tickets.tickets_beside(results.path.parent)
    if beside is None:
        raise UserError(
            f"{results.path} describes ensembles of tickets, which are not known here: it must lie in pools/METHOD of "
            "the tickets' folder; or compare what was recorded (without --score and --corruptions)"
        )
    files = {file.level: file for file in tickets.find_tickets(beside)}
    found, settings = [], results.described["settings"]
    for level, entry in results.entries.items():
        missing = [member for member, _ in entry["tickets"] if member not in files]
        if missing:
            raise UserError(f"{results.path}: the ensemble of level {level} needs a ticket of level {missing[0]}")
        members = tuple((files[member], digest) for member, digest in entry["tickets"])
        file, start = TicketFile(level, results.path), entry["tickets"][0][1]
        found.append(NetworkFile(results.label, level, file, entry["density"], start, members, settings))
    return found


def _pool(path: Path, content: object) -> NetworkFile:
    if odd := misfit(content, schemas.POOL):
        raise UserError(f"{path} is no pool of Lottery_pools.py: {odd} is missing or odd")
    level, density, start = content["recipe"]["level"], content["recipe"]["density"], content["tickets"][0][1]
    label, settings = label_of(content["settings"], path), content["settings"]
    return NetworkFile(label, level, TicketFile(level, path), density, start, settings=settings)


def _single(path: Path) -> NetworkFile:
    if file := tickets.ticket_of_file(path):
        return _as_tickets([file])[0]
    content = checkpoint.load(path)
    if isinstance(content, dict) and "recipe" in content:
        return _pool(path, content)
    return NetworkFile(path.name, None, TicketFile(0, path))


def _with_distinct_names(networks: Sequence[NetworkFile]) -> list[NetworkFile]:
    """`networks`, with `method`s made different where pools of one ticket have the same, or other files have."""
    others = [one for one in networks if not one.is_ticket]
    names = iter(unique_labels([(one.method, (one.level, one.start), one.file.path) for one in others]))
    return [one if one.is_ticket else replace(one, method=next(names)) for one in networks]
