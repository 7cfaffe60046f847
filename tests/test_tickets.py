import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from utils import tickets
from utils.errors import UserError
from utils.tickets import (
    OpenlthRunFiles,
    RunFiles,
    Ticket,
    TicketFile,
    find_tickets,
    fit_to_network,
    plain_state,
    published_state,
    read_ticket,
    settings_path,
    ticket_of_file,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.Linear(2, 5))


def pruned_network() -> nn.Sequential:
    """`network` with half of its convolutions' weights pruned by torch, as the published scripts do it."""
    net = network()
    convolutions = [(module, "weight") for module in net if isinstance(module, nn.Conv2d)]
    prune.global_unstructured(convolutions, prune.L1Unstructured, amount=0.5)
    return net


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def write_published(folder: Path, *levels: int) -> None:
    for level in levels:
        write(folder / f"{level}model_SA_best.pth.tar", {"state_dict": network().state_dict()})


def write_openlth(run: Path, *levels: int, step: str = "ep3_it0") -> None:
    """Levels as OpenLTH writes them: keys behind `model.`, the mask beside them, and a checkpoint that holds code."""
    for level in levels:
        main = run / f"level_{level}" / "main"
        state = {f"model.{name}": value for name, value in network().state_dict().items()}
        mask = {name: torch.ones_like(state[name], dtype=torch.int32) for name in ("model.0.weight", "model.3.weight")}
        mask["model.0.weight"].view(-1)[: 10 * level] = 0
        write(main / f"model_{step}.pth", state)
        write(main / "mask.pth", mask)
        write(main / "checkpoint.pth", {"it": print})  # `weights_only` refuses it, so reading it would fail


def levels(files: list[TicketFile]) -> list[int]:
    return [file.level for file in files]


def read(path: Path, content: object) -> Ticket:
    return read_ticket(TicketFile(1, write(path, content)))


# What files are called


@pytest.mark.parametrize(
    "path, name",
    [
        (RunFiles(Path("run")).ticket(12).path, "run/12model_SA_best.pth.tar"),
        (RunFiles(Path("run")).checkpoint(12), "run/12checkpoint.pth.tar"),
        (RunFiles(Path("run")).curve(0), "run/0net_train.png"),
        (tickets.pool_path(Path("run"), 3), "run/3pool.pth.tar"),
        (
            tickets.run_folder("rewind_lt", "cifar100", "resnet18", 9, 41),
            "checkpoints/rewind_lt/cifar100/resnet18/rewind_epoch_9/seed41",
        ),
    ],
)
def test_names_are_the_published_ones(path, name):
    assert path == Path(name)


def test_flags_of_a_tickets_run_lie_in_its_folder(tmp_path, monkeypatch):
    write_published(tmp_path, 1)
    write_openlth(tmp_path / "run", 1)
    assert tickets.settings_path(find_tickets(tmp_path)[0]) == tmp_path / "settings.json"
    assert tickets.settings_path(find_tickets(tmp_path / "run")[0]) == tmp_path / "run" / "settings.json"
    monkeypatch.chdir(tmp_path / "run" / "level_1" / "main")
    here = tickets.ticket_of_file(Path("model_ep3_it0.pth"))
    assert tickets.settings_path(here) == tmp_path / "run" / "settings.json"


def test_newest_level_counts_and_does_not_spell(tmp_path):
    for name in ("9checkpoint.pth.tar", "10checkpoint.pth.tar", ".11checkpoint.pth.tar.x7", "12model_SA_best.pth.tar"):
        (tmp_path / name).touch()
    assert RunFiles(tmp_path).newest_level() == 10


def test_no_checkpoint_is_no_newest_level(tmp_path):
    assert RunFiles(tmp_path / "missing").newest_level() is None


# Tickets found: the published layout


def test_published_tickets_are_ordered_by_number(tmp_path):
    write_published(tmp_path, 10, 9, 0, 1)
    assert levels(find_tickets(tmp_path)) == [0, 1, 9, 10]


