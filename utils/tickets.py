"""Tickets and pools on disk: what every file is called, and both layouts that tickets come in.

Published CIFAR layout: `{level}model_SA_best.pth.tar`, pruned weights as `NAME.weight_orig` and `NAME.weight_mask`.
OpenLTH: `level_{L}/main/model_ep{E}_it{I}.pth` beside `mask.pth`. In memory both are a `Ticket`: plain names, zeros
where the mask is False. No other module spells a file name or renames a key.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils import checkpoint
from utils.errors import UserError
from utils.pruning import Mask, State, apply_mask, count_kept, count_prunable, dense_mask, density

SETTINGS = "settings.json"
POOLS_JSON, POOLS_CSV, POOLS_PLOT = "pools.json", "pools.csv", "accuracy.png"
CONNECTIVITY_JSON, CONNECTIVITY_CSV, CONNECTIVITY_PLOT = "connectivity.json", "connectivity.csv", "connectivity.png"
COMPARISON_CSV, COMPARISON_PLOT = "comparison.csv", "accuracy.png"


def ticket_path(folder: Path, level: int) -> Path:
    return folder / f"{level}model_SA_best.pth.tar"


def checkpoint_path(folder: Path, level: int) -> Path:
    return folder / f"{level}checkpoint.pth.tar"


def rewind_path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch_{epoch}_rewind_weight.pt"


def curve_path(folder: Path, level: int) -> Path:
    return folder / f"{level}net_train.png"


def pool_path(folder: Path, level: int) -> Path:
    return folder / f"{level}pool.pth.tar"


def unfinished_pool_path(folder: Path, level: int) -> Path:
    """Where an interrupted search of this start goes on."""
    return folder / f"{level}pool_unfinished.pth.tar"


def run_folder(prune_type: str, dataset: str, arch: str, rewind_epoch: int, seed: int) -> Path:
    """The default place of a run's tickets."""
    return Path("checkpoints", prune_type, dataset, arch, f"rewind_epoch_{rewind_epoch}", f"seed{seed}")


def newest_level(folder: Path) -> int | None:
    """The highest level with a checkpoint in `folder`: where an interrupted IMP run goes on."""
    names = (re.fullmatch(r"(\d+)checkpoint\.pth\.tar", path.name) for path in folder.glob("*checkpoint.pth.tar"))
    return max((int(name[1]) for name in names if name), default=None)


@dataclass(frozen=True)
class TicketFile:
    """Where the ticket of one level lies. `mask_path` is set for OpenLTH's layout, which keeps the mask apart."""

    level: int
    path: Path
    mask_path: Path | None = None


@dataclass
class Ticket:
    """A trained sparse network: its whole state with plain names, and which prunable weights remain."""

    level: int
    path: Path
    state: State
    mask: Mask

    @property
    def kept(self) -> int:
        return count_kept(self.mask)

    @property
    def density(self) -> float:
        return density(self.mask)

    @property
    def is_dense(self) -> bool:
        return self.kept == count_prunable(self.mask)


def find_tickets(folder: Path) -> list[TicketFile]:
    """The tickets in `folder`, by level. UserError when there is none, or when it is not clear which are meant."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name the one that holds the tickets")
    files = _published_tickets(folder) or _openlth_tickets(folder)
    if not files:
        raise UserError(_nothing_found(folder))
    levels = [file.level for file in files]
    for level in set(levels):
        if levels.count(level) > 1:
            names = ", ".join(file.path.name for file in files if file.level == level)
            raise UserError(f"{folder} holds more than one ticket of level {level}: {names}")
    return sorted(files, key=lambda file: file.level)


def _published_tickets(folder: Path) -> list[TicketFile]:
    names = [(re.match(r"\d+", path.name), path) for path in folder.glob("*model_SA_best*")]
    return [TicketFile(int(number.group()), path) for number, path in names if number]


def _openlth_tickets(folder: Path) -> list[TicketFile]:
    """OpenLTH's levels in `folder`: a replicate, a `lottery_<hash>` or the root that holds one."""
    runs = [run for depth in (".", "*", "*/*") for run in sorted(folder.glob(depth)) if _openlth_levels(run)]
    if len(runs) > 1:
        raise UserError(f"{folder} holds several runs, name one of them: {', '.join(map(str, runs))}")
    return _openlth_levels(runs[0]) if runs else []


