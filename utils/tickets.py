"""Tickets and pools on disk: what every file is called, and both layouts that tickets come in.

Published CIFAR layout: `{level}model_SA_best.pth.tar`, pruned weights as `NAME.weight_orig` and `NAME.weight_mask`.
OpenLTH: `level_{L}/main/model_ep{E}_it{I}.pth` beside `mask.pth`. In memory both are a `Ticket`: plain names, zeros
where the mask is False. No other module spells a file name or renames a key.
"""

import contextlib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils import checkpoint, schemas
from utils.errors import UserError, warn
from utils.plain_data import is_percent, is_whole, misfit
from utils.pruning import Mask, State, apply_mask, count_kept, count_prunable, dense_mask

SETTINGS = "settings.json"
EVENTS = "tensorboard"
REPLICA = r"replica_(\d+)"
MODEL, MASK = r"model_ep(\d+)_it(\d+)\.pth", "mask.pth"  # OpenLTH's, of each level
REWIND = "epoch_{epoch}_rewind_weight.pt"
RESUME = "resume.pth.tar"  # what goes on with a level, beside OpenLTH's files
STATE_DICTS = ("state_dict", "model_state_dict", "model")  # what programs call it in their checkpoints
POOLS_JSON, POOLS_CSV, POOLS_PLOT = "pools.json", "pools.csv", "accuracy.png"
CONNECTIVITY_JSON, CONNECTIVITY_CSV = "connectivity.json", "connectivity.csv"
CONNECTIVITY_PLOT, BARRIERS_PLOT = "connectivity.png", "barriers.png"
COMPARISON_JSON, COMPARISON_CSV = "comparison.json", "comparison.csv"
COMPARISON_PLOT, GAIN_PLOT = "accuracy.png", "gain.png"
REPORT_PAGE = "report.html"
EVALUATION_JSON, EVALUATION_CSV, RELIABILITY_PLOT = "evaluation.json", "evaluation.csv", "reliability.png"
CORRUPTIONS_CSV, CORRUPTIONS_PLOT = "corruptions.csv", "corruptions.png"
CORRUPTED_LABELS = "labels.npy"
CORRUPTED_SETTINGS = "corrupted.json"  # not SETTINGS, which a run of IMP in the same folder goes by
PRUNE_TYPES = ("lt", "rewind_lt", "pt")
PAPER_PRUNE_TYPE, PAPER_REWIND_EPOCH = "rewind_lt", 9  # the default folder of a run is called by them
MAX_LEVEL = 10_000  # of tickets in a folder: programs count up to it
STRAY_ZEROS = 0.01  # a dense network may have as many; of a sparse one, far more weights are zero

# Names of files and folders


def pools_folder(tickets_folder: Path, method: str) -> Path:
    """The default place of one method's pools: beside the tickets."""
    return tickets_folder / "pools" / method


def tickets_beside(pools: Path) -> Path | None:
    """The folder of tickets in which `pools` lies, if it is where `pools_folder` puts it."""
    folder = pools if pools.parent.name == "pools" else pools.resolve()
    return folder.parent.parent if folder.parent.name == "pools" else None


def corrupted_path(folder: Path, corruption: str) -> Path:
    """The images of one corruption, as CIFAR-10-C names them."""
    return folder / f"{corruption}.npy"


def pool_path(folder: Path, level: int) -> Path:
    return folder / f"{level}pool.pth.tar"


def search_plot(folder: Path, level: int) -> Path:
    """The picture of the search from this start."""
    return folder / f"search_level{level}.png"


def unfinished_pool_path(folder: Path, level: int) -> Path:
    """Where an interrupted search of this start goes on."""
    return folder / f"{level}pool_unfinished.pth.tar"


def is_rewind_point(path: Path) -> bool:
    """Whether `path` is called like the weights that the levels of a run go back to."""
    return bool(re.fullmatch(REWIND.format(epoch=r"\d+"), path.name))


