"""The one exception that a user sees as a single line, what makes it one, and remarks on standard error."""

import sys

LONGEST_LINE = 600  # characters


class UserError(Exception):
    """Something that the user can put right: a flag, a file, a folder. Its message names it and says what to do."""


def one_line(text: object) -> str:
    """`text` on one line of at most LONGEST_LINE characters, without those that a terminal would obey.

    Names inside files may be megabytes long or hold escape sequences; the middle of a long text is left out. An error
    that says nothing is told by its type.
    """
    line = _shortened(" ".join(str(text).split()) or type(text).__name__)
    return _shortened("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line))


def warn(text: object) -> None:
    """Say `text` on standard error, on one line and at once."""
    print(one_line(text), file=sys.stderr, flush=True)


def _shortened(line: str) -> str:
    tail = LONGEST_LINE // 4
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - tail - 3]} … {line[-tail:]}"
