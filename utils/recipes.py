"""Where a search may depart from the paper's: a flag for each, and the choice of them that pools best.

README says what each does to the pools' accuracy, with how it was measured.
"""

from collections.abc import Mapping
from typing import Any

PAPER = {
    "select_by": "accuracy",
    "accept_margin": 0.0,
    "order": "nearest",
    "passes": 1,
    "even_out": False,
    "learned_per": "network",
}


def departures(settings: Mapping[str, Any]) -> list[str]:
    """The flags in `settings` (all flags of a command, by name) that are not the paper's: `passes_2`, `even_out`."""
    found = {name: settings[name] for name, value in PAPER.items() if settings.get(name, value) != value}
    return [name if value is True else f"{name}_{value}" for name, value in found.items()]
