"""IMP on the network and images of tiny_imp."""

import math
from pathlib import Path

import pytest
import torch
from tiny_imp import (
    BATCH,
    CONVOLUTIONS,
    SELDOM,
    Data,
    assert_equal,
    contents,
    dying,
    kept,
    last,
    make_net,
    make_settings,
    mask_of,
    masked,
    plain,
    run_imp,
    state_of,
    ticket,
    watch_imp,
)
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.optim.lr_scheduler import MultiStepLR

from utils.distributed import Processes
from utils.errors import UserError
from utils.evaluation import Score
from utils.imp import ImpRun
from utils.randomness import derive_seed
from utils.tickets import OpenlthRunFiles, RunFiles, read_ticket
from utils.training import Schedule, make_optimizer

pytestmark = pytest.mark.usefixtures("quick")

# Where weights go back to.


def test_lt_goes_back_to_the_initialisation(tmp_path):
    initial = state_of(make_net())
    data = watch_imp(tmp_path, prune_type="lt")
    for level in (1, 2):
        assert_equal(data.start(level, 0), masked(initial, mask_of(last(tmp_path, level))))


def test_rewind_lt_goes_back_to_the_weights_after_its_epoch(tmp_path):
    data = watch_imp(tmp_path, rewind_epoch=2)
    after_two = data.start(0, 2)
    assert_equal(torch.load(tmp_path / "epoch_2_rewind_weight.pt", weights_only=True), after_two)
    for level in (1, 2):
        assert_equal(data.start(level, 2), masked(after_two, mask_of(last(tmp_path, level))))


def test_pt_goes_back_to_the_best_dense_weights(tmp_path):
    data = watch_imp(tmp_path, right=(5, 9, 7) * 3, prune_type="pt")
    best_dense = data.ends[1]
    for level in (1, 2):
        assert_equal(data.start(level, 0), masked(best_dense, mask_of(last(tmp_path, level))))


@pytest.mark.parametrize("prune_type, first", [("lt", 0), ("pt", 0), ("rewind_lt", 1)])
def test_levels_start_at_the_epoch_of_their_weights(prune_type, first, tmp_path):
    data = watch_imp(tmp_path, prune_type=prune_type)
    passes = [purpose[-2:] for purpose, _ in data.starts]
    assert passes == [(0, 0), (0, 1), (0, 2), *((level, epoch) for level in (1, 2) for epoch in range(first, 3))]


def test_no_two_passes_see_the_same_images(tmp_path):
    data = watch_imp(tmp_path)
    passes = [next(Data().train_batches(24, *purpose))[0] for purpose, _ in data.starts]
    assert len({float(images.double().square().sum()) for images in passes}) == 7


def test_rewinding_to_epoch_0_is_lt(tmp_path):
    run_imp(tmp_path / "rewound", rewind_epoch=0)
    run_imp(tmp_path / "lt", prune_type="lt")
    rewound = contents(tmp_path / "rewound")
    assert_equal(rewound.pop("epoch_0_rewind_weight.pt"), state_of(make_net()))
    assert_equal(rewound, contents(tmp_path / "lt"))


