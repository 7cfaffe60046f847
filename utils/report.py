"""Results for people: aligned tables, CSV files and pictures."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter, StrMethodFormatter

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


def plot_reliability(series: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Accuracy against confidence, and where the images are, for each method; as PDF too (Guo et al. 2017).

    `series` maps a label to its bins of equal width from 0 to 1; see `utils.predictions.Predictions.bins`.
    """
    figure = Figure(figsize=(3.5, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(5, 2))
    _dress(upper, "", "accuracy (%)")
    _dress(lower, "confidence (%)", "images (%)")
    upper.plot([0, 100], [0, 100], color="grey", ls="--", lw=1, label="calibrated")
    for style, (label, bins) in zip(cycle(STYLES), series.items(), strict=False):
        total, filled = sum(bin["images"] for bin in bins), [bin for bin in bins if bin["images"]]
        confidence = [100 * bin["confidence_sum"] / bin["images"] for bin in filled]
        accuracy = [100 * bin["correct"] / bin["images"] for bin in filled]
        upper.plot(confidence, accuracy, label=label, ms=4, lw=1.3, **style)
        lower.plot(confidence, [100 * bin["images"] / total for bin in filled], ms=3, lw=1, **style)
    upper.set(xlim=(0, 103), ylim=(-3, 103))
    lower.set_yscale("log")  # bins that few images fill are where the lines above are noise
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    lower.yaxis.set_minor_locator(NullLocator())
    _save(figure, upper, path, columns=2)
    _write_pdf(figure, path)


def plot_corruptions(series: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A bar for each corruption and method, as PDF too; `series` maps a label to accuracies (percent) by corruption."""
    names, methods = list(next(iter(series.values()))), len(series)
    height = min(8.5, max(2.1, 1.2 + len(names) * (0.14 + 0.11 * methods)))  # a page's at most
    figure = Figure(figsize=(3.5, height), layout="constrained")
    axes = figure.subplots()
    _dress(axes, "test accuracy (%)", "")
    axes.set_axisbelow(True)
    thickness = 0.85 / methods
    for number, (style, (label, accuracies)) in enumerate(zip(cycle(STYLES), series.items(), strict=False)):
        places = [place + (number - (methods - 1) / 2) * thickness for place in range(len(names))]
        hatch = "//" if number >= len(STYLES) else None
        lengths = [accuracies[name] for name in names]
        axes.barh(places, lengths, thickness, label=label, color=style["color"], hatch=hatch, edgecolor="white", lw=0.4)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    _save(figure, axes, path, columns=2)
    _write_pdf(figure, path)


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    _dress(axes, x_label, y_label)
    return figure, axes


def _dress(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, axes: Axes, path: Path, columns: int = 3) -> None:
    # Below the axes, where no line can run through it.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def _write_pdf(figure: Figure, path: Path) -> None:
    """The PDF beside the PNG file `path`, with TrueType fonts, which publishers ask for, and no date in it."""
    with rc_context({"pdf.fonttype": 42}):
        write_atomically(
            path.with_suffix(".pdf"), lambda file: figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        )
