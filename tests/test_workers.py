import threading

import pytest
import torch

from utils.workers import Workers


def test_results_come_in_the_order_of_the_items():
    assert list(Workers(3).each(lambda item: item**2, range(7))) == [0, 1, 4, 9, 16, 25, 36]


def test_as_many_items_are_worked_on_at_the_same_time_as_there_are_workers():
    meeting = threading.Barrier(3, timeout=20)
    assert len(list(Workers(3).each(lambda item: meeting.wait(), range(3)))) == 3


def test_workers_share_the_threads_of_torch_and_give_them_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        assert list(Workers(3).each(lambda item: torch.get_num_threads(), range(5))) == [2] * 5
        assert list(Workers(3).each(lambda item: torch.get_num_threads(), range(2))) == [3] * 2
        assert list(Workers(3).each(lambda item: torch.get_num_threads(), range(1))) == [6]
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)


def test_an_error_of_one_ends_the_passes_of_the_others_and_is_raised():
    workers, begun = Workers(2), threading.Barrier(2, timeout=20)

    def endless():
        while True:
            yield 0

    def work(item):
        begun.wait()
        if item == 0:
            raise ZeroDivisionError("item 0")
        for _ in workers.watched(endless()):
            pass

    with pytest.raises(ZeroDivisionError, match="item 0"):
        workers.each(work, range(2))


def test_an_error_is_noticed_while_an_earlier_item_is_still_worked_on():
    workers, failed, seen = Workers(2), threading.Event(), []

    def work(item):
        seen.append(item)
        if item == 1:
            failed.set()
            raise ZeroDivisionError
        failed.wait(20)
        for _ in workers.watched(iter(int, 1)):
            pass

    with pytest.raises(ZeroDivisionError):
        workers.each(work, range(50))
    assert len(seen) < 50


def test_nothing_is_begun_after_an_error():
    workers, seen = Workers(2), []

    def work(item):
        seen.append(item)
        if item == 0:
            raise ZeroDivisionError
        for _ in workers.watched(iter(int, 1)):
            pass

    with pytest.raises(ZeroDivisionError):
        workers.each(work, range(50))
    assert len(seen) < 50
