"""The progress bar of a script, where there is a terminal to draw it on."""

from collections.abc import Iterable

from tqdm import tqdm

from utils.distributed import Processes


def progress_bar(
    processes: Processes, title: str, total: int, unit: str, items: Iterable | None = None, initial: int = 0
) -> tqdm:
    """A bar over `items`, or one to be updated; of several processes only the main one shows its own."""
    hidden = None if processes.is_main else True  # None: tqdm looks whether there is a terminal
    return tqdm(items, title, total, initial=initial, leave=False, disable=hidden, unit=unit)
