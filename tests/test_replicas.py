"""main_imp.py --replicas: each level is the mean of several trainings of its mask. tiny_imp has the network."""

import contextlib
import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import IMAGENET_IMP, IMAGENET_SEARCH, IMP, SMALL, in_two_processes
from tiny_imp import (
    CONVOLUTIONS,
    Data,
    assert_equal,
    dying,
    last,
    make_net,
    make_settings,
    mask_of,
    masked,
    plain,
    state_of,
    ticket,
)
from torch.optim.swa_utils import update_bn

from CIFAR import Lottery_pools, main_imp
from ImageNet import Lottery_pools as search_photographs
from utils.errors import UserError
from utils.evaluation import Score
from utils.imp import ImpRun
from utils.preemption import Preempted
from utils.replicas import ReplicasRun
from utils.tickets import OpenlthRunFiles, RunFiles, find_tickets, holds_tickets, read_ticket
from utils.training import Schedule

pytestmark = pytest.mark.usefixtures("quick")
BATCH_NORM = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
SHORT = {"epochs": 2, "schedule": Schedule(0.1, (1,)), "batch_size": 12, "pruning_times": 2}


class ReplicaData(Data):
    """`Data` with batches for recalibration; notes the network at the start of every pass, with the pass's purpose."""

    def __init__(self, net: torch.nn.Module | None = None):
        super().__init__()
        self.net, self.starts = net, []

    def train_batches(self, batch_size, *purpose, first=0):
        if self.net is not None:
            self.starts.append((purpose, state_of(self.net)))
        yield from super().train_batches(batch_size, *purpose, first=first)

    def bn_batches(self, batch_size, *purpose, limit=0):
        assert limit == 0
        yield from Data.train_batches(self, batch_size, *purpose)

    def start(self, *what: int | str) -> dict[str, torch.Tensor]:
        return next(state for purpose, state in self.starts if purpose == (41, "train", *what))


def run(folder: Path, replicas: int = 2, say=lambda line: None, stop=lambda: False, **changes) -> ReplicaData:
    """A run from the start, or what the same command given again does."""
    net = make_net()
    data = ReplicaData(net)
    settings = make_settings(replicas=replicas, **changes)
    ReplicasRun(net, data, settings, RunFiles(folder), say, stop=stop).run()
    return data


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run and its replicas."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ends(folder: Path, level: int, replicas: int = 2) -> list[dict[str, torch.Tensor]]:
    return [plain(last(folder / f"replica_{number}", level)) for number in range(replicas)]


# The mean.


def test_a_level_is_the_mean_of_its_replicas_last_epochs(tmp_path):
    run(tmp_path, replicas=3)
    for level in range(3):
        states, found = ends(tmp_path, level, 3), plain(ticket(tmp_path, level))
        for name in set(found) - set(BATCH_NORM):
            expected = torch.stack([state[name].double() for state in states]).mean(0)
            assert torch.allclose(found[name].double(), expected, rtol=0, atol=1e-7), name
            assert not torch.equal(states[0][name], states[1][name])
        assert_equal(found, plain(last(tmp_path, level)))


def test_a_mean_is_as_sparse_as_its_mask(tmp_path):
    run(tmp_path)
    for level, expected in ((1, 202), (2, 162)):
        record = ticket(tmp_path, level)
        for number in range(2):
            assert_equal(mask_of(last(tmp_path / f"replica_{number}", level)), mask_of(record))
        assert sum(int(part.sum()) for part in mask_of(record).values()) == expected
        for name, part in mask_of(record).items():
            weights = record["state_dict"][f"{name}.weight_orig"]
            assert torch.equal(weights != 0, part) and not weights[~part].signbit().any()


def test_batch_norm_of_a_mean_is_recalibrated_on_all_training_images(tmp_path):
    run(tmp_path)
    for level in range(3):
        found, net = plain(ticket(tmp_path, level)), make_net()
        net.load_state_dict(found)
        update_bn(ReplicaData().bn_batches(8, 41, "recalibrate", level), net)
        assert found["1.num_batches_tracked"] == 3
        for name in BATCH_NORM:
            assert torch.allclose(found[name], net.state_dict()[name]), name


def accuracy(state: dict[str, torch.Tensor], split: str) -> float:
    net = make_net().eval()
    net.load_state_dict(state)
    ((images, labels),) = Data().eval_batches(split)
    return 100 * int((net(images).argmax(1) == labels).sum()) / len(labels)


