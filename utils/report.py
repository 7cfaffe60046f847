"""Results for people: aligned tables, CSV files and pictures."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from utils.checkpoint import write_atomically, write_text

# Okabe and Ito's palette, which stays apart for colour-blind readers; the marker tells lines apart in grey.
STYLES = [
    {"color": color, "marker": marker}
    for color, marker in zip(
        ("#000000", "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"), "osD^vPX", strict=True
    )
]


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under a header, numbers and words aligned to the right, the last column to the left."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def write_csv(header: Sequence[str], rows: Sequence[Sequence[object]], path: Path) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(text.getvalue(), path)


def plot_curves(curves: Mapping[str, Sequence[float]], path: Path, first_epoch: int = 0) -> None:
    """Accuracy (percent) against epochs of one level; `curves` maps train_ta, val_ta and test_ta to values."""
    figure, axes = _figure("epoch", "accuracy (%)")
    for style, (name, values) in zip(STYLES, curves.items(), strict=False):
        label = {"train_ta": "training", "val_ta": "validation", "test_ta": "test"}[name]
        axes.plot(range(first_epoch + 1, first_epoch + 1 + len(values)), values, label=label, ms=3, **style)
    _save(figure, axes, path)


def plot_accuracy(series: Mapping[str, Sequence[tuple[float, float]]], path: Path, dense: float | None = None) -> None:
    """Accuracy against density, as in the paper's figure: `series` maps a label to (density 0..1, percent) pairs.

    `dense` (percent) is drawn as a level line: what the dense network alone reaches.
    """
    figure, axes = _figure("weights remaining (%)", "test accuracy (%)")
    for style, (label, points) in zip(cycle(STYLES), series.items(), strict=False):
        densities, accuracies = zip(*sorted(points, reverse=True), strict=True)
        axes.plot([100 * value for value in densities], accuracies, label=label, ms=4.5, lw=1.4, **style)
    if dense is not None:
        axes.axhline(dense, color="grey", ls="--", lw=1, label="dense network")
    shown = sorted({100 * density for points in series.values() for density, _ in points}, reverse=True)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(shown, [f"{value:.3g}" for value in shown], rotation=60 if len(shown) > 8 else 0)
    _save(figure, axes, path)


def plot_connectivity(paths: Sequence[Mapping], path: Path) -> None:
    """Accuracy and loss along the line between two levels, one curve a pair; see `utils.connectivity.walk`."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, quantity, label in zip(
        figure.subplots(1, 2), ("test_accuracy", "test_loss"), ("test accuracy (%)", "test loss"), strict=True
    ):
        _dress(axes, "share of the denser ticket", label)
        for number, pair in enumerate(paths):
            style = STYLES[number % len(STYLES)]
            name = f"levels {pair['levels'][0]} and {pair['levels'][1]}"
            axes.plot(pair["coefficients"], pair[quantity], ms=3, lw=1.2, label=name, **style)
    axes.legend(fontsize=7, ncols=1 + len(paths) // 10, frameon=False)
    _write(figure, path)


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    _dress(axes, x_label, y_label)
    return figure, axes


def _dress(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    # Below the axes, where no line can run through it.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))