@pytest.mark.parametrize(
    "prune_type, first, rates",
    [("rewind_lt", 1, [0.1, 0.01]), ("lt", 0, [0.1, 0.1, 0.01]), ("pt", 0, [0.1, 0.1, 0.01])],
)
def test_a_sparse_level_trains_as_under_the_pruning_of_torch(prune_type, first, rates, tmp_path):
    """With fresh momentum, from where its weights went back to, at the rates of the epochs that it trains."""
    data = watch_imp(tmp_path, prune_type=prune_type, pruning_times=2)
    net = make_net()
    net.load_state_dict(data.start(1, first))
    for name, part in mask_of(last(tmp_path, 1)).items():
        prune.custom_from_mask(net.get_submodule(name), "weight", part)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    purposes = [purpose for purpose, _ in data.starts if purpose[-2] == 1]
    for purpose, rate in zip(purposes, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for images, labels in Data().train_batches(BATCH, *purpose):
            optimizer.zero_grad()
            cross_entropy(net(images), labels).backward()
            optimizer.step()
    for name in CONVOLUTIONS:
        prune.remove(net.get_submodule(name), "weight")
    found = plain(last(tmp_path, 1))
    for name, value in net.state_dict().items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name


# Which epoch gives the ticket, and which the mask.


def test_the_ticket_is_the_epoch_with_the_best_validation_accuracy(tmp_path):
    data = watch_imp(tmp_path, right=(6, 9, 3, 2, 1), pruning_times=2)
    assert [ticket(tmp_path, level)["epoch"] for level in (0, 1)] == [2, 2]
    assert_equal(plain(ticket(tmp_path, 0)), data.ends[1])
    assert_equal(plain(ticket(tmp_path, 1)), data.ends[3])
    assert [ticket(tmp_path, level)["best_sa"] for level in (0, 1)] == pytest.approx([75.0, 100 / 6])


def test_the_first_of_equally_good_epochs_is_the_ticket(tmp_path):
    watch_imp(tmp_path, right=(3, 9, 9), pruning_times=1)
    assert ticket(tmp_path, 0)["epoch"] == 2


def test_the_mask_comes_from_the_last_epochs_weights(tmp_path):
    data = watch_imp(tmp_path, right=(9, 5, 4, 3, 2), pruning_times=2)
    found = torch.cat([part.flatten() for part in mask_of(last(tmp_path, 1)).values()])
    best, final = (
        torch.cat([state[f"{name}.weight"].abs().flatten() for name in CONVOLUTIONS])
        for state in (data.ends[0], data.ends[2])
    )
    assert torch.equal(found, final >= sorted(final)[50])
    assert not torch.equal(found, best >= sorted(best)[50])


def test_accuracies_of_every_epoch_are_recorded(tmp_path):
    watch_imp(tmp_path, right=(3, 9, 6, 12, 0), pruning_times=2)
    assert last(tmp_path, 0)["result"]["val_ta"] == [25.0, 75.0, 50.0]
    assert last(tmp_path, 1)["result"]["val_ta"] == [100.0, 0.0]
    assert ticket(tmp_path, 0)["result"]["val_ta"] == [25.0, 75.0]
    assert {len(values) for values in last(tmp_path, 0)["result"].values()} == {3}


# Masks.


@pytest.mark.parametrize("random_prune", [False, True])
def test_each_level_keeps_its_count_and_only_what_the_level_before_kept(random_prune, tmp_path):
    run_imp(tmp_path, pruning_times=4, random_prune=random_prune)
    masks = [mask_of(last(tmp_path, level)) for level in (1, 2, 3)]
    assert [kept(last(tmp_path, level)) for level in (1, 2, 3)] == [202, 162, 130]
    assert [kept(ticket(tmp_path, level)) for level in (1, 2, 3)] == [202, 162, 130]
    for before, after in ((masks[0], masks[1]), (masks[1], masks[2])):
        assert all(not (after[name] & ~before[name]).any() for name in CONVOLUTIONS)


@pytest.mark.parametrize("random_prune", [False, True])
def test_a_level_without_weights_is_not_begun(random_prune, tmp_path):
    with pytest.raises(UserError, match="no weight at level 1: choose --pruning_times 1"):
        run_imp(tmp_path, rate=1.0, random_prune=random_prune)


@pytest.mark.parametrize("prune_type", ["lt", "rewind_lt", "pt"])
def test_pruned_weights_are_zero_in_every_file(prune_type, tmp_path):
    run_imp(tmp_path, prune_type=prune_type)
    for record in (ticket(tmp_path, 1), ticket(tmp_path, 2), last(tmp_path, 1), last(tmp_path, 2)):
        for name, part in mask_of(record).items():
            weights = record["state_dict"][f"{name}.weight_orig"]
            assert not weights[~part].any()
            assert not weights[~part].signbit().any()
            assert weights[part].all()


def test_the_dense_level_has_no_mask(tmp_path):
    run_imp(tmp_path, pruning_times=1)
    assert list(ticket(tmp_path, 0)["state_dict"]) == list(make_net().state_dict())


def test_random_pruning_follows_from_the_seed_alone(tmp_path):
    for folder, seed in (("first", 41), ("again", 41), ("other", 42)):
        run_imp(tmp_path / folder, random_prune=True, seed=seed)
    assert_equal(contents(tmp_path / "first"), contents(tmp_path / "again"))
    first, other = (
        torch.cat([part.flatten() for part in mask_of(last(tmp_path / folder, 2)).values()])
        for folder in ("first", "other")
    )
    assert not torch.equal(first, other)


def test_random_pruning_does_not_look_at_the_weights(tmp_path):
    """Two runs that train differently, at different rates, lose the same weights."""
    run_imp(tmp_path / "one", random_prune=True)
    run_imp(tmp_path / "two", random_prune=True, schedule=Schedule(0.01, ()))
    assert not torch.equal(
        last(tmp_path / "one", 0)["state_dict"]["0.weight"], last(tmp_path / "two", 0)["state_dict"]["0.weight"]
    )
    assert_equal(mask_of(last(tmp_path / "one", 2)), mask_of(last(tmp_path / "two", 2)))


def test_derived_seeds_are_the_same_on_every_machine_and_in_every_version():
    """A run that is gone on with after an update must see the images that it would have seen."""
    assert derive_seed(41, "train", 0, 0) == 5319822540174874943
    assert (
        len({derive_seed(41, *rest) for rest in (("train", 0, 1), ("train", 1, 0), ("prune", 0, 1), (0, "train", 1))})
        == 4
    )


@pytest.mark.parametrize("amp", [False, True])
def test_epochs_and_their_scores_are_in_bfloat16_if_that_is_asked_for(amp, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.evaluation.has_bfloat16", lambda device: True)
    found = set()
    monkeypatch.setattr(
        nn.Flatten, "forward", lambda self, values: found.add((self.training, values.dtype)) or values.flatten(1)
    )
    run_imp(tmp_path, pruning_times=1, amp=amp)
    assert found == {(training, torch.bfloat16 if amp else torch.float32) for training in (True, False)}


# Files that other programs go on with.


def test_what_no_run_goes_on_from_holds_no_momentum(tmp_path):
    seen = []

    def look(line: str) -> None:
        if (path := tmp_path / "0checkpoint.pth.tar").exists() and not seen:
            seen.append(torch.load(path, weights_only=True)["optimizer"]["state"])

    run_imp(tmp_path, pruning_times=2, epochs=2, say=look)
    assert seen[0], "the next epoch needs it"
    for level in (0, 1):
        for record in (ticket(tmp_path, level), last(tmp_path, level)):
            assert record["optimizer"]["state"] == {}
            make_optimizer(make_net(), 0.1, 0.9, 0).load_state_dict(record["optimizer"])


def test_slim_files_hold_the_same_tickets_in_fewer_bytes(tmp_path):
    for name, slim in (("whole", False), ("slim", True)):
        ImpRun(make_net(), Data(), make_settings(), RunFiles(tmp_path / name, slim), lambda line: None).run()
    for level in range(3):
        whole, slim = (read_ticket(RunFiles(tmp_path / name).ticket(level)) for name in ("whole", "slim"))
        assert_equal([slim.state, slim.mask], [whole.state, whole.mask])
    assert "init_weight" not in ticket(tmp_path / "slim", 1)
    assert ticket(tmp_path / "slim", 1)["state_dict"]["0.weight_mask"].dtype == torch.uint8
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).iterdir()) for name in ("slim", "whole")]
    assert sizes[0] < sizes[1]