def holds_search(folder: Path) -> bool:
    """Whether `folder` has a pool of a search, finished or not."""
    return any(folder.glob("*pool.pth.tar")) or any(folder.glob("*pool_unfinished.pth.tar"))


def run_folder(prune_type: str, dataset: str, arch: str, rewind_epoch: int, seed: int) -> Path:
    """The default place of a run's tickets."""
    return Path("checkpoints", prune_type, dataset, arch, f"rewind_epoch_{rewind_epoch}", f"seed{seed}")


# Tickets in memory


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
    recorded_accuracy: float | None = None  # the validation accuracy that its file tells, percent

    @cached_property
    def kept(self) -> int:
        return count_kept(self.mask)

    @property
    def density(self) -> float:
        return self.kept / count_prunable(self.mask)

    @property
    def nbytes(self) -> int:
        """What its tensors take in memory."""
        return _tensor_bytes([self.state, self.mask])

    def digest(self) -> str:
        """A hash (BLAKE2b, 32 hex digits) of names, weights and mask, which tells this ticket from any other."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in (*self.state.items(), *self.mask.items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy())
        return digest.hexdigest()

    @property
    def is_dense(self) -> bool:
        return self.kept == count_prunable(self.mask)

    @cached_property
    def zero_share(self) -> float:
        """The share of the prunable weights that are zero."""
        return sum(int((self.state[name] == 0).sum()) for name in self.mask) / count_prunable(self.mask)

    @property
    def lost_its_mask(self) -> bool:
        """Whether it is sparse and its file does not say so: a ticket that was exported, say."""
        return self.is_dense and self.zero_share > STRAY_ZEROS


# Finding them on disk


def find_tickets(folder: Path) -> list[TicketFile]:
    """The tickets in `folder`, by level. UserError when there is none, or when it is not clear which are meant.

    Levels that were not trained to their end are left out; a line on standard error names them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name the one that holds the tickets")
    published = _published_tickets(folder)
    if published and _openlth_levels(folder):
        raise UserError(f"{folder} holds *model_SA_best* and level_*/main: move one of the two runs to another folder")
    files = published or _openlth_tickets(folder)
    if not files:
        raise UserError(_nothing_found(folder))
    levels = [file.level for file in files]
    if max(levels) > MAX_LEVEL:
        raise UserError(f"{folder} holds a ticket of level {max(levels)}: levels are counted from 0 on")
    for level in set(levels):
        if levels.count(level) > 1:
            names = ", ".join(file.path.name for file in files if file.level == level)
            raise UserError(f"{folder} holds more than one ticket of level {level}: {names}")
    return _without_half_trained(sorted(files, key=lambda file: file.level))


def holds_tickets(folder: Path) -> bool:
    """Whether tickets of either layout lie in `folder` itself."""
    return bool(_published_tickets(folder) or _openlth_levels(folder))


def ticket_of_file(path: Path) -> TicketFile | None:
    """The ticket that `path` is by its name and place, in either layout; None if it is called otherwise."""
    if number := re.match(r"(\d+).*model_SA_best", path.name):
        return TicketFile(int(number[1]), path)
    level = _level_of(path.parent.resolve().parent)  # the file itself may be a link into a store
    if level is not None and re.fullmatch(MODEL, path.name):
        return TicketFile(level, path, path.parent / MASK)
    return None


def settings_path(file: TicketFile) -> Path:
    """Where the run of a ticket of ours has its flags; tickets of other programs have nothing there."""
    return _run_of(file).folder / SETTINGS


def _run_of(file: TicketFile) -> "RunFiles":
    """The files of the run that a ticket is of."""
    layout = RunFiles if file.mask_path is None else OpenlthRunFiles
    return layout(layout.folder_of(file.path))