def test_only_tickets_are_found_among_a_runs_files(tmp_path):
    write_published(tmp_path, 0, 1, 2)
    for name in (
        *(".1model_SA_best.pth.tar.k3j2", "1checkpoint.pth.tar", "epoch_1_rewind_weight.pt", "settings.json"),
        *("1pool.pth.tar", "1net_train.png"),
    ):
        (tmp_path / name).touch()
    write_published(tmp_path / "pools", 7)
    assert levels(find_tickets(tmp_path)) == [0, 1, 2]


def test_two_tickets_of_one_level_are_refused_by_name(tmp_path):
    write_published(tmp_path, 0, 1)
    (tmp_path / "1model_SA_best_copy.pth.tar").touch()
    with pytest.raises(UserError, match=r"level 1: .*1model_SA_best") as error:
        find_tickets(tmp_path)
    assert {"1model_SA_best.pth.tar", "1model_SA_best_copy.pth.tar"} <= {*str(error.value).replace(",", "").split()}


def test_tickets_of_both_layouts_in_one_folder_are_refused(tmp_path):
    write_published(tmp_path, 0, 1)
    write_openlth(tmp_path, 0, 1)
    with pytest.raises(UserError, match=r"model_SA_best.*level_\*/main: move one"):
        find_tickets(tmp_path)


def test_folder_above_the_tickets_is_refused_with_the_right_one(tmp_path):
    write_published(tmp_path / "resnet18" / "seed41", 0)
    with pytest.raises(UserError, match=str(tmp_path / "resnet18" / "seed41")):
        find_tickets(tmp_path)


def test_no_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(UserError, match=str(path)):
            find_tickets(path)


def test_empty_folder_is_told_what_a_ticket_looks_like(tmp_path):
    with pytest.raises(UserError, match=r"model_SA_best.*level_"):
        find_tickets(tmp_path)


# Tickets found: OpenLTH's layout


@pytest.mark.parametrize("above", [0, 1, 2])
def test_openlth_run_is_found_from_its_levels_up_to_its_root(tmp_path, above):
    run = tmp_path / "lottery_9f60" / "replicate_1"
    write_openlth(run, 10, 9, 0)
    folder = (run, *run.parents)[above]
    assert levels(find_tickets(folder)) == [0, 9, 10]


@pytest.mark.parametrize(
    "first, second",
    [("lottery_a/replicate_1", "lottery_b/replicate_1"), ("lottery_a/replicate_1", "lottery_a/replicate_2")],
)
def test_several_runs_under_one_root_are_listed_and_not_guessed(tmp_path, first, second):
    for run in (first, second):
        write_openlth(tmp_path / run, 0, 1)
    with pytest.raises(UserError, match="several runs") as error:
        find_tickets(tmp_path)
    assert str(tmp_path / first) in str(error.value)
    assert str(tmp_path / second) in str(error.value)


@pytest.mark.parametrize(
    "earlier, last",
    [("ep9_it0", "ep10_it0"), ("ep0_it20", "ep3_it0"), ("ep10_it9", "ep10_it10"), ("ep2_it300", "ep10_it0")],
)
def test_last_step_of_a_level_is_its_ticket_by_number(tmp_path, earlier, last):
    for step in (earlier, last):
        write_openlth(tmp_path, 0, step=step)
    (file,) = find_tickets(tmp_path)
    assert file.path.name == f"model_{last}.pth"


@pytest.mark.parametrize("start", ["ep0_it20", "ep0_it0", "ep2_it0"])
def test_level_that_openlth_had_not_trained_is_left_out_and_named(tmp_path, start, capfd):
    for step in (start, "ep3_it0"):
        write_openlth(tmp_path, 0, 1, step=step)
    write_openlth(tmp_path, 2, step=start)
    assert levels(find_tickets(tmp_path)) == [0, 1]
    assert capfd.readouterr().err == f"left out, not trained yet: {tmp_path / 'level_2'}\n"