def test_the_schedulers_of_torch_go_on_from_the_checkpoint_of_any_epoch(tmp_path):
    """With optimizer and scheduler loaded, as the published scripts load them, the next epoch has the right rate."""
    rates, path = {}, tmp_path / "0checkpoint.pth.tar"

    def continue_with_torch(line: str) -> None:
        if not path.exists():
            return
        record = last(tmp_path, 0)
        optimizer = torch.optim.SGD(make_net().parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
        scheduler = MultiStepLR(optimizer, [2, 4], 0.1)
        optimizer.load_state_dict(record["optimizer"])
        scheduler.load_state_dict(record["scheduler"])
        rates[record["epoch"]] = []
        for _ in range(record["epoch"], 6):
            rates[record["epoch"]].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()

    run_imp(tmp_path, pruning_times=1, epochs=6, schedule=Schedule(0.1, (2, 4)), say=continue_with_torch)
    expected = [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert sorted(rates) == [1, 2, 3, 4, 5, 6]
    for epoch, found in rates.items():
        assert found == pytest.approx(expected[epoch:]), epoch


# Interruptions.


def run_until(cut: int | None, folder: Path, monkeypatch, only_log: bool = False, **changes) -> int:
    """A run that dies at the `cut`-th event of its life: a batch, a line of the log, before or after a file.

    With `only_log`, lines of the log alone are events. Returns how many events there were.
    """
    with dying(cut, monkeypatch, saves=not only_log) as (event, events):

        class DyingData(Data):
            def train_batches(self, batch_size, *purpose, first=0):
                for batch in super().train_batches(batch_size, *purpose, first=first):
                    event()
                    yield batch

        run_imp(folder, Data() if only_log else DyingData(), event, **changes)
    return next(events)


@pytest.mark.parametrize("changes", [{}, {"prune_type": "pt"}, SELDOM], ids=["rewind_lt", "pt", "seldom"])
def test_a_run_that_died_anywhere_ends_in_the_same_files(changes, tmp_path, monkeypatch):
    """In the middle of an epoch, between ticket and checkpoint, between two levels: at every event of the run."""
    changes = {**changes, "epochs": 2, "schedule": Schedule(0.1, (1,)), "batch_size": 12}
    events = run_until(None, tmp_path / "whole", monkeypatch, **changes)
    whole = contents(tmp_path / "whole")
    assert events > 25
    for cut in range(events):
        folder = tmp_path / str(cut)
        assert run_until(cut, folder, monkeypatch, **changes) == cut + 1
        run_imp(folder, **changes)
        assert_equal(contents(folder), whole, f"cut {cut}:")


@pytest.mark.parametrize(
    "changes", [{"rewind_epoch": 0}, {"prune_type": "lt"}, {"random_prune": True}, SELDOM], ids=str
)
def test_a_run_that_died_after_any_epoch_ends_in_the_same_files(changes, tmp_path, monkeypatch):
    events = run_until(None, tmp_path / "whole", monkeypatch, only_log=True, **changes)
    whole = contents(tmp_path / "whole")
    assert events >= 10
    for cut in range(events):
        folder = tmp_path / str(cut)
        run_until(cut, folder, monkeypatch, only_log=True, **changes)
        run_imp(folder, **changes)
        assert_equal(contents(folder), whole, f"cut {cut}:")


def test_a_run_that_dies_again_and_again_ends_in_the_same_files(tmp_path, monkeypatch):
    """Ten lives that end with their fourth line of the log, until one of them comes to the end."""
    run_imp(tmp_path / "whole")
    lives = [run_until(3, tmp_path / "dying", monkeypatch, only_log=True) for _ in range(10)]
    assert lives[:3] == [4, 4, 4]
    assert_equal(contents(tmp_path / "dying"), contents(tmp_path / "whole"))


def test_saving_less_often_ends_in_the_same_files(tmp_path, monkeypatch):
    """By a clock on which each line of the log takes ten seconds."""
    save, saved, lines = RunFiles.save_checkpoint, [], []

    def note_and_save(files, last, *is_finished):
        saved.append((last.level, last.epoch))
        save(files, last, *is_finished)

    monkeypatch.setattr(RunFiles, "save_checkpoint", note_and_save)
    monkeypatch.setattr("utils.imp.time.monotonic", lambda: 10 * len(lines))
    for interval in (0, 25, math.inf):
        run_imp(tmp_path / f"{interval}", say=lines.append, epochs=6, pruning_times=2, save_interval=interval)
        assert_equal(contents(tmp_path / f"{interval}"), contents(tmp_path / "0"))
    every = [*((0, epoch) for epoch in range(1, 7)), *((1, epoch) for epoch in range(2, 7))]
    # A line says what each level is, and another that the epoch is over.
    assert saved == [*every, (0, 3), (0, 6), (1, 3), (1, 6), (0, 6), (1, 6)]


def test_a_finished_run_changes_nothing_when_it_is_given_again(tmp_path):
    run_imp(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    run_imp(tmp_path, WithoutTraining())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


class WithoutTraining(Data):
    def train_batches(self, batch_size, *purpose, first=0):
        raise AssertionError(f"nothing is left to train, but {purpose} was asked for")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rewind_epoch": 0},
        {"prune_type": "lt"},
        {"prune_type": "pt"},
        {"random_prune": True},
    ],
    ids=["rewind_lt", "rewind to 0", "lt", "pt", "random"],
)
def test_more_levels_go_on_from_the_last_one(changes, tmp_path):
    run_imp(tmp_path / "whole", pruning_times=4, **changes)
    run_imp(tmp_path / "extended", pruning_times=2, **changes)
    run_imp(tmp_path / "extended", pruning_times=4, **changes)
    assert_equal(contents(tmp_path / "extended"), contents(tmp_path / "whole"))


def in_torchs_order(path: Path) -> None:
    """Write a sparse checkpoint again as a script does that prunes with torch, which puts biases before weights."""
    net, record = make_net(), torch.load(path, weights_only=True)
    own = [name for name, _ in net.named_parameters()]
    for name in CONVOLUTIONS:
        prune.identity(net.get_submodule(name), "weight")
    order = [name.removesuffix("_orig") for name, _ in net.named_parameters()]
    assert order != own
    record["state_dict"] = {name: record["state_dict"][name] for name in net.state_dict()}
    momentum = record["optimizer"]["state"]
    record["optimizer"]["state"] = {number: momentum[own.index(name)] for number, name in enumerate(order)}
    torch.save(record, path)


def test_momentum_is_found_in_the_order_of_torchs_pruning(tmp_path, monkeypatch):
    run_imp(tmp_path / "whole", pruning_times=2, epochs=4)
    run_until(7, tmp_path / "stopped", monkeypatch, only_log=True, pruning_times=2, epochs=4)
    path = tmp_path / "stopped" / "1checkpoint.pth.tar"
    assert torch.load(path, weights_only=True)["epoch"] == 3
    in_torchs_order(path)
    run_imp(tmp_path / "stopped", pruning_times=2, epochs=4)
    assert_equal(contents(tmp_path / "stopped"), contents(tmp_path / "whole"))


@pytest.mark.parametrize("layout", [RunFiles, OpenlthRunFiles])
@pytest.mark.parametrize("level, what", [(2, "goes on from the level before"), (0, "starts again")])
def test_without_a_damaged_checkpoint_a_run_ends_in_the_same_files(layout, level, what, tmp_path):
    def files(name: str) -> dict[Path, bytes]:
        paths = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {path.relative_to(tmp_path / name): path.read_bytes() for path in paths}

    run_imp(tmp_path / "whole", layout=layout)
    run_imp(tmp_path / "damaged", layout=layout, pruning_times=level + 1)
    path = layout(tmp_path / "damaged").checkpoint(level)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"cannot read {path}: .*; move it away, and the run {what}$"):
        run_imp(tmp_path / "damaged", layout=layout)
    path.unlink()
    run_imp(tmp_path / "damaged", layout=layout)
    assert files("damaged") == files("whole")