def _without_half_trained(files: list[TicketFile]) -> list[TicketFile]:
    """`files`, by level, without the last one if its level was stopped: tickets are written while a level trains."""
    *before, last = files
    done, whole = _run_of(last).epochs_done(last.level), _epochs_of_run(last, before)
    if done is None or whole is None or done >= whole:
        return files
    what = f"{last.path}: its level was stopped after {done} of {whole} epochs"
    if not before:
        raise UserError(f"{what}, and there is no other ticket: let main_imp.py end it")
    warn(f"left out: {what}")
    return before


def _epochs_of_run(file: TicketFile, before: Sequence[TicketFile]) -> int | None:
    """To how many epochs the levels of a run are trained: by its flags, or else by the level before."""
    with contextlib.suppress(UserError):  # tickets of other programs have no flags
        flags = checkpoint.load_json(settings_path(file))
        if not misfit(flags, {"settings": {"epochs": is_whole}}):
            return flags["settings"]["epochs"]
    return _run_of(before[-1]).epochs_done(before[-1].level) if before else None


def is_replica(folder: Path) -> bool:
    """Whether `folder` is that of a replica (see `RunFiles.replica`) in the folder of its run."""
    run = folder.parent
    return bool(re.fullmatch(REPLICA, folder.name)) and ((run / SETTINGS).exists() or any(run.glob("level_*")))


def _published_tickets(folder: Path) -> list[TicketFile]:
    return [file for path in folder.glob("*model_SA_best*") if (file := ticket_of_file(path))]


def _openlth_tickets(folder: Path) -> list[TicketFile]:
    """OpenLTH's levels in `folder`: a replicate, a `lottery_<hash>` or the root that holds one."""
    below = [other for depth in ("*", "*/*") for other in sorted(folder.glob(depth)) if not is_replica(other)]
    runs = [run for run in (folder, *below) if _openlth_levels(run)]
    if len(runs) > 1:
        raise UserError(f"{folder} holds several runs, name one of them: {', '.join(map(str, runs))}")
    return _trained_levels(runs[0]) if runs else []


def _trained_levels(run: Path) -> list[TicketFile]:
    """The levels of `run` without those that were interrupted; UserError where none is left.

    OpenLTH saves the network that a level starts from and, at its end, the trained one. All levels start at the same
    (epoch, iteration), which a level with both networks shows, or else the last network of `level_pretrain`: a single
    network of that step, or of (0, 0), is not trained. Runs of ours, which have a file RESUME, save trained networks
    only.
    """
    files = _openlth_levels(run)
    steps = {file: [step for step, _ in _openlth_models(file.path.parent)] for file in files}
    starts = [found[0] for file, found in steps.items() if len(found) > 1 and not file.path.with_name(RESUME).exists()]
    starts = starts or [step for step, _ in _openlth_models(run / "level_pretrain" / "main")[-1:]]
    untrained = [file for file in files if len(steps[file]) == 1 and steps[file][0] in ((0, 0), *starts)]
    if untrained:
        names = ", ".join(str(file.path.parent.parent) for file in sorted(untrained, key=lambda file: file.level))
        if len(untrained) == len(files):
            raise UserError(f"{names}: only the network that training started from is there: let OpenLTH end its run")
        warn(f"left out, not trained yet: {names}")
    return [file for file in files if file not in untrained]


def _openlth_levels(run: Path) -> list[TicketFile]:
    """The last network that each `level_N` of `run` wrote; `level_pretrain` is no ticket."""
    files = []
    for main in run.glob("level_*/main"):
        level, models = _level_of(main.parent), _openlth_models(main)
        if level is not None and models:
            files.append(TicketFile(level, models[-1][1], main / MASK))
    return files


def _level_of(folder: Path) -> int | None:
    """The N of a folder `level_N`; `level_pretrain` is none."""
    name = re.fullmatch(r"level_(\d+)", folder.name)
    return int(name[1]) if name else None


