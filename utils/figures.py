"""How pictures look and are written: for a paper's column, for colour-blind readers, as PNG and PDF side by side."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.checkpoint import write_atomically

COLUMN, PAGE = 3.3, 6.9  # widths of a paper's column and of its page, inches
DPI = 300  # of the PNG files
# Okabe and Ito's palette, which stays apart for colour-blind readers; the marker tells lines apart in grey.
# After the first round of colours come others, of broken lines and hollow markers and of dotted lines and half-filled
# ones: enough for the 18 lines between neighbours of the paper's 19 levels.
COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
STYLES = [
    {"color": color, "marker": marker, **broken}
    for broken in ({}, {"ls": "--", "mfc": "white"}, {"ls": ":", "fillstyle": "bottom", "markerfacecoloralt": "white"})
    for color, marker in zip(COLORS, "osD^vPX", strict=True)
]
# Decorates whatever draws a picture. Texts are as large as a paper's captions, and TrueType is what publishers ask for.
in_print = rc_context(
    {
        "font.size": 8,
        "axes.labelsize": 8,
        "axes.titlesize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "axes.linewidth": 0.6,
        "hatch.linewidth": 0.5,
        "pdf.fonttype": 42,
    }
)


def dress(axes: Axes, x_label: str, y_label: str) -> None:
    """Label the axes, draw a light grid, and leave the frame open at the top and on the right."""
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Name what `axes` shows below it, where no line can run through the names."""
    handles, labels = axes.get_legend_handles_labels()
    # File names need not be UTF-8, and a dollar in them begins no formula.
    labels = [label.encode(errors="backslashreplace").decode().replace("$", r"\$") for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def write(figure: Figure, path: Path, pdf: bool = True) -> None:
    """Write the PNG file `path` and, if `pdf`, the PDF file beside it, which bears no date."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
    if pdf:
        figure.set_layout_engine("none")  # it is laid out already, and every time takes as long as drawing
        write_atomically(
            path.with_suffix(".pdf"), lambda file: figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        )
