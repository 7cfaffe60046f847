"""A command line that reads like a page, checks its values and fails in one line."""

import argparse
import atexit
import errno
import gc
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from utils import preemption
from utils.errors import UserError, one_line

SHORTAGES = ("out of memory", "DefaultCPUAllocator", "bad_alloc", "ALLOC_FAILED")  # of memory, in torch's errors


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the description's lines as they are and names the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False  # 0 says something
        return action.help if says_nothing else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser whose help reads like a page and whose errors are one line."""

    def __init__(self, description: str, usage: str = "%(prog)s [flags]"):
        super().__init__(description=description, usage=usage, formatter_class=HelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, one_line(f"{self.prog}: error: {message} (--help lists the flags)") + "\n")


class Preset(argparse.Action):
    """A flag that stands for several others: for those of `const`, or for what `choices` maps its value to.

    What is given after it on the command line wins.
    """

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        vars(namespace).update(self.choices[values] if self.choices else self.const)


class PrintText(argparse.Action):
    """A flag that prints a text and ends the program, as --help does."""

    def __init__(self, *args, text: str, **kwargs):
        super().__init__(*args, nargs=0, default=argparse.SUPPRESS, **kwargs)
        self.text = text

    def __call__(self, parser, namespace, values, option_string=None) -> NoReturn:
        print(self.text)
        parser.exit()


def run_script(main: Callable[[list[str] | None], None]) -> NoReturn:
    """Run a script's `main`; a user's mistake or too little memory ends in one line on standard error and status 2."""
    preemption.handle_sigterm()
    atexit.register(gc.freeze)  # else Python searches all that torch is made of for garbage before it ends: a second
    if sys.stdout:  # None where the shell has closed it
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what it cannot encode
    try:
        main(None)
        sys.exit(0)
    except BrokenPipeError:
        # The reader of our output (`head`, say) has gone: stop quietly, also when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, MemoryError, RuntimeError, OSError) as error:
        words = _words_for_user(error)
        if words is None:
            raise
        if "--debug" in sys.argv:
            traceback.print_exc()
        sys.exit(_fail(one_line(f"{Path(sys.argv[0]).name}: error: {words}"), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; give the same command again", 130))
    except preemption.Preempted:
        sys.exit(_fail("stopped by SIGTERM; give the same command again", preemption.EXIT_STATUS))
    finally:
        preemption.ignore_sigterm()


def _words_for_user(error: Exception) -> str | None:
    """What a user needs to know of `error`; None where it is a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write the output: {error.strerror}"
    if isinstance(error, MemoryError) or any(mark in str(error) for mark in SHORTAGES):
        return "out of memory: try a smaller --batch_size, --jobs 1 or --amp, as far as the script has them"
    return None


def _fail(line: str, status: int) -> int:
    preemption.ignore_sigterm()
    print(line, file=sys.stderr)
    return status


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def count(text: str) -> int:
    """A whole number, 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    if value > sys.maxsize:
        raise argparse.ArgumentTypeError(f"{text} is too large")
    return value


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    value = count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def nonnegative(text: str) -> float:
    """A finite number, 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return value


def epochs_list(text: str) -> tuple[int, ...]:
    """Epochs separated by commas; an empty text means none."""
    return tuple(count(part) for part in text.split(",") if part.strip())


# argparse names the type in its errors.
count.__name__, positive.__name__ = "whole number", "positive whole number"
nonnegative.__name__, epochs_list.__name__ = "number", "list of epochs"