def _openlth_models(main: Path) -> list[tuple[tuple[int, int], Path]]:
    """The networks of one level by the (epoch, iteration) that they were saved after."""
    names = [(re.fullmatch(MODEL, path.name), path) for path in main.glob("model_ep*.pth")]
    return sorted(((int(step[1]), int(step[2])), path) for step, path in names if step)


def _nothing_found(folder: Path) -> str:
    below = {path.parent for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/*model_SA_best*")}
    message = f"{folder} holds no tickets (*model_SA_best*, or level_*/main as OpenLTH writes them)"
    return f"{message}; there are some in {', '.join(map(str, sorted(below)))}" if below else message


# Reading and writing their keys


def read_ticket(file: TicketFile) -> Ticket:
    """Read a ticket of either layout and check that it holds what a ticket must. UserError names what is wrong."""
    content = checkpoint.load(file.path)
    state, mask = plain_state(_state_dict(content, file.path), file.path)
    if file.mask_path is not None:
        masks = _state_dict(checkpoint.load(file.mask_path), file.mask_path)
        mask = _checked_mask(masks, state, f"{file.mask_path} (beside {file.path.name})")
        state = apply_mask(state, mask)
    _refuse_infinite(state, file.path)
    if not mask:
        convolutions = [name for name, value in state.items() if value.dim() == 4 and value.is_floating_point()]
        mask = dense_mask(state, convolutions)
    if not mask:
        raise UserError(f"{file.path} holds no convolution: it is no ticket")
    if not count_kept(mask):
        raise UserError(f"{file.path} has no weight left under its mask: it is no network")
    accuracy = content.get("best_sa")
    return Ticket(file.level, file.path, state, mask, accuracy if is_percent(accuracy) else None)


def _refuse_infinite(state: State, path: Path) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{path} holds NaN or infinity in {name}: it cannot be pooled or gone on with")


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, with what wrappers put before its names taken off."""
    parts = [content.get(name) for name in STATE_DICTS] if isinstance(content, dict) else []
    content = next(filter(_is_state_dict, [*parts, content]), None)
    if content is None:
        raise UserError(f"{path} holds no state dict, neither alone nor as {', '.join(STATE_DICTS)}")
    content = {name: value.detach() for name, value in content.items()}  # some programs save parameters
    for prefix in ("module.", "_orig_mod.", "module.", "model."):  # a compiled network may wrap a distributed one
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def _is_state_dict(content: object) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def plain_state(state_dict: dict[str, Tensor], path: Path) -> tuple[State, Mask]:
    """Split `torch.nn.utils.prune`'s names into a plain state, zero where pruned, and its mask (empty: dense)."""
    masks = {name.removesuffix("_mask"): value for name, value in state_dict.items() if name.endswith("_mask")}
    state = {name.removesuffix("_orig"): value for name, value in state_dict.items() if not name.endswith("_mask")}
    for name in state_dict:
        plain = name.removesuffix("_orig")
        if plain != name and (plain in state_dict or plain not in masks):
            raise UserError(f"{path} holds {name} beside {plain} or without {plain}_mask")
    mask = _checked_mask(masks, state, path)
    return apply_mask(state, mask), mask


def published_state(state: State, mask: Mask | None, slim: bool = False) -> dict[str, Tensor]:
    """The reverse of `plain_state`: names as `torch.nn.utils.prune` writes them, or plain ones without a mask.

    Masks are of the weights' type as there, or uint8 if `slim`.
    """
    renamed = {}
    for name, value in state.items():
        if mask and name in mask:
            renamed[f"{name}_orig"] = value
            renamed[f"{name}_mask"] = mask[name].to(torch.uint8 if slim else value.dtype)
        else:
            renamed[name] = value
    return renamed