def test_fewer_levels_leave_what_is_there(tmp_path):
    run_imp(tmp_path)
    before = contents(tmp_path)
    run_imp(tmp_path, WithoutTraining(), pruning_times=1)
    assert_equal(contents(tmp_path), before)


# What goes wrong.


class BrokenData(Data):
    """One epoch has an image that is not a number."""

    def __init__(self, level: int, epoch: int):
        super().__init__()
        self.broken = (level, epoch)

    def train_batches(self, batch_size, *purpose, first=0):
        for images, labels in super().train_batches(batch_size, *purpose, first=first):
            yield (images * math.nan if purpose[-2:] == self.broken else images), labels


@pytest.mark.parametrize(
    "level, epoch, good",
    [
        (0, 0, "no ticket is lost"),
        (1, 1, "last good ticket is .*/0model_SA"),
        (1, 2, "last good ticket is .*/1model_SA"),
    ],
)
def test_a_loss_that_is_not_a_number_stops_the_run_and_says_where(level, epoch, good, tmp_path):
    with pytest.raises(UserError, match=rf"nan in epoch {epoch + 1} of level {level}: .*; .*{good}"):
        run_imp(tmp_path, BrokenData(level, epoch))


def test_the_last_good_ticket_is_there_though_it_was_not_yet_time_to_save_it(tmp_path):
    for name, changes in (("often", {}), ("seldom", SELDOM)):
        with pytest.raises(UserError, match=rf"last good ticket is .*/{name}/1model_SA"):
            run_imp(tmp_path / name, BrokenData(1, 2), **changes)
    assert_equal(ticket(tmp_path / "seldom", 1), ticket(tmp_path / "often", 1))