def test_recorded_accuracies_are_the_means_own(tmp_path):
    run(tmp_path, pruning_times=2)
    for level, epochs in ((0, 3), (1, 2)):
        record = ticket(tmp_path, level)
        val, test = (accuracy(plain(record), split) for split in ("val", "test"))
        replicas = [last(tmp_path / f"replica_{number}", level)["result"]["train_ta"][-1] for number in range(2)]
        assert (record["best_sa"], record["epoch"]) == (val, 3)
        train = sum(replicas) / 2
        assert record["result"] == {"train_ta": [train] * epochs, "val_ta": [val] * epochs, "test_ta": [test] * epochs}
        assert read_ticket(RunFiles(tmp_path).ticket(level)).recorded_accuracy == val


def test_the_next_mask_comes_from_the_mean(tmp_path):
    run(tmp_path, pruning_times=2)
    found = torch.cat([part.flatten() for part in mask_of(last(tmp_path, 1)).values()])
    others = [plain(last(tmp_path, 0)), *ends(tmp_path, 0)]
    masks = []
    for state in others:
        magnitudes = torch.cat([state[f"{name}.weight"].abs().flatten() for name in CONVOLUTIONS])
        masks.append(magnitudes >= magnitudes.sort().values[50])
    assert torch.equal(found, masks[0])
    assert not torch.equal(found, masks[1]) and not torch.equal(found, masks[2])


# The replicas.


def test_replicas_start_alike_and_draw_other_images(tmp_path):
    data = run(tmp_path)
    for level in (1, 2):
        starts = [data.start(level, 1), data.start(level, 1, "replica", 1)]
        assert_equal(*starts)
        point = torch.load(tmp_path / "epoch_1_rewind_weight.pt", weights_only=True)
        assert_equal(starts[0], masked(point, mask_of(last(tmp_path, level))))
    purposes = [purpose[2:] for purpose, _ in data.starts]
    first = [(0, 0), (0, 1), (0, 2)]
    assert purposes[:5] == [*first, (0, 1, "replica", 1), (0, 2, "replica", 1)]
    passes = [next(Data().train_batches(24, *purpose))[0] for purpose, _ in data.starts]
    assert len({float(images.double().square().sum()) for images in passes}) == len(passes) == 13


def test_the_first_replicas_rewind_point_is_everybodys(tmp_path):
    """The others begin level 0 there, at its epoch."""
    data = run(tmp_path, epochs=4, rewind_epoch=2)
    point = torch.load(tmp_path / "epoch_2_rewind_weight.pt", weights_only=True)
    assert_equal(point, data.start(0, 2))
    assert_equal(point, data.start(0, 2, "replica", 1))
    assert not (tmp_path / "replica_1" / "epoch_2_rewind_weight.pt").exists()
    assert len(last(tmp_path / "replica_1", 0)["result"]["val_ta"]) == 2
    for folder in (tmp_path, tmp_path / "replica_1"):
        assert_equal(last(folder, 1)["init_weight"], point)


def test_the_first_replica_of_level_0_is_the_run_without_replicas(tmp_path):
    run(tmp_path / "two", pruning_times=1)
    alone = make_settings(pruning_times=1)
    ImpRun(make_net(), Data(), alone, RunFiles(tmp_path / "one"), lambda line: None).run()
    assert files(tmp_path / "one") == files(tmp_path / "two" / "replica_0")


@pytest.mark.parametrize("changes", [{"prune_type": "lt"}, {"prune_type": "pt"}, {"rewind_epoch": 0}], ids=str)
def test_without_a_rewind_epoch_every_replica_starts_from_the_initialisation(changes, tmp_path):
    data = run(tmp_path, **changes, pruning_times=2)
    initial = state_of(make_net())
    assert_equal(data.start(0, 0), initial)
    assert_equal(data.start(0, 0, "replica", 1), initial)
    back = initial if changes.get("prune_type") != "pt" else plain(ticket(tmp_path, 0))
    for start in (data.start(1, 0), data.start(1, 0, "replica", 1)):
        assert_equal(start, masked(back, mask_of(last(tmp_path, 1))))


def test_tickets_of_replicas_are_their_best_epochs(tmp_path):
    run(tmp_path)
    for number in range(2):
        for level in range(3):
            record = ticket(tmp_path / f"replica_{number}", level)
            curve = last(tmp_path / f"replica_{number}", level)["result"]["val_ta"]
            assert record["best_sa"] == max(curve) == record["result"]["val_ta"][-1]