def _checked_mask(masks: dict[str, Tensor], state: State, path: Path | str) -> Mask:
    for name, mask in masks.items():
        if name not in state or state[name].shape != mask.shape:
            raise UserError(f"{path} holds a mask for {name} that fits no weight of that name")
        if state[name].dim() < 2 or not state[name].is_floating_point():
            raise UserError(f"{path} holds a mask for {name}, which is no weight of a layer")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise UserError(f"{path} holds a mask for {name} that is not 0 or 1 everywhere")
    return {name: mask.bool() for name, mask in masks.items()}


def may_be_missing(name: str) -> bool:
    """Whether a ticket's file may lack the entry of this name: input normalisation, or a counter of batch norm."""
    return name.startswith("normalize.") or name.endswith("num_batches_tracked")


def fit_to_network(ticket: Ticket, network: State, arch: str) -> Ticket:
    """The ticket with the names and precision of `network` (state dict of an `arch`); UserError if it is another.

    What may be missing in the file is the network's own then; all else must be there, in the network's shapes.
    """
    state = dict(ticket.state)
    for name in network:
        if name not in state and may_be_missing(name):
            state[name] = network[name].cpu()
    if odd := sorted(set(network) ^ set(state)):
        raise UserError(f"{ticket.path} is no --arch {arch}: it {'has' if odd[0] in state else 'lacks'} {odd[0]}")
    resized = [name for name in network if state[name].shape != network[name].shape]
    if resized and {name.partition(".")[0] for name in resized} <= {"fc", "classifier"}:
        found, wanted = len(state[resized[0]]), len(network[resized[0]])
        raise UserError(f"{ticket.path} tells {found} classes apart, the data (--dataset, --data) has {wanted}")
    if resized:
        name = resized[0]
        shapes = f"{tuple(state[name].shape)}, not {tuple(network[name].shape)}"
        raise UserError(f"{ticket.path} is no --arch {arch}: {name} is {shapes}")
    for name, value in network.items():
        if _kind(state[name]) != _kind(value):  # of how many bits does not matter
            raise UserError(f"{ticket.path} is no --arch {arch}: {name} is {state[name].dtype}, not {value.dtype}")
    fitted = {name: state[name].to(value.dtype) for name, value in network.items()}
    # The network's precision may hold less than the file's.
    _refuse_infinite({name: value for name, value in fitted.items() if value is not state[name]}, ticket.path)
    return replace(ticket, state=fitted)


def alike(first: State, second: State) -> bool:
    """Whether both have the same names and, under each, tensors of the same shape and type."""
    kinds = [{name: (value.shape, value.dtype) for name, value in state.items()} for state in (first, second)]
    return kinds[0] == kinds[1]


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.dtype == torch.bool


# The files of a run of IMP


@dataclass
class Snapshot:
    """What an epoch of IMP leaves behind: what its ticket holds, and all that the next epoch needs."""

    level: int
    epoch: int  # epochs done
    state: State  # on the CPU, zeros where pruned
    mask: Mask  # all True at level 0
    curves: dict[str, list[float]]  # accuracy per epoch, percent, of "train", "val" and "test"
    best: float  # best validation accuracy so far, percent; -1 before any epoch is scored
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    rewind: State  # the weights that the next level goes back to
    # Within an epoch: its batches so far, and their counts and loss over all processes; empty between epochs.
    underway: dict[str, float] = field(default_factory=dict)

    @property
    def has_ticket(self) -> bool:
        """Whether an epoch of the level has been scored, so that there is a ticket of it."""
        return self.best >= 0