@pytest.mark.parametrize("start, pretrained", [("ep0_it20", ["ep0_it0", "ep0_it20"]), ("ep0_it0", [])])
def test_run_of_one_level_that_was_not_trained_is_refused(tmp_path, start, pretrained):
    write_openlth(tmp_path, 0, step=start)
    for step in pretrained:
        write(tmp_path / "level_pretrain" / "main" / f"model_{step}.pth", {})
    with pytest.raises(UserError, match=f"{tmp_path / 'level_0'}: .*let OpenLTH end"):
        find_tickets(tmp_path)


def test_start_of_a_trained_level_may_be_gone(tmp_path, capfd):
    write_openlth(tmp_path, 0, 1, 2)
    write_openlth(tmp_path, 0, step="ep0_it20")
    write(tmp_path / "level_pretrain" / "main" / "model_ep0_it20.pth", {})
    assert levels(find_tickets(tmp_path)) == [0, 1, 2]
    assert not capfd.readouterr().err


def test_ticket_of_ours_that_is_as_early_as_anothers_last_but_one_is_a_ticket(tmp_path, capfd):
    """A kill may leave two models in a level: that of an earlier epoch goes when the better one has been saved."""
    write_openlth(tmp_path, 0, 1, step="ep2_it0")
    write_openlth(tmp_path, 1, step="ep3_it0")
    for level in (0, 1):
        (tmp_path / f"level_{level}" / "main" / "resume.pth.tar").touch()
    assert levels(find_tickets(tmp_path)) == [0, 1]
    assert not capfd.readouterr().err


def test_pretraining_and_branches_are_no_tickets(tmp_path):
    write_openlth(tmp_path, 0, 1)
    for folder in ("level_pretrain/main", "level_1/lottery_branch_retrain_3f2a"):
        write(tmp_path / folder / "model_ep9_it0.pth", {"it": print})
    (tmp_path / "level_2" / "main").mkdir(parents=True)
    files = find_tickets(tmp_path)
    assert levels(files) == [0, 1]
    assert all(read_ticket(file).state for file in files)


# Tickets found: levels that were stopped


def stop_level(path: Path, epoch: int) -> None:
    write(path, {"epoch": epoch})


@pytest.mark.parametrize("settings", [True, False], ids=["by the run's flags", "by the level before"])
def test_level_that_was_stopped_is_left_out_and_named(tmp_path, settings, capfd):
    write_published(tmp_path, 0, 1, 2)
    stop_level(tmp_path / "1checkpoint.pth.tar", 40)
    stop_level(tmp_path / "2checkpoint.pth.tar", 5)
    if settings:
        (tmp_path / "settings.json").write_text('{"settings": {"epochs": 40}}')
        (tmp_path / "1checkpoint.pth.tar").unlink()
    assert levels(find_tickets(tmp_path)) == [0, 1]
    path = tmp_path / "2model_SA_best.pth.tar"
    assert capfd.readouterr().err == f"left out: {path}: its level was stopped after 5 of 40 epochs\n"
    stop_level(tmp_path / "2checkpoint.pth.tar", 40)
    assert levels(find_tickets(tmp_path)) == [0, 1, 2]


def test_stopped_level_of_ours_in_openlths_layout_is_left_out(tmp_path, capfd):
    write_openlth(tmp_path, 0, 1)
    (tmp_path / "settings.json").write_text('{"settings": {"epochs": 3}}')
    stop_level(tmp_path / "level_1" / "main" / "resume.pth.tar", 2)
    assert levels(find_tickets(tmp_path)) == [0]
    assert "level_1/main/model_ep3_it0.pth: its level was stopped after 2 of 3 epochs" in capfd.readouterr().err


def test_a_level_that_was_stopped_is_no_ticket_when_it_is_alone(tmp_path):
    write_published(tmp_path, 0)
    (tmp_path / "settings.json").write_text('{"settings": {"epochs": 40}}')
    stop_level(tmp_path / "0checkpoint.pth.tar", 5)
    with pytest.raises(UserError, match="stopped after 5 of 40 epochs, and there is no other ticket"):
        find_tickets(tmp_path)