def test_the_log_tells_replicas_apart_and_sets_the_mean_beside_them(tmp_path):
    lines = []
    run(tmp_path, say=lines.append, pruning_times=2)
    assert [line.partition("  loss")[0] for line in lines if re.match(r"level 1 \w+ \d epoch", line)] == [
        f"level 1 replica {number} epoch   {epoch}/3" for number in range(2) for epoch in (2, 3)
    ]
    (line,) = [line for line in lines if line.startswith("level 1 mean of 2 replicas")]
    found = [float(number) for number in re.findall(r"\d+\.\d\d", line)]
    records = [last(folder, 1)["result"] for folder in (tmp_path, tmp_path / "replica_0", tmp_path / "replica_1")]
    expected = [record[name][-1] for name in ("val_ta", "test_ta") for record in records]
    assert found == pytest.approx(expected, abs=0.005)
    assert sum("prunable weights remain" in line for line in lines) == 2


# Interruptions.


def run_until_stopped(folder: Path, at: int | None, **changes) -> int:
    """A run that is told to stop from the `at`-th time that it asks on; returns how often it asked."""
    asked = count()
    if at is None:
        run(folder, stop=lambda: next(asked) < 0, **changes)
    else:
        with pytest.raises(Preempted):
            run(folder, stop=lambda: next(asked) >= at, **changes)
    return next(asked)


@pytest.mark.parametrize("changes", [{}, {"prune_type": "pt", "pruning_times": 1}], ids=["rewind_lt", "pt"])
def test_a_run_stopped_anywhere_goes_on_to_the_same_bytes(changes, tmp_path):
    """In every batch of training, scoring and recalibration, of replicas and means."""
    changes = {**SHORT, **changes}
    times = run_until_stopped(tmp_path / "whole", None, **changes)
    whole = files(tmp_path / "whole")
    assert times > 20
    for at in range(times):
        folder = tmp_path / str(at)
        run_until_stopped(folder, at, **changes)
        run(folder, **changes)
        assert files(folder) == whole, f"stopped at {at}"


def run_until_cut(cut: int | None, folder: Path, monkeypatch) -> int:
    """A run that dies at the `cut`-th event of its life: a line of the log, before or after a file."""
    with dying(cut, monkeypatch) as (event, events):
        run(folder, say=event, **SHORT)
    return next(events)


def test_a_run_that_died_anywhere_ends_in_the_same_bytes(tmp_path, monkeypatch):
    """Between replica and mean, between the mean's ticket and its checkpoint, between two levels."""
    events = run_until_cut(None, tmp_path / "whole", monkeypatch)
    whole = files(tmp_path / "whole")
    assert events > 30
    for cut in range(events):
        folder = tmp_path / str(cut)
        assert run_until_cut(cut, folder, monkeypatch) == cut + 1
        run(folder, **SHORT)
        assert files(folder) == whole, f"cut {cut}"


def test_stopping_while_a_mean_is_made_says_so_and_keeps_nothing_of_it(tmp_path):
    lines = []

    def is_trained() -> bool:
        path = RunFiles(tmp_path).replica(1).checkpoint(0)
        return path.exists() and last(path.parent, 0)["epoch"] == 2

    with pytest.raises(Preempted):
        run(tmp_path, say=lines.append, stop=is_trained, **SHORT)
    assert lines[-1] == "stopped before the mean of level 0; its replicas are saved"
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_more_levels_go_on_from_the_last_mean(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "extended", pruning_times=1)
    run(tmp_path / "extended")
    assert files(tmp_path / "extended") == files(tmp_path / "whole")


def test_a_finished_run_changes_nothing_when_it_is_given_again(tmp_path):
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(tmp_path).starts == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_replicas_of_another_mask_are_refused(tmp_path):
    run(tmp_path / "one", pruning_times=2)
    run(tmp_path / "other", pruning_times=2, seed=7)
    (tmp_path / "one" / "1checkpoint.pth.tar").unlink()
    shutil.copy(tmp_path / "other/replica_1/1checkpoint.pth.tar", tmp_path / "one/replica_1/1checkpoint.pth.tar")
    with pytest.raises(UserError, match=r"replica_1/1checkpoint\.pth\.tar is no checkpoint of this run.*mask"):
        run(tmp_path / "one", pruning_times=2)


