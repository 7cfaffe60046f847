"""What the files of a run must hold before they are used: shapes for `utils.plain_data.misfit`."""

import math
from typing import Any

from utils.plain_data import (
    is_bool,
    is_dict,
    is_number,
    is_percent,
    is_plain,
    is_share,
    is_shares,
    is_state,
    is_text,
    is_whole,
    misfit,
)


def is_settings(value: Any) -> bool:
    """Whether `value` may be the settings of a run, as `utils.provenance.describe_run` notes them."""
    return is_dict(value) and is_plain(value) and is_whole(value.get("processes", 1))


def is_loss(value: Any) -> bool:
    """A number from 0 on; a diverging network's is NaN or infinity."""
    return type(value) is float and (not math.isfinite(value) or (is_number(value) and value >= 0))


CHECKPOINT = {  # of IMP, to go on with
    "epoch": is_whole,
    "best_sa": is_number,
    "result": {"train_ta": [is_number], "val_ta": [is_number], "test_ta": [is_number]},
    **dict.fromkeys(("state_dict", "optimizer", "scheduler", "init_weight"), is_dict),
}

UNDERWAY = {"batches": is_whole, "images": is_whole, "correct": is_whole, "loss_sum": is_number}  # within an epoch

POOL_FILE = {"settings": is_settings, "tickets": is_plain}  # finished or not: what says whether it is this run's
STEP = {
    "candidate": is_whole,
    "coefficients": [is_share],
    "scores": [lambda score: score is None or is_number(score)],  # percent, or the negative loss
    "coefficient": is_share,
    "accepted": is_bool,
}
UNFINISHED_POOL = {"state": is_state, "score": is_number, "shares": is_shares, "steps": [STEP]}
RECIPE = {
    "level": is_whole,
    "density": is_share,
    "members": [{"level": is_whole, "weight": is_share}],
    "steps": [STEP],
    "ticket_val_accuracy": is_percent,
    "pool_val_accuracy": is_percent,
    "ticket_test_accuracy": is_percent,
    "pool_test_accuracy": is_percent,
    "checkpoint": is_text,
}


def is_recipe(value: Any) -> bool:
    """Whether `value` may be an entry of a pools.json: all of it, and nothing else that a table has no column for."""
    return is_plain(value) and not misfit(value, RECIPE) and value.keys() == RECIPE.keys()


def _are_tickets(value: Any) -> bool:
    """Level and digest of each ticket of a result, the start first."""
    return type(value) is list and value != [] and all(map(_is_ticket, value))


def _is_ticket(pair: Any) -> bool:
    return type(pair) is list and len(pair) == 2 and is_whole(pair[0]) and is_text(pair[1])


STARTS = {"tickets": _are_tickets}

ENSEMBLE = {
    **{name: shape for name, shape in RECIPE.items() if name != "checkpoint"},
    "networks": is_whole,
    "weights": is_number,
    **STARTS,
}


def is_ensemble(value: Any) -> bool:
    """Whether `value` may be an entry of a pools.json that ensembles wrote."""
    return is_plain(value) and not misfit(value, ENSEMBLE) and value.keys() == ENSEMBLE.keys()


LABELLED = {"interpolate_method": is_text, "interpolation_value_list": [is_share], "EMA_value": is_share}


def is_labelled(value: Any) -> bool:
    """Whether `value` may be the settings of a run of Lottery_pools.py, with all that its label is made of."""
    return is_settings(value) and not misfit(value, LABELLED)


POOL = {"recipe": {"level": is_whole, "density": is_share}, "settings": is_labelled, **STARTS}  # by `evaluate.py`
COMPARED = {  # of a pools.json, by `evaluate.py`
    "versions": is_dict,
    "settings": LABELLED,
    "pools": [
        {
            name: RECIPE[name]
            for name in ("level", "density", "ticket_val_accuracy", "ticket_test_accuracy", "pool_test_accuracy")
        }
    ],
}

LINE_COLUMNS = {
    "coefficients": [is_share],
    "test_accuracy": [is_percent],
    "test_loss": [is_loss],
}
LINE = {
    "levels": lambda levels: type(levels) is list and len(levels) == 2 and all(map(is_whole, levels)),
    **STARTS,
    "barrier": is_loss,
    **LINE_COLUMNS,
}


def is_line(value: Any) -> bool:
    """Whether `value` may be an entry of a connectivity.json: the walk between two tickets."""
    if misfit(value, LINE):
        return False
    lengths = {len(value[name]) for name in LINE_COLUMNS}
    return len(lengths) == 1 and lengths != {0}