def _openlth_levels(run: Path) -> list[TicketFile]:
    """The last network that each `level_N` of `run` wrote; `level_pretrain` is no ticket."""
    files = []
    for main in run.glob("level_*/main"):
        level = re.fullmatch(r"level_(\d+)", main.parent.name)
        steps = [(re.fullmatch(r"model_ep(\d+)_it(\d+)\.pth", path.name), path) for path in main.glob("model_ep*.pth")]
        trained = [((int(step[1]), int(step[2])), path) for step, path in steps if step]
        if level and trained:
            files.append(TicketFile(int(level[1]), max(trained)[1], main / "mask.pth"))
    return files


def _nothing_found(folder: Path) -> str:
    below = {path.parent for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/*model_SA_best*")}
    message = f"{folder} holds no tickets (*model_SA_best*, or level_*/main as OpenLTH writes them)"
    return f"{message}; there are some in {', '.join(map(str, sorted(below)))}" if below else message


def read_ticket(file: TicketFile) -> Ticket:
    """Read a ticket of either layout and check that it holds what a ticket must. UserError names what is wrong."""
    state, mask = plain_state(_state_dict(checkpoint.load(file.path), file.path), file.path)
    if file.mask_path is not None:
        mask = _checked_mask(_state_dict(checkpoint.load(file.mask_path), file.mask_path), state, file.mask_path)
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{file.path} holds NaN or infinity in {name}: it cannot be pooled")
    if not mask:
        mask = dense_mask(state, [name for name, value in state.items() if value.dim() == 4])
    if not mask:
        raise UserError(f"{file.path} holds no convolution: it is no ticket")
    return Ticket(file.level, file.path, apply_mask(state, mask), mask)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, with what wrappers put before its names taken off."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict")
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(str(name).startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def plain_state(state_dict: dict[str, Tensor], path: Path) -> tuple[State, Mask]:
    """Split `torch.nn.utils.prune`'s names into a plain state, zero where pruned, and its mask (empty: dense)."""
    masks = {name.removesuffix("_mask"): value for name, value in state_dict.items() if name.endswith("_mask")}
    state = {name.removesuffix("_orig"): value for name, value in state_dict.items() if not name.endswith("_mask")}
    mask = _checked_mask(masks, state, path)
    return apply_mask(state, mask), mask


def published_state(state: State, mask: Mask | None) -> dict[str, Tensor]:
    """The reverse of `plain_state`: names as `torch.nn.utils.prune` writes them, or plain ones without a mask."""
    renamed = {}
    for name, value in state.items():
        if mask and name in mask:
            renamed[f"{name}_orig"] = value
            renamed[f"{name}_mask"] = mask[name].to(value.dtype)
        else:
            renamed[name] = value
    return renamed


def _checked_mask(masks: dict[str, Tensor], state: State, path: Path) -> Mask:
    for name, mask in masks.items():
        if name not in state or state[name].shape != mask.shape:
            raise UserError(f"{path} holds a mask for {name} that fits no weight of that name")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise UserError(f"{path} holds a mask for {name} that is not 0 or 1 everywhere")
    return {name: mask.bool() for name, mask in masks.items()}


def fit_to_network(ticket: Ticket, network: State, arch: str) -> Ticket:
    """The ticket with exactly the names of `network` (the state dict of an `arch`), or UserError where it is another.

    Input normalisation and batch-norm counters may be missing in the file (then they are the network's own); all
    else must be there, in the network's shapes.
    """
    state = dict(ticket.state)
    for name in network:
        if name.startswith("normalize.") or name.endswith("num_batches_tracked"):
            state.setdefault(name, network[name].cpu())
    for name in sorted(set(network) ^ set(state)):
        raise UserError(f"{ticket.path} is no --arch {arch}: it {'has' if name in state else 'lacks'} {name}")
    resized = [name for name in network if state[name].shape != network[name].shape]
    if resized and {name.partition(".")[0] for name in resized} <= {"fc", "classifier"}:
        found, wanted = len(state[resized[0]]), len(network[resized[0]])
        raise UserError(f"{ticket.path} tells {found} classes apart, the data (--dataset, --data) has {wanted}")
    for name in resized:
        shapes = f"{tuple(state[name].shape)}, not {tuple(network[name].shape)}"
        raise UserError(f"{ticket.path} is no --arch {arch}: {name} is {shapes}")
    return Ticket(ticket.level, ticket.path, {name: state[name] for name in network}, ticket.mask)