def test_other_processes_have_the_last_good_ticket_told_by_the_main_one(tmp_path):
    """They may come here before it is written; OpenLTH's layout has its epoch in its name."""

    class Second(Processes):
        def from_main(self, ask):
            return "level_0/main/model_ep3_it0.pth"

    files = OpenlthRunFiles(tmp_path)
    run = ImpRun(make_net(), Data(), make_settings(), files, lambda line: None, Second(rank=1))
    progress = run._first_level()
    progress.level = 1
    with pytest.raises(UserError, match=r"nan in epoch 1 of level 1: .*last good ticket is level_0/main/model_ep3_it0"):
        run._refuse_divergence(progress, {"train": Score(0, 24, math.nan)})


def test_nothing_of_an_epoch_without_a_finite_loss_is_kept(tmp_path):
    with pytest.raises(UserError):
        run_imp(tmp_path / "broken", BrokenData(1, 2))
    assert last(tmp_path / "broken", 1)["epoch"] == 2
    run_imp(tmp_path / "broken")
    run_imp(tmp_path / "whole")
    assert_equal(contents(tmp_path / "broken"), contents(tmp_path / "whole"))


def test_scoring_fewer_epochs_changes_which_of_them_can_be_the_ticket_and_nothing_else(tmp_path):
    lines = []
    run_imp(tmp_path / "all", epochs=6, pruning_times=2)
    run_imp(tmp_path / "some", say=lines.append, epochs=6, pruning_times=2, eval_freq=3)
    for level, scored in ((0, [1, 3, 6]), (1, [2, 3, 6])):  # level 1 goes back to epoch 1: its first is 2
        every, few = last(tmp_path / "all", level), last(tmp_path / "some", level)
        assert_equal(few["state_dict"], every["state_dict"])
        assert few["result"]["train_ta"] == every["result"]["train_ta"]
        first = 1 + level
        curve = every["result"]["val_ta"]
        expected = [curve[max(epoch for epoch in scored if epoch <= now) - first] for now in range(first, 7)]
        assert few["result"]["val_ta"] == expected
        assert few["best_sa"] == max(expected)
        epochs = [line for line in lines if line.startswith(f"level {level} epoch")]
        assert ["val" in line for line in epochs] == [epoch in scored for epoch in range(first, 7)]