def test_a_mean_without_a_finite_loss_is_no_ticket(tmp_path, monkeypatch):
    monkeypatch.setattr(ReplicasRun, "_score", lambda *_: Score(0, 12, float("nan")))
    with pytest.raises(UserError, match=r"validation loss of the mean of level 0 is nan: lower --lr.*replica_0"):
        run(tmp_path)
    assert not holds_tickets(tmp_path)


def test_numbers_of_replicas_and_of_means_are_noted_apart(tmp_path):
    noted = defaultdict(dict)

    def note(folder: Path, epoch: int, values: dict[str, float]) -> None:
        noted[folder][epoch] = values["accuracy/val"]

    settings = make_settings(replicas=2, pruning_times=2)
    ReplicasRun(make_net(), ReplicaData(), settings, RunFiles(tmp_path), lambda line: None, note=note).run()
    expected = {"replica_0": ([1, 2, 3], [2, 3]), "replica_1": ([2, 3], [2, 3]), ".": ([3], [3])}
    for part, levels in expected.items():
        for level, epochs in enumerate(levels):
            numbers = noted.pop(tmp_path / part / f"tensorboard/level_{level}")
            assert [*numbers] == epochs
            assert numbers[3] == last(tmp_path / part, level)["result"]["val_ta"][-1]
    assert not noted