class RunFiles:
    """The files of an IMP run in the published CIFAR layout, which prunes convolutions alone.

    Tickets and the checkpoints of finished levels keep the optimizer's settings but not its momentum, since no training
    goes on with it. `slim` files, which the published scripts read too, keep masks in a byte a weight and no initial
    weights in tickets.
    """

    prunable: tuple[type[nn.Module], ...] = (nn.Conv2d,)

    def __init__(self, folder: Path, slim: bool = False):
        self.folder, self.slim = Path(folder), slim

    def replica(self, number: int) -> "RunFiles":
        """The files, in the same layout, of one of several trainings of each level, whose mean is this run's."""
        return type(self)(self.folder / f"replica_{number}", self.slim)

    @staticmethod
    def folder_of(path: Path) -> Path:
        """The folder of the run that has this ticket or checkpoint."""
        return path.parent

    def parts(self) -> list["RunFiles"]:
        """These files and those of the replicas that are there."""
        numbers = (re.fullmatch(REPLICA, path.name) for path in self.folder.glob("*"))
        return [self, *(self.replica(number) for number in sorted(int(name[1]) for name in numbers if name))]

    def ticket(self, level: int) -> TicketFile:
        return TicketFile(level, self.folder / f"{level}model_SA_best.pth.tar")

    def checkpoint(self, level: int) -> Path:
        return self.folder / f"{level}checkpoint.pth.tar"

    def curve(self, level: int) -> Path:
        return self.folder / f"{level}net_train.png"

    def events(self, level: int) -> Path:
        """The folder of the level's curves for TensorBoard."""
        return self.folder / EVENTS / f"level_{level}"

    def newest_level(self) -> int | None:
        """The highest level with a checkpoint: where an interrupted run goes on."""
        names = (
            re.fullmatch(r"(\d+)checkpoint\.pth\.tar", path.name) for path in self.folder.glob("*checkpoint.pth.tar")
        )
        return max((int(name[1]) for name in names if name), default=None)

    def epochs_done(self, level: int) -> int | None:
        """How far a level has been trained; None where no checkpoint tells."""
        try:
            record = checkpoint.load(self.checkpoint(level))
        except UserError:  # none, or a damaged one: who goes on from it is told
            return None
        return None if misfit(record, {"epoch": is_whole}) else record["epoch"]

    def remove_leftovers(self) -> None:
        """Remove what a killed run had half written."""
        checkpoint.remove_leftovers(self.folder)

    def begin_level(self, start: Snapshot) -> None:
        """Save what training of a level starts from, where the layout has a place for it."""

    def save_rewind(self, state: State, epoch: int) -> None:
        checkpoint.save(state, self.folder / REWIND.format(epoch=epoch))

    def save_ticket(self, best: Snapshot) -> None:
        checkpoint.save(self._ticket_content(best), self.ticket(best.level).path)

    def save_checkpoint(self, last: Snapshot, is_finished: bool = False) -> None:
        """Save what the next epoch, or after the last one the next level, goes on from."""
        checkpoint.save(self._checkpoint_content(last, is_finished), self.checkpoint(last.level))

    def level_bytes(self, snapshot: Snapshot) -> int:
        """What the tensors in the files of a finished sparse level take, in bytes."""
        sparse = replace(snapshot, level=1)
        return _tensor_bytes([self._ticket_content(sparse), self._checkpoint_content(sparse, is_finished=True)])

    def _ticket_content(self, best: Snapshot) -> dict[str, Any]:
        record = self._checkpoint_content(best, is_finished=True)
        if self.slim:
            del record["init_weight"]
        return record

    def _checkpoint_content(self, last: Snapshot, is_finished: bool) -> dict[str, Any]:
        """Level 0 has plain names in the published layout, later levels those of `torch.nn.utils.prune`."""
        record = {
            "state": last.level,
            "result": {f"{split}_ta": curve for split, curve in last.curves.items()},
            "epoch": last.epoch,
            "state_dict": published_state(last.state, last.mask if last.level > 0 else None, self.slim),
            "best_sa": last.best,
            "optimizer": {**last.optimizer, "state": {}} if is_finished else last.optimizer,
            "scheduler": last.scheduler,
            "init_weight": last.rewind,
        }
        return {**record, "underway": last.underway} if last.underway else record

    def load_checkpoint(self, level: int) -> Snapshot:
        """What `save_checkpoint` (or a published script) saved; UserError where it is not what a run can go on with."""
        try:
            return self._read_checkpoint(level)
        except UserError as error:
            without = "starts again" if level == 0 else "goes on from the level before"
            raise UserError(f"{error}; move it away, and the run {without}") from error

    def _read_checkpoint(self, level: int) -> Snapshot:
        path = self.checkpoint(level)
        record = checkpoint.load(path)
        odd = misfit(record, schemas.CHECKPOINT)
        if not odd and "underway" in record:
            odd = misfit(record, {"underway": schemas.UNDERWAY})
        if odd:
            raise UserError(f"{path} is no checkpoint of an IMP run: {odd} is missing or odd")
        state, mask = plain_state(_state_dict(record, path), path)
        rewind = _state_dict(record["init_weight"], path)
        for part in (state, rewind):
            _refuse_infinite(part, path)
        if not alike(state, rewind):
            raise UserError(f"{path} is no checkpoint of an IMP run: init_weight does not fit state_dict")
        return Snapshot(
            level=level,
            epoch=record["epoch"],
            state=state,
            mask=mask,
            curves={name.removesuffix("_ta"): record["result"][name] for name in schemas.CHECKPOINT["result"]},
            best=record["best_sa"],
            optimizer=record["optimizer"],
            scheduler=record["scheduler"],
            rewind=rewind,
            underway={name: record["underway"][name] for name in schemas.UNDERWAY} if "underway" in record else {},
        )


