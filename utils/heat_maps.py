"""Pictures of matrices: a search by candidates and coefficients, and the barriers between all pairs of levels."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils import figures
from utils.figures import COLORS, COLUMN, PAGE, in_print

COLOUR_MAP = "cividis"  # as dark as it is blue, for every kind of eye and in grey
# What marks the best coefficient, by whether it was accepted: of a colour that COLOUR_MAP has not, with an edge.
MARKS = {
    True: {"marker": "o", "ms": 5, "mfc": COLORS[1], "mec": "white", "mew": 0.7, "label": "accepted"},
    False: {"marker": "X", "ms": 5, "mfc": "white", "mec": COLORS[1], "mew": 0.7, "label": "best, but rejected"},
}

SCORE_LABELS = {"accuracy": "validation accuracy (%)", "loss": "−validation loss (nats)"}


@in_print
def plot_search(entry: Mapping[str, Any], path: Path, select_by: str = "accuracy") -> None:
    """One search: a row for each candidate, the first tried on top, a column for each coefficient, colour by its score.

    `entry` is one of a `pools.json` whose scores are those of `select_by`, of SCORE_LABELS. A dot marks the coefficient
    by which a candidate became part of the pool, a cross the best one of a candidate that was rejected. Coefficients
    without a score are hatched. The colours run from the best score down to as far below the median as the best is
    above it; lower scores have the last colour.
    """
    steps = [step for step in entry["steps"] if step["candidate"] != entry["level"]]  # without --even_out's, at 0 alone
    coefficients = sorted({coefficient for step in steps for coefficient in step["coefficients"]})
    rows = [dict(zip(step["coefficients"], step["scores"], strict=True)) for step in steps]
    matrix = [[row.get(coefficient) for coefficient in coefficients] for row in rows]
    figure = Figure(figsize=(COLUMN, max(2.1, 1.5 + 0.17 * len(steps))), layout="constrained")
    axes = figure.subplots()
    scale, lowest = _score_scale(matrix)
    image = _draw_matrix(axes, matrix, scale)
    for place, step in enumerate(steps):
        axes.plot(coefficients.index(step["coefficient"]), place, **MARKS[step["accepted"]])
    rotation = 90 if len(coefficients) > 8 else 0
    axes.set_xticks(range(len(coefficients)), [f"{value:.3g}" for value in coefficients], rotation=rotation)
    axes.set_yticks(range(len(steps)), [step["candidate"] for step in steps])
    axes.set(xlabel="coefficient (share that the pool keeps)", ylabel="candidate (level)")
    ticket, pool = (f"{name} {entry[f'{name}_val_accuracy']:.2f} %" for name in ("ticket", "pool"))
    axes.set_title(f"level {entry['level']}: {ticket} → {pool}")
    extend = "min" if lowest < scale.vmin else "neither"
    figure.colorbar(
        image, label=SCORE_LABELS[select_by], extend=extend, pad=0.02, aspect=8 + 1.5 * len(steps), extendfrac=0.04
    )
    shown = [kind for kind in MARKS if any(step["accepted"] == kind for step in steps)]
    handles = [axes.plot([], [], ls="", **MARKS[kind])[0] for kind in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figures.write(figure, path)


def _score_scale(matrix: Sequence[Sequence[float | None]]) -> tuple[Normalize, float]:
    """A colour scale for the scores, and the lowest of them.

    It runs from the best score to as far below the median as the best is above it, but never below the lowest score.
    """
    scores = [score for row in matrix for score in row if score is not None]
    best, lowest = max(scores), min(scores)
    bottom = max(lowest, 2 * median(scores) - best)
    return Normalize(bottom if bottom < best else best - 1, best), lowest


@in_print
def plot_barriers(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The barrier (nats) between each two levels, from entries of a `connectivity.json`; the colours start at 0.

    Pairs that were not walked are hatched; a barrier that is NaN or infinity is written on white.
    """
    barriers = {frozenset(entry["levels"]): entry["barrier"] for entry in entries}
    levels = sorted(frozenset().union(*barriers))
    barriers |= {frozenset({level}): 0.0 for level in levels}
    matrix = [[barriers.get(frozenset({row, column})) for column in levels] for row in levels]
    width = COLUMN if len(levels) <= 8 else PAGE
    figure = Figure(figsize=(width, 0.84 * width), layout="constrained")
    axes = figure.subplots()
    highest = max(filter(math.isfinite, barriers.values()))
    image = _draw_matrix(axes, matrix, Normalize(0, highest or 1))
    _write_values(axes, matrix, highest or 1, cell=72 * 0.7 * width / len(levels))
    for ticks in (axes.set_xticks, axes.set_yticks):
        ticks(range(len(levels)), levels)
    axes.set(xlabel="level", ylabel="level")
    figure.colorbar(image, label="barrier (nats)", pad=0.02)
    figures.write(figure, path)


def _write_values(axes: Axes, matrix: Sequence[Sequence[float | None]], highest: float, cell: float) -> None:
    """Write what is in the cells, which are `cell` points wide, but on the diagonal."""
    decimals = 3 if highest < 0.1 else 2 if highest < 10 else 0
    size = min(7, 1.5 * cell / len(f"{highest:.{decimals}f}"))
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            if value is not None and row != column:
                ink = "white" if value < 0.5 * highest else "black"
                axes.text(column, row, f"{value:.{decimals}f}", ha="center", va="center", color=ink, fontsize=size)


def _draw_matrix(axes: Axes, matrix: Sequence[Sequence[float | None]], scale: Normalize):
    """Cells coloured by value, hatched where there is none."""
    values = [[math.nan if value is None else value for value in row] for row in matrix]
    image = axes.imshow(values, COLOUR_MAP, scale, aspect="auto", interpolation="nearest")
    for row, cells in enumerate(matrix):
        for column, value in enumerate(cells):
            if value is None:
                corner = (column - 0.5, row - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fc="white", ec="#BBBBBB", hatch="////", lw=0))
    axes.tick_params(length=0)
    return image