def test_room_is_wanted_for_replicas_too(tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr("utils.imp.check_space", lambda folder, size, what: wanted.append(what))
    run(tmp_path, pruning_times=2)
    run(tmp_path, pruning_times=2)
    run(tmp_path, pruning_times=3)
    assert wanted == ["tickets of 6 more levels", "tickets of 3 more levels"]


# Scripts.


def imp(folder: Path, *flags: str, replicas: int = 2) -> Path:
    main_imp.main([*SMALL, *IMP, "--save_dir", str(folder), "--replicas", str(replicas), *flags])
    return folder


@pytest.fixture(scope="module")
def _tickets(tmp_path_factory) -> Path:
    return imp(tmp_path_factory.mktemp("replicas") / "tickets")


@pytest.fixture
def tickets(_tickets, tmp_path) -> Path:
    """Two replicas of three levels, in a folder that a test may do anything with."""
    return Path(shutil.copytree(_tickets, tmp_path / "tickets"))


def test_tickets_of_a_run_and_of_its_replicas_are_found_by_their_folders(tickets):
    for folder in (tickets, tickets / "replica_0", tickets / "replica_1"):
        assert [file.path for file in find_tickets(folder)] == [
            folder / f"{level}model_SA_best.pth.tar" for level in range(3)
        ]
    assert {path.name for path in (tickets / "replica_1").iterdir()} == {
        f"{level}{kind}"
        for level in range(3)
        for kind in ("model_SA_best.pth.tar", "checkpoint.pth.tar", "net_train.png")
    }


def test_pools_are_made_of_means(tickets, tmp_path):
    flags = ["--interpolation_value_list", "0.5", "--bn_images", "64", "--save_dir", str(tmp_path / "pools")]
    Lottery_pools.main([*SMALL, "--checkpoint", str(tickets), *flags])
    pools = json.loads((tmp_path / "pools" / "pools.json").read_text())["pools"]
    assert [pool["level"] for pool in pools] == [0, 1, 2]
    for pool in pools:
        recorded = ticket(tickets, pool["level"])
        assert pool["ticket_val_accuracy"] == recorded["best_sa"]
        assert pool["ticket_test_accuracy"] == recorded["result"]["test_ta"][-1]


def test_tensorboard_has_the_curves_of_replicas_in_their_folders(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder: str, purge_step: int):
            self.folder = Path(folder).relative_to(tmp_path)

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            if tag == "accuracy/val":
                written.append((str(self.folder), step))

        def flush(self) -> None:
            pass

        close = flush

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    imp(tmp_path, "--pruning_times", "1", "--tensorboard")
    replicas = [("replica_0/tensorboard/level_0", 1), ("replica_0/tensorboard/level_0", 2)]
    assert written == [*replicas, ("replica_1/tensorboard/level_0", 2), ("tensorboard/level_0", 2)]


@pytest.mark.parametrize("slim", [[], ["--slim"]], ids=["", "slim"])
def test_a_killed_script_ends_in_the_same_bytes(slim, tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    for _ in range(2):  # in the second replica's level 0, then in its level 1
        with stopped_after(monkeypatch, passes=2):
            imp(folder, *slim)
    (folder / "replica_1" / ".0checkpoint.pth.tar.abcd_123.tmp").touch()
    found, whole = (files(imp(tmp_path / name, *slim)) for name in ("killed", "whole"))
    for content in (whole, found):
        del content["settings.json"]  # it names the folder
    assert found == whole


@contextlib.contextmanager
def stopped_after(monkeypatch, passes: int) -> Iterator[None]:
    """A block that a key press ends when so many passes of training are done."""
    left, train = count(passes, -1), ImpRun._train_pass

    def counted(*arguments):
        if next(left) == 0:
            raise KeyboardInterrupt
        return train(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ImpRun, "_train_pass", counted)
        yield


@pytest.mark.parametrize("begun", [1, 2])
def test_another_number_of_replicas_is_refused(begun, tmp_path, monkeypatch):
    """Before there is a first mean, too."""
    with stopped_after(monkeypatch, passes=1):
        imp(tmp_path, replicas=begun)
    before = files(tmp_path)
    with pytest.raises(UserError, match=rf"--replicas {begun}, not with --replicas {3 - begun}:"):
        imp(tmp_path, replicas=3 - begun)
    assert files(tmp_path) == before


def test_a_run_of_an_older_version_had_no_replicas(small_tickets):
    path = small_tickets / "settings.json"
    content = json.loads(path.read_text())
    assert content["settings"].pop("replicas") == 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="--replicas 1, not with --replicas 2:"):
        imp(small_tickets)
    imp(small_tickets, replicas=1)


def test_no_replicas_are_refused(fails, tmp_path):
    assert "--replicas: 0 is less than 1" in fails(main_imp, *SMALL, "--replicas", "0", "--save_dir", tmp_path)


def test_one_replica_leaves_no_folder_of_its_own(small_tickets):
    assert RunFiles(small_tickets).parts()[1:] == []


@pytest.mark.parametrize("flag", ["--save_dir", "--checkpoint"])
def test_a_replica_is_no_run_to_go_on_with(flag, tickets):
    before = files(tickets)
    with pytest.raises(UserError, match=r"replica_1 is a part of the run in .*/tickets: name that"):
        main_imp.main([*SMALL, *IMP, flag, str(tickets / "replica_1")])
    assert files(tickets) == before


def test_checkpoint_names_a_run_that_has_replicas_alone(tmp_path, monkeypatch, tickets):
    with stopped_after(monkeypatch, passes=1):
        imp(tmp_path / "killed")
    main_imp.main([*SMALL, *IMP, "--replicas", "2", "--checkpoint", str(tmp_path / "killed")])
    assert [read_ticket(file).digest() for file in find_tickets(tmp_path / "killed")] == [
        read_ticket(file).digest() for file in find_tickets(tickets)
    ]


def test_two_processes_find_means_in_openlths_layout(photographs, tmp_path):
    """A second life begins between the replicas of level 1, and ends in the same bytes."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    flags = [*IMAGENET_IMP, "--epochs", "2", "--decreasing_lr", "1", "--replicas", "2", "--save_dir", run]
    life = ("main_imp", [photographs, *flags])
    cut = [("remove", [run / "replica_1" / "level_1"]), ("unlink", [run / "level_1" / "main" / "resume.pth.tar"])]
    done = in_two_processes(life, ("copy", [run, whole]), *cut, life)
    assert done.returncode == 0, done.stderr
    assert files(run) == files(whole)

    folders = (run, run / "replica_0", run / "replica_1")
    for folder in folders:
        found = find_tickets(folder)
        assert [file.path.parents[2] for file in found] == [folder, folder]
        assert [read_ticket(file).is_dense for file in found] == [True, False]
    (run / "settings.json").unlink()
    ticket = read_ticket(find_tickets(run)[1])
    states = [OpenlthRunFiles(folder).load_checkpoint(1).state for folder in folders[1:]]
    for name in ticket.mask:
        assert torch.allclose(ticket.state[name], (states[0][name] + states[1][name]) / 2, rtol=0, atol=1e-6)
    pools = [*IMAGENET_SEARCH, "--levels", "0", "--search_num", "1", "--device", "cpu"]
    search_photographs.main(["--save_dir", str(run), str(photographs), *pools])
    assert len([*(run / "pools").rglob("0pool.pth.tar")]) == 1
