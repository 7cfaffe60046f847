"""The control of all pools: the ticket with its batch norm recalibrated, and nothing else."""

import pytest
import torch
from conftest import DIGITS
from script_runs import STATISTICS, load, pools_json

from CIFAR import Lottery_pools
from utils.pools import Member, Tools
from utils.recalibrated import recalibrated
from utils.tickets import plain_state


def test_it_is_what_a_finished_pool_of_the_ticket_alone_would_be_whatever_it_scores():
    def unused(*args):
        raise AssertionError("no candidate is read, and nothing is finished as a candidate's trial is")

    members = [Member(2, lambda: {"w": torch.ones(1)}, unused), Member(1, unused, unused)]
    given = Tools(
        unused, lambda state: 100 - state["w"].item(), unused, finish_pool=lambda state: {"w": state["w"] + 1}
    )
    pool = recalibrated(members, given)
    assert (pool.state["w"].item(), pool.score, pool.shares, pool.steps) == (2.0, 98.0, {2: 1.0}, [])
    assert pool.is_final, "it is not recalibrated a second time"


def test_its_weights_are_the_tickets_and_its_statistics_those_of_the_final_images(digits_tickets, tmp_path):
    for images in ("64", "128"):
        files = ["--checkpoint", str(digits_tickets), "--save_dir", str(tmp_path / images), "--levels", "1"]
        flags = ["--interpolate_method", "recalibrated", "--bn_images", "32", "--final_bn_images", images]
        Lottery_pools.main([*DIGITS, "--arch", "resnet20s", *flags, *files])
    path = digits_tickets / "1model_SA_best.pth.tar"
    ticket, _ = plain_state(load(path)["state_dict"], path)
    first, second = (load(tmp_path / images / "1pool.pth.tar")["state_dict"] for images in ("64", "128"))
    for name, value in ticket.items():
        if not name.endswith(STATISTICS):
            assert torch.equal(first[name], value) and torch.equal(second[name], value), name
    means = [name for name in ticket if name.endswith("running_mean")]
    assert all(not torch.equal(first[name], ticket[name]) for name in means)
    assert any(not torch.equal(first[name], second[name]) for name in means), "images of a finished pool count"
    (entry,) = pools_json(tmp_path / "64")["pools"]
    assert entry["members"] == [{"level": 1, "weight": 1.0}] and entry["steps"] == []


@pytest.mark.parametrize("flag", ["--denser_num=1", "--order=best", "--no_update_bn"])
def test_it_has_no_use_for_departures(digits_tickets, tmp_path, capfd, flag):
    files = ["--checkpoint", str(digits_tickets), "--save_dir", str(tmp_path), "--levels", "2"]
    Lottery_pools.main([*DIGITS, "--arch", "resnet20s", "--interpolate_method", "recalibrated", flag, *files])
    assert f"recalibrated has no use for {flag.partition('=')[0]}" in capfd.readouterr().err