@pytest.mark.parametrize("content", [{"epoch": "5"}, {"state_dict": {}}, None], ids=["odd", "none", "damaged"])
def test_a_checkpoint_that_does_not_tell_its_epoch_leaves_no_ticket_out(tmp_path, content):
    write_published(tmp_path, 0, 1)
    stop_level(tmp_path / "0checkpoint.pth.tar", 40)
    path = write(tmp_path / "1checkpoint.pth.tar", content)
    if content is None:
        path.write_bytes(path.read_bytes()[:100])
    assert levels(find_tickets(tmp_path)) == [0, 1]


# Tickets read


def test_torchs_pruning_is_read_as_plain_weights_and_a_mask(tmp_path):
    net = pruned_network()
    ticket = read(tmp_path / "ticket", {"state_dict": net.state_dict()})
    assert {*ticket.state} == {*network().state_dict()}
    for name in ("0", "2"):
        assert torch.equal(ticket.state[f"{name}.weight"], net.get_submodule(name).weight)
        assert torch.equal(ticket.mask[f"{name}.weight"], net.get_submodule(name).weight_mask.bool())
    assert (ticket.kept, ticket.density, ticket.is_dense) == (58, 0.5, False)


def test_weights_under_the_mask_become_true_zeros(tmp_path):
    state = network().state_dict()
    state["0.weight_orig"] = state.pop("0.weight").fill_(-3.0)
    state["0.weight_mask"] = torch.zeros(4, 3, 3, 3).index_fill(0, torch.tensor(3), 1)
    weights = read(tmp_path / "ticket", state).state["0.weight"]
    assert (weights[3] == -3).all()
    assert not weights[:3].any()
    assert not torch.signbit(weights[:3]).any()


def test_openlth_ticket_has_the_density_of_its_mask_file(tmp_path):
    write_openlth(tmp_path, 2)
    (file,) = find_tickets(tmp_path)
    state = torch.load(file.path)
    state["model.0.weight"].view(-1)[:50] = -0.0  # 20 of them pruned, the others kept though they are zero
    torch.save(state, file.path)
    ticket = read_ticket(file)
    assert sorted(ticket.mask) == ["0.weight", "3.weight"]
    assert (ticket.kept, ticket.density) == (98, 98 / 118)
    assert not torch.signbit(ticket.state["0.weight"].view(-1)[:20]).any()


def test_openlth_ticket_that_was_not_masked_is_masked(tmp_path):
    write_openlth(tmp_path, 2)
    (file,) = find_tickets(tmp_path)
    assert not read_ticket(file).state["0.weight"].view(-1)[:20].any()


def test_openlth_ticket_that_is_a_link_into_a_store_belongs_to_its_run(tmp_path):
    write_openlth(tmp_path / "run", 3)
    (file,) = find_tickets(tmp_path / "run")
    (tmp_path / "store").mkdir()
    file.path.rename(tmp_path / "store" / "abc.pth")
    file.path.symlink_to(tmp_path / "store" / "abc.pth")
    assert ticket_of_file(file.path) == file
    assert settings_path(file) == tmp_path / "run" / "settings.json"


def test_openlth_ticket_without_its_mask_is_refused(tmp_path):
    write_openlth(tmp_path, 1)
    (tmp_path / "level_1" / "main" / "mask.pth").unlink()
    with pytest.raises(UserError, match=r"level_1.*mask\.pth"):
        read_ticket(*find_tickets(tmp_path))