def test_weights_that_diverge_in_the_last_step_of_an_epoch_are_not_kept(tmp_path):
    """The training loss is that before the step: only the validation loss can tell."""
    with pytest.raises(UserError, match=r"epoch 1 of level 0\b"):
        run_imp(tmp_path, batch_size=24, schedule=Schedule(1e30, ()))
    assert list(tmp_path.iterdir()) == []


def test_nor_are_they_where_the_epoch_is_not_validated(tmp_path):
    """The one step of epoch 2 is taken at a rate beyond all numbers."""
    beyond = Schedule(0.1, (1,), gamma=1e60)
    with pytest.raises(UserError, match=r"a weight is NaN or infinity in epoch 2 of level 0.*0model_SA_best"):
        run_imp(tmp_path, batch_size=24, schedule=beyond, eval_freq=3, rewind_epoch=2)
    assert (last(tmp_path, 0)["epoch"], ticket(tmp_path, 0)["epoch"]) == (1, 1)
    assert not (tmp_path / "epoch_2_rewind_weight.pt").exists()


def test_processes_add_up_what_they_have_once_a_pass(tmp_path):
    added = []

    class Counting(Processes):
        def sum_counts(self, *counts):
            added.append(counts)
            return counts

    settings = make_settings(pruning_times=1, eval_freq=3)
    ImpRun(make_net(), Data(), settings, RunFiles(tmp_path), lambda line: None, Counting()).run()
    assert [images for _, images in added] == [24, 12, 12, 24, 24, 12, 12]


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    run_imp(tmp_path, pruning_times=1)
    with pytest.raises(UserError, match=r"0checkpoint\.pth\.tar"):
        ImpRun(nn.Sequential(nn.Conv2d(3, 2, 1)), Data(), make_settings(), RunFiles(tmp_path), lambda line: None).run()
