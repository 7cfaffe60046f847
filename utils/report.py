"""Results for people: aligned tables, CSV files and pictures of lines and bars."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter, StrMethodFormatter

from utils import figures
from utils.checkpoint import write_text
from utils.figures import COLUMN, PAGE, STYLES, add_legend, dress, in_print
from utils.spread import spread

Points = Sequence[tuple[float, float]]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # header and rows


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


@in_print
def plot_curves(curves: Mapping[str, Sequence[float]], path: Path, first_epoch: int = 0) -> None:
    """Accuracy (percent) against epochs of one level; `curves` maps "train", "val" and "test" to values."""
    figure, axes = _figure("epoch", "accuracy (%)")
    for style, (split, values) in zip(STYLES, curves.items(), strict=False):
        label = {"train": "training", "val": "validation", "test": "test"}[split]
        axes.plot(range(first_epoch + 1, first_epoch + 1 + len(values)), values, label=label, ms=1.5, lw=0.9, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, axes, columns=3)
    figures.write(figure, path, pdf=False)


@in_print
def plot_accuracy(series: Mapping[str, Points], path: Path, dense: float | None = None) -> None:
    """Accuracy against density, as in the paper's figure: `series` maps a label to (density 0..1, percent) pairs.

    Several pairs of one density are several runs: the line is their mean, the band a sample standard deviation to
    either side. `dense` (percent) is drawn as a level line: what the dense network alone reaches.
    """
    figure, axes = _figure("weights remaining (%)", "test accuracy (%)")
    for style, (label, points) in zip(cycle(STYLES), series.items(), strict=False):
        _draw_line(axes, points, label, style)
    if dense is not None:
        axes.axhline(dense, color="grey", ls="--", lw=0.8, label="dense network")
    _finish_densities(figure, axes, series, path)


@in_print
def plot_gain(series: Mapping[str, Points], path: Path) -> None:
    """What pools have over their tickets against density: labels to (density 0..1, percentage points) pairs.

    Several pairs of one density are several runs, as in `plot_accuracy`.
    """
    figure, axes = _figure("weights remaining (%)", "pool − ticket (points)")
    axes.axhline(0, color=STYLES[0]["color"], lw=0.8)
    styles = islice(cycle(STYLES), 1, None)  # as in plot_accuracy, where the ticket has the first
    for style, (label, points) in zip(styles, series.items(), strict=False):
        _draw_line(axes, points, label, style)
    _finish_densities(figure, axes, series, path)


def _draw_line(axes: Axes, points: Points, label: str, style: Mapping[str, str]) -> None:
    densities = sorted({density for density, _ in points}, reverse=True)
    spreads = [spread(value for density, value in points if density == wanted) for wanted in densities]
    means, deviations = ([one[name] or 0.0 for one in spreads] for name in ("mean", "deviation"))
    places = [100 * density for density in densities]
    axes.plot(places, means, label=label, ms=3.2, lw=1, **style)
    if any(deviations):
        low, high = ([mean + sign * way for mean, way in zip(means, deviations, strict=True)] for sign in (-1, 1))
        axes.fill_between(places, low, high, color=style["color"], alpha=0.18, lw=0)


def _finish_densities(figure: Figure, axes: Axes, series: Mapping[str, Points], path: Path) -> None:
    """Give the picture its axis of densities, the dense network on the left, and write it."""
    shown = sorted({100 * density for points in series.values() for density, _ in points}, reverse=True)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(shown, [f"{value:.3g}" for value in shown], rotation=70 if len(shown) > 8 else 0)
    add_legend(figure, axes, columns=3 if max(map(len, series)) < 14 else 2)
    figures.write(figure, path)


@in_print
def plot_connectivity(paths: Sequence[Mapping], path: Path) -> None:
    """Accuracy and loss along the line between two levels, one curve a pair; see `utils.connectivity.walk`."""
    figure = Figure(figsize=(PAGE, 2.9), layout="constrained")
    for axes, quantity, label in zip(
        figure.subplots(1, 2), ("test_accuracy", "test_loss"), ("test accuracy (%)", "test loss"), strict=True
    ):
        dress(axes, "share of the denser ticket", label)
        for number, pair in enumerate(paths):
            style = STYLES[number % len(STYLES)]
            name = f"levels {pair['levels'][0]} and {pair['levels'][1]}"
            axes.plot(pair["coefficients"], pair[quantity], ms=2.5, lw=1, label=name, **style)
    add_legend(figure, axes, columns=5)
    figures.write(figure, path)


@in_print
def plot_reliability(series: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Accuracy against confidence, and where the images are, for each method (Guo et al. 2017).

    `series` maps a label to its bins of equal width from 0 to 1; see `utils.predictions.Predictions.bins`.
    """
    figure = Figure(figsize=(COLUMN, 4), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(5, 2))
    dress(upper, "", "accuracy (%)")
    dress(lower, "confidence (%)", "images (%)")
    upper.plot([0, 100], [0, 100], color="grey", ls="--", lw=0.8, label="calibrated")
    for style, (label, bins) in zip(cycle(STYLES), series.items(), strict=False):
        total, filled = sum(bin["images"] for bin in bins), [bin for bin in bins if bin["images"]]
        confidence = [100 * bin["confidence_sum"] / bin["images"] for bin in filled]
        accuracy = [100 * bin["correct"] / bin["images"] for bin in filled]
        upper.plot(confidence, accuracy, label=label, ms=3.2, lw=1, **style)
        lower.plot(confidence, [100 * bin["images"] / total for bin in filled], ms=2.5, lw=0.9, **style)
    upper.set(xlim=(0, 103), ylim=(-3, 103))
    lower.set_yscale("log")  # bins that few images fill are where the lines above are noise
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    lower.yaxis.set_minor_locator(NullLocator())
    add_legend(figure, upper, columns=2)
    figures.write(figure, path)


@in_print
def plot_corruptions(series: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A bar for each corruption and method; `series` maps a label to accuracies (percent) by corruption."""
    names, methods = list(next(iter(series.values()))), len(series)
    height = min(8.5, max(2.1, 1.2 + len(names) * (0.14 + 0.11 * methods)))  # a page's at most
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    axes = figure.subplots()
    dress(axes, "test accuracy (%)", "")
    axes.set_axisbelow(True)
    thickness = 0.85 / methods
    for number, (style, (label, accuracies)) in enumerate(zip(cycle(STYLES), series.items(), strict=False)):
        places = [place + (number - (methods - 1) / 2) * thickness for place in range(len(names))]
        hatch = "//" if "ls" in style else None  # where lines would be broken
        lengths = [accuracies[name] for name in names]
        axes.barh(places, lengths, thickness, label=label, color=style["color"], hatch=hatch, edgecolor="white", lw=0.4)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    add_legend(figure, axes, columns=2)
    figures.write(figure, path)


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(COLUMN, 2.7), layout="constrained")
    axes = figure.subplots()
    dress(axes, x_label, y_label)
    return figure, axes