def test_dense_ticket_counts_every_convolution_and_nothing_else(tmp_path):
    ticket = read(tmp_path / "ticket", {"state_dict": network().state_dict()})
    assert sorted(ticket.mask) == ["0.weight", "2.weight"]
    assert ticket.is_dense
    assert ticket.kept == 116


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "module.model.", "_orig_mod.module."]
)
@pytest.mark.parametrize("wrap", [lambda state: {"state_dict": state}, lambda state: state])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path, prefix, wrap):
    state = {f"{prefix}{name}": value for name, value in pruned_network().state_dict().items()}
    ticket = read(tmp_path / "ticket", wrap(state))
    assert {*ticket.state} == {*network().state_dict()}
    assert ticket.kept == 58


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model"])
def test_state_dict_is_found_under_each_name_that_programs_give_it(tmp_path, name):
    state = pruned_network().state_dict()
    ticket = read(tmp_path / "ticket", {"epoch": 3, "optimizer": {"state": {}}, name: state})
    assert {*ticket.state} == {*network().state_dict()}
    assert ticket.kept == 58


def test_parameters_are_weights(tmp_path):
    """Which a state dict holds with `keep_vars=True`."""
    state, parameters = pruned_network().state_dict(), pruned_network().state_dict(keep_vars=True)
    assert read(tmp_path / "kept", parameters).digest() == read(tmp_path / "plain", state).digest()


def test_only_whole_suffixes_are_pruning_names():
    state = {"mask_head.weight": torch.ones(2), "orig.weight": torch.ones(2), "a_mask.bias": torch.ones(2)}
    plain, mask = plain_state(state, Path("ticket"))
    assert plain == state
    assert mask == {}


def test_plain_and_published_names_are_inverse():
    published = pruned_network().state_dict()
    state, mask = plain_state(published, Path("ticket"))
    again = published_state(state, mask)
    assert {*again} == {*published}
    state_again, mask_again = plain_state(again, Path("ticket"))
    assert all(torch.equal(state[name], state_again[name]) for name in state)
    assert all(torch.equal(mask[name], mask_again[name]) for name in mask)


@pytest.mark.parametrize("slim", [False, True])
def test_published_names_load_into_a_network_that_torch_pruned(slim):
    published = pruned_network().state_dict()
    net = pruned_network()
    net.load_state_dict(published_state(*plain_state(published, Path("ticket")), slim), strict=True)
    for name, value in net.state_dict().items():
        kept = published.get(name.replace("_orig", "_mask"), torch.ones(())) if name.endswith("_orig") else 1
        assert torch.equal(value, published[name] * kept)
        assert value.dtype == published[name].dtype


@pytest.mark.parametrize("mask", [None, {}])
def test_dense_network_keeps_its_plain_names(mask):
    state = network().state_dict()
    assert published_state(state, mask) == state


@pytest.mark.parametrize(
    "content",
    [
        *([], {}, {"state_dict": {}}, {"epoch": 3}, {"state_dict": {"conv.weight": [1.0]}}, torch.ones(3)),
        pytest.param({0: torch.ones(3)}, id="numbers for names"),
        pytest.param({"model": network()}, id="a whole network"),
        pytest.param({"model": {"conv.weight": [1.0]}}, id="lists for weights"),
        pytest.param({"fc.weight": torch.ones(3, 3)}, id="no convolution"),
    ],
)
def test_file_of_something_else_is_no_ticket(tmp_path, content):
    with pytest.raises(UserError, match=str(tmp_path / "ticket")):
        read(tmp_path / "ticket", content)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["2.weight", "1.running_var"])
def test_ticket_that_is_not_finite_is_refused_by_name(tmp_path, name, value):
    state = network().state_dict()
    state[name].view(-1)[1] = value
    with pytest.raises(UserError, match=f"ticket holds NaN or infinity in {name}"):
        read(tmp_path / "ticket", state)


@pytest.mark.parametrize(
    "mask, why",
    [
        (torch.ones(4, 3, 3), "fits no weight"),
        (torch.ones(3, 4, 3, 3), "fits no weight"),
        (torch.full((4, 3, 3, 3), 0.5), "not 0 or 1"),
        (torch.full((4, 3, 3, 3), 2), "not 0 or 1"),
        (torch.full((4, 3, 3, 3), float("nan")), "not 0 or 1"),
    ],
)
def test_mask_that_is_none_is_refused_in_both_layouts(tmp_path, mask, why):
    state = network().state_dict()
    published = {**state, "0.weight_mask": mask, "0.weight_orig": state["0.weight"]}
    del published["0.weight"]
    with pytest.raises(UserError, match=rf"published .*0\.weight.*{why}"):
        read(tmp_path / "published", published)
    file = TicketFile(1, write(tmp_path / "openlth", state), write(tmp_path / "mask.pth", {"0.weight": mask}))
    with pytest.raises(UserError, match=rf"mask\.pth .*0\.weight.*{why}"):
        read_ticket(file)


