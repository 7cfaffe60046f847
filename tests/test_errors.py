import pytest

from utils.errors import LONGEST_LINE, one_line, warn


def test_a_line_of_words_stays_as_it_is():
    assert one_line("ticket.pt is damaged: été ☃") == "ticket.pt is damaged: été ☃"


def test_several_lines_become_one():
    assert one_line("first\n  second\r\n\tthird\u2028fourth") == "first second third fourth"


@pytest.mark.parametrize("letter", ["\x1b", "\x07", "\x9b", "\x7f", "\u202e", "\ud800", "\u200b"])
def test_what_a_terminal_would_obey_is_spelt_out(letter):
    line = one_line(f"ticket{letter}[2J.pt")
    assert line.isprintable() and line.isascii() and line.startswith("ticket\\") and line.endswith("[2J.pt")


@pytest.mark.parametrize("middle", ["x" * 10**6, "\x1b" * 10**6])
def test_of_a_long_line_the_middle_is_left_out(middle):
    line = one_line(f"/folder/ticket.pt holds {middle}: what to do")
    assert len(line) <= LONGEST_LINE and line.isprintable()
    assert line.startswith("/folder/ticket.pt holds ") and line.endswith(": what to do") and "…" in line


def test_an_error_without_words_is_told_by_its_type():
    assert one_line(MemoryError()) == "MemoryError"


def test_a_remark_is_one_line_on_standard_error(capfd):
    warn("ticket\x1b[2J\n.pt is odd")
    assert capfd.readouterr() == ("", "ticket\\x1b[2J .pt is odd\n")
