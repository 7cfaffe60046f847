"""The methods that --interpolate_method names: what they are called in flags, tables and folders."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.pools import PAPER_COEFFICIENTS

LONGEST_LIST = 120  # characters of coefficients in the name of a folder, which has room for 255 with all else
TICKET = "ticket"  # what tables and pictures call one
SEARCH = "Lottery_pools"
SWA = "interpolate_swa"
EMA = "interpolate_ema"
CONNECTIVITY = "linear_inter"
LEARNED = "learned"
RECALIBRATED = "recalibrated"
ENSEMBLE = "ensemble"
METHODS = {
    SEARCH: "the greedy search over neighbours and coefficients (Yin et al. 2023); one of 0.5 is averaging",
    SWA: "the running mean of the ticket and its neighbours (Izmailov et al. 2018)",
    EMA: "their exponential moving average, which keeps --EMA_value",
    "uniform_soup": "the plain mean of the ticket and its neighbours (Wortsman et al. 2022)",
    "greedy_soup": "the mean of those that do not lower its accuracy, best ones first (Wortsman et al. 2022)",
    "average_or_soup": "averaging, or the uniform soup if that scores no less on validation images",
    LEARNED: "weights of the ticket and its neighbours by gradient on validation images",
    RECALIBRATED: "the ticket alone with its batch norm recalibrated: what of a gain is not the members'",
    ENSEMBLE: "no pools: their averaged predictions, at the cost of all of them",
    CONNECTIVITY: "no pools: accuracy and loss on the line between two tickets (Frankle et al. 2020)",
}


def _all_but(*names: str) -> tuple[str, ...]:
    return tuple(name for name in METHODS if name not in names)


# Flags that not all methods heed, each with those whose results it decides: a loop over methods may give them to all.
METHOD_FLAGS = {
    "interpolation_value_list": (SEARCH, CONNECTIVITY),
    "EMA_value": (EMA,),
    **dict.fromkeys(("learned_steps", "learned_lr"), (LEARNED,)),
    "coefficient_search": (SEARCH,),
    "search_num": _all_but(CONNECTIVITY),
    "final_bn_images": _all_but(ENSEMBLE, CONNECTIVITY),
    **dict.fromkeys(("bn_images", "batch_size"), _all_but(ENSEMBLE)),
}
# Flags that were added later, each with its default: files that do not note the flag were made with that value.
LATER_FLAGS = {
    "replicas": 1,
    "eval_freq": 1,
    "coefficient_search": "grid",
    "final_bn_images": None,
    "select_by": "accuracy",
    "accept_margin": 0.0,
    "order": "nearest",
    "passes": 1,
    "even_out": False,
    "learned_per": "network",
    "denser_num": None,
    "no_update_bn": False,
}
# The flags that depart from the paper, each with the methods that heed it; LATER_FLAGS has their defaults.
DEPARTURES = {
    "select_by": (SEARCH, "greedy_soup", "average_or_soup"),
    **dict.fromkeys(("accept_margin", "order", "passes", "even_out"), (SEARCH,)),
    "learned_per": (LEARNED,),
    "denser_num": _all_but(CONNECTIVITY, RECALIBRATED),
    "no_update_bn": _all_but(RECALIBRATED, ENSEMBLE),
}
LABELS = {**{name: name.replace("_", " ") for name in _all_but(SEARCH, EMA, CONNECTIVITY)}, SWA: "SWA"}


def method_name(text: str) -> str:
    """The name of a method; the paper's README spells connectivity "liner_inter"."""
    return CONNECTIVITY if text == "liner_inter" else text


def method_label(settings: Mapping[str, Any]) -> str:
    """What tables and pictures call the method that a `pools.json` with these `settings` comes from."""
    return ", ".join([_plain_label(settings), *(words.replace("_", " ") for words in _departures(settings))])


def _plain_label(settings: Mapping[str, Any]) -> str:
    method, values = settings["interpolate_method"], settings["interpolation_value_list"]
    if method == SEARCH:
        if values == list(PAPER_COEFFICIENTS):
            return "Lottery Pools"
        return "average" if values == [0.5] else f"Lottery Pools ({len(values)} coefficients)"
    return f"EMA {settings['EMA_value']:g}" if method == EMA else LABELS[method]


def unique_labels(found: Sequence[tuple[str, Hashable, Path]]) -> list[str]:
    """The labels of `found` (label, what it labels, a file), made different where they label the same thing.

    Where two of the same thing have one label, the name of the file's folder is added to it, and where they still have
    one, the path of that folder.
    """
    labels = [label for label, _, _ in found]
    for place in (lambda path: path.resolve().parent.name, lambda path: path.parent):
        count = Counter((label, of) for label, (_, of, _) in zip(labels, found, strict=True))
        ambiguous = {label for (label, _), number in count.items() if number > 1}
        labels = [
            f"{label} ({place(path)})" if label in ambiguous else label
            for label, (_, _, path) in zip(labels, found, strict=True)
        ]
    return labels


def folder_name(settings: Mapping[str, Any]) -> str:
    """A folder of its own for each method, its coefficients and departures: commands can follow each other."""
    name, values = settings["interpolate_method"], settings["interpolation_value_list"]
    if name == EMA:
        name = f"{name}_{settings['EMA_value']:g}"
    elif name in (SEARCH, CONNECTIVITY) and values != list(PAPER_COEFFICIENTS):  # the two that have coefficients
        listed = "_".join(f"{value:g}" for value in values)
        if len(listed) > LONGEST_LIST:
            listed = f"{len(values)}_coefficients_{hashlib.blake2b(listed.encode(), digest_size=4).hexdigest()}"
        name = f"{name}_{listed}"
    return "_".join([name, *_departures(settings)])


def _departures(settings: Mapping[str, Any]) -> list[str]:
    """The flags by which the method of these `settings` departs from the paper: `passes_2`, `even_out`."""
    heeded = [name for name, methods in DEPARTURES.items() if settings["interpolate_method"] in methods]
    values = {name: {**LATER_FLAGS, **settings}[name] for name in heeded}
    found = {name: value for name, value in values.items() if value != LATER_FLAGS[name]}
    return [name if value is True else f"{name}_{value}" for name, value in found.items()]