def test_mask_of_no_weight_is_refused(tmp_path):
    with pytest.raises(UserError, match="other"):
        read(tmp_path / "ticket", {**network().state_dict(), "other.weight_mask": torch.ones(3)})


def test_ticket_without_a_weight_is_refused(tmp_path):
    state = network().state_dict()
    none = {"0.weight_orig": state.pop("0.weight"), "3.weight_orig": state.pop("3.weight")}
    none |= {name.replace("orig", "mask"): torch.zeros_like(value) for name, value in none.items()}
    with pytest.raises(UserError, match="ticket has no weight left"):
        read(tmp_path / "ticket", {**state, **none})


@pytest.mark.parametrize("name", ["1.weight", "3.bias", "1.running_mean", "1.num_batches_tracked"])
def test_mask_of_what_is_not_pruned_is_refused_in_both_layouts(tmp_path, name):
    state = network().state_dict()
    mask = torch.ones_like(state[name])
    with pytest.raises(UserError, match=f"published .*{name}"):
        read(tmp_path / "published", {**state, f"{name}_mask": mask})
    file = TicketFile(1, write(tmp_path / "openlth", state), write(tmp_path / "mask.pth", {name: mask}))
    with pytest.raises(UserError, match=rf"mask\.pth .*{name}"):
        read_ticket(file)


@pytest.mark.parametrize("missing", ["0.weight_mask", "0.weight_orig"])
def test_half_of_a_pruned_weight_is_refused(tmp_path, missing):
    state = pruned_network().state_dict()
    del state[missing]
    with pytest.raises(UserError, match=r"ticket .*0\.weight"):
        read(tmp_path / "ticket", state)


def test_two_weights_of_one_name_are_refused(tmp_path):
    state = pruned_network().state_dict()
    with pytest.raises(UserError, match=r"ticket .*0\.weight_orig beside 0\.weight"):
        read(tmp_path / "ticket", {**state, "0.weight": torch.ones(4, 3, 3, 3)})


@pytest.mark.parametrize(
    "name, kind",
    [("conv.0.weight", torch.int64), ("fc.bias", torch.bool), ("conv.1.num_batches_tracked", torch.float32)],
)
def test_another_kind_of_numbers_than_the_networks_is_refused(tmp_path, name, kind):
    state = normalized(0.5)
    ticket = read(tmp_path / "ticket", {**state, name: torch.ones_like(state[name]).to(kind)})
    with pytest.raises(UserError, match=f"ticket is no --arch net: {name} is torch"):
        fit_to_network(ticket, normalized(0.5), "net")


def test_numbers_beyond_the_networks_precision_are_refused(tmp_path):
    state = normalized(0.5)
    state["fc.weight"] = torch.full((5, 2), 1e300, dtype=torch.float64)
    with pytest.raises(UserError, match=r"ticket holds NaN or infinity in fc\.weight"):
        fit_to_network(read(tmp_path / "ticket", state), normalized(0.5), "net")


def test_absurd_level_is_refused(tmp_path):
    write_published(tmp_path, 0, 10**9)
    with pytest.raises(UserError, match="level 1000000000"):
        find_tickets(tmp_path)


# Tickets fitted to a network


def normalized(mean: float, classes: int = 5) -> dict[str, torch.Tensor]:
    state = {f"conv.{name}": value for name, value in network().state_dict().items() if not name.startswith("3.")}
    state |= {"fc.weight": torch.zeros(classes, 2), "fc.bias": torch.zeros(classes)}
    return {"normalize.mean": torch.full((3,), mean), "normalize.std": torch.full((3,), mean), **state}