class OpenlthRunFiles(RunFiles):
    """The files of an IMP run in OpenLTH's layout, which prunes linear layers too.

    What only resuming needs is in a file of its own beside OpenLTH's.
    """

    prunable = (nn.Conv2d, nn.Linear)

    @staticmethod
    def folder_of(path: Path) -> Path:
        return path.parent.resolve().parent.parent

    def ticket(self, level: int) -> TicketFile:
        """UserError where it is gone, since its name tells an epoch that nobody else knows."""
        for file in _openlth_levels(self.folder):
            if file.level == level:
                return file
        raise UserError(f"{self._main(level)} holds no ticket (model_ep*.pth): put it back, or begin in another folder")

    def checkpoint(self, level: int) -> Path:
        return self._main(level) / RESUME

    def curve(self, level: int) -> Path:
        return self._main(level) / "net_train.png"

    def newest_level(self) -> int | None:
        levels = (_level_of(path.parent.parent) for path in self.folder.glob(f"level_*/main/{RESUME}"))
        return max((level for level in levels if level is not None), default=None)

    def remove_leftovers(self) -> None:
        for folder in (self.folder, *self.folder.glob("level_*/main")):
            checkpoint.remove_leftovers(folder)

    def begin_level(self, start: Snapshot) -> None:
        main = self._main(start.level)
        checkpoint.save({f"model.{name}": part.int() for name, part in start.mask.items()}, main / MASK)
        report = {"total": float(count_prunable(start.mask)), "unpruned": float(count_kept(start.mask))}
        checkpoint.save_json(report, main / "sparsity_report.json")

    def save_ticket(self, best: Snapshot) -> None:
        """The last model of a level is its ticket, so an earlier best goes.

        Unlike OpenLTH we save no model of a level's start, which would be taken for a ticket until there is one.
        """
        path = self._main(best.level) / f"model_ep{best.epoch}_it0.pth"
        checkpoint.save(self._ticket_content(best), path)
        for _, other in _openlth_models(path.parent):
            if other != path:
                other.unlink()

    def _ticket_content(self, best: Snapshot) -> dict[str, Any]:
        return {f"model.{name}": value for name, value in best.state.items() if not name.startswith("normalize.")}

    def _main(self, level: int) -> Path:
        return self.folder / f"level_{level}" / "main"


def _tensor_bytes(content: Any) -> int:
    if isinstance(content, Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return sum(map(_tensor_bytes, parts))