def ticket_of(state: dict[str, torch.Tensor]) -> Ticket:
    mask = {name: torch.ones_like(value, dtype=torch.bool) for name, value in state.items() if value.dim() == 4}
    return Ticket(2, Path("run/2model_SA_best.pth.tar"), state, mask)


def test_ticket_keeps_its_own_normalisation():
    fitted = fit_to_network(ticket_of(normalized(0.5)), normalized(0.25), "net")
    assert fitted.state["normalize.mean"].tolist() == fitted.state["normalize.std"].tolist() == [0.5] * 3


def test_ticket_without_normalisation_gets_that_of_the_data():
    state = {name: value for name, value in normalized(0.5).items() if not name.startswith("normalize.")}
    fitted = fit_to_network(ticket_of(state), normalized(0.25), "net")
    assert fitted.state["normalize.mean"].tolist() == fitted.state["normalize.std"].tolist() == [0.25] * 3


def test_counters_of_batch_norm_may_be_missing():
    state = {name: value for name, value in normalized(0.5).items() if not name.endswith("num_batches_tracked")}
    assert list(fit_to_network(ticket_of(state), normalized(0.5), "net").state) == list(normalized(0.5))


def test_ticket_gets_the_networks_order_of_names():
    state = dict(reversed(normalized(0.5).items()))
    assert list(fit_to_network(ticket_of(state), normalized(0.5), "net").state) == list(normalized(0.5))


def test_ticket_in_another_precision_gets_the_networks():
    state = {name: value.half() if value.is_floating_point() else value for name, value in normalized(0.5).items()}
    fitted = fit_to_network(ticket_of(state), normalized(0.5), "net")
    assert {name: value.dtype for name, value in fitted.state.items()} == {
        name: value.dtype for name, value in normalized(0.5).items()
    }


@pytest.mark.parametrize("more, fewer, verb", [("network", "ticket", "lacks"), ("ticket", "network", "has")])
def test_another_architecture_is_told_by_the_first_name_that_differs(more, fewer, verb):
    states = {more: {**normalized(0.5), "extra.weight": torch.ones(3)}, fewer: normalized(0.5)}
    with pytest.raises(UserError, match=rf"2model_SA_best.* no --arch net: it {verb} extra\.weight"):
        fit_to_network(ticket_of(states["ticket"]), states["network"], "net")


def test_another_width_is_told_by_both_shapes():
    wide = {**normalized(0.5), "conv.0.weight": torch.ones(8, 3, 3, 3)}
    with pytest.raises(UserError, match=r"no --arch net: conv\.0\.weight is \(8, 3, 3, 3\), not \(4, 3, 3, 3\)"):
        fit_to_network(ticket_of(wide), normalized(0.5), "net")


def test_another_number_of_classes_is_told_by_both_numbers():
    with pytest.raises(UserError, match=r"2model_SA_best.* 7 classes.* 5$"):
        fit_to_network(ticket_of(normalized(0.5, classes=7)), normalized(0.5), "net")


# What a run goes on with


def test_ticket_of_a_run_that_is_gone_is_told_with_its_folder(tmp_path):
    write_openlth(tmp_path, 0)
    with pytest.raises(UserError, match=f"{tmp_path / 'level_1' / 'main'} holds no ticket"):
        OpenlthRunFiles(tmp_path).ticket(1)


# What other programs wrote


def test_real_openlth_run_has_the_densities_that_it_reports(openlth_tickets):
    files = find_tickets(openlth_tickets)
    assert levels(files) == [0, 1, 2, 3, 4]
    for file in files:
        report = json.loads((file.path.parent / "sparsity_report.json").read_text())
        ticket = read_ticket(file)
        assert ticket.kept == report["unpruned"]
        assert ticket.density == report["unpruned"] / report["total"]
        assert file.path.name == "model_ep3_it0.pth"
