"""Searches and barriers as pictures: what is in their cells, and that they can be read whatever their size."""

import itertools
import math
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from script_runs import assert_shows_something

from utils import figures as figures_module
from utils import heat_maps

pytestmark = pytest.mark.pictures
COEFFICIENTS = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


@pytest.fixture
def laid_out(monkeypatch) -> list:
    """The figures for tests that look at no file: drawn as for a PNG file, but for the ink."""
    drawn = []

    def lay_out(figure: Figure, path: Path) -> None:
        drawn.append(figure)
        figure.set_dpi(figures_module.DPI)
        figure.draw_without_rendering()

    monkeypatch.setattr(figures_module, "write", lay_out)
    return drawn


def step(candidate: int, scores: list, coefficient: float, accepted: bool = True, coefficients=COEFFICIENTS) -> dict:
    return {
        "candidate": candidate,
        "coefficients": list(coefficients),
        "scores": scores,
        "coefficient": coefficient,
        "accepted": accepted,
    }


def entry(*steps: dict) -> dict:
    return {"level": 3, "steps": [*steps], "ticket_val_accuracy": 70.0, "pool_val_accuracy": 71.5}


def rising(first: float) -> list[float]:
    return [first + number / 10 for number in range(len(COEFFICIENTS))]


def marks(axes) -> list[tuple[float, float, str]]:
    lines = [line for line in axes.lines if len(line.get_xdata())]
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_marker()) for line in lines]


def test_rows_are_candidates_in_the_order_tried_and_columns_coefficients(tmp_path, figures):
    search = entry(step(2, rising(70), 0.95), step(4, rising(69), 0.95, accepted=False))
    heat_maps.plot_search(search, tmp_path / "s.png")
    assert_shows_something(tmp_path / "s.png")
    assert (tmp_path / "s.pdf").read_bytes().startswith(b"%PDF")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "4"]
    assert [float(label.get_text()) for label in axes.get_xticklabels()] == COEFFICIENTS
    assert axes.images[0].get_array().tolist() == [rising(70), rising(69)]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first is on top"
    assert "level 3" in axes.get_title() and "70.00" in axes.get_title() and "71.50" in axes.get_title()


def test_the_best_coefficient_of_each_row_is_marked_by_what_became_of_it(tmp_path, laid_out):
    search = entry(step(2, rising(70), 0.3), step(4, rising(69), 0.9, accepted=False))
    heat_maps.plot_search(search, tmp_path / "s.png")
    assert marks(laid_out[0].axes[0]) == [(3, 0, "o"), (9, 1, "X")]
    assert [text.get_text() for text in laid_out[0].legends[0].get_texts()] == ["accepted", "best, but rejected"]


def test_coefficients_that_were_left_out_are_hatched(tmp_path, laid_out):
    scores = [*rising(70)[:-2], None, None]
    heat_maps.plot_search(entry(step(2, scores, 0.3), step(1, rising(70), 0.3)), tmp_path / "s.png")
    hatched = [patch for patch in laid_out[0].axes[0].patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert [patch.get_xy() for patch in hatched] == [(8.5, -0.5), (9.5, -0.5)]


def test_candidates_with_coefficients_of_their_own_have_columns_for_all(tmp_path, laid_out):
    first, second = step(1, [70.0], 0.5, coefficients=[0.5]), step(2, [70.5], 2 / 3, coefficients=[2 / 3])
    heat_maps.plot_search(entry(first, second), tmp_path / "s.png")
    axes = laid_out[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "0.667"]
    assert marks(axes) == [(0, 0, "o"), (1, 1, "o")]


def test_one_hopeless_candidate_does_not_take_the_colours_from_the_others(tmp_path, laid_out):
    heat_maps.plot_search(entry(step(2, rising(70), 0.95), step(4, [*rising(70)[:-1], 1.0], 0.9)), tmp_path / "s.png")
    scale = laid_out[0].axes[0].images[0].norm
    assert (scale.vmin, scale.vmax) == pytest.approx((69.9, 71.0), abs=0.1)


@pytest.mark.parametrize("score", [0.0, 70.0])
def test_scores_that_are_all_the_same_are_drawn(tmp_path, score):
    heat_maps.plot_search(entry(step(0, [score] * len(COEFFICIENTS), 0.05)), tmp_path / "s.png")
    assert_shows_something(tmp_path / "s.png")


@pytest.mark.parametrize("candidates", [1, 19])
def test_labels_of_a_search_do_not_overlap_and_it_fits_a_column(tmp_path, laid_out, candidates):
    search = entry(*(step(number, rising(70 + number), 0.5) for number in range(candidates)))
    heat_maps.plot_search(search, tmp_path / "s.png")
    figure = laid_out[0]
    assert figure.get_figwidth() == figures_module.COLUMN
    axes, pixels = figure.axes[0], figure.dpi / 72
    for ticks, direction in ((axes.xaxis, 0), (axes.yaxis, 1)):
        places = sorted(axes.transData.transform((tick, tick))[direction] for tick in ticks.get_ticklocs())
        assert all(after - before > 7 * pixels for before, after in pairwise(places))
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title, figure.axes[1].yaxis.label):
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height


# Barriers


def barriers(levels: int, barrier=lambda first, second: 0.1 * (second - first)) -> list[dict]:
    pairs = itertools.combinations(range(levels), 2)
    return [{"levels": [*pair], "barrier": barrier(*pair)} for pair in pairs]


def test_barriers_stand_on_both_sides_of_the_diagonal_and_colours_start_at_zero(tmp_path, figures):
    heat_maps.plot_barriers(barriers(3), tmp_path / "b.png")
    assert_shows_something(tmp_path / "b.png")
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    axes = figures[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[0, 0.1, 0.2], [0.1, 0, 0.1], [0.2, 0.1, 0]]
    assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (0, 0.2)
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(1, 0): "0.10", (2, 0): "0.20", (0, 1): "0.10", (2, 1): "0.10", (0, 2): "0.20", (1, 2): "0.10"}


def test_levels_that_are_missing_have_no_row_and_pairs_that_were_not_walked_are_hatched(tmp_path, laid_out):
    entries = [{"levels": [0, 4], "barrier": 1.0}, {"levels": [4, 7], "barrier": 2.0}]
    heat_maps.plot_barriers(entries, tmp_path / "b.png")
    axes = laid_out[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "4", "7"]
    assert [patch.get_xy() for patch in axes.patches if patch.get_hatch()] == [(1.5, -0.5), (-0.5, 1.5)]


@pytest.mark.parametrize("barrier", [0.0, 1e-6, 123.0, math.inf, math.nan])
def test_barriers_of_any_size_are_drawn(tmp_path, laid_out, barrier):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heat_maps.plot_barriers(barriers(3, lambda first, second: barrier if first else 0.0), tmp_path / "b.png")
    assert laid_out[0].axes[0].images[0].norm.vmin == 0


@pytest.mark.parametrize("levels", [2, 8, 19])
def test_values_fit_into_their_cells(tmp_path, laid_out, levels):
    heat_maps.plot_barriers(barriers(levels), tmp_path / "b.png")
    figure = laid_out[0]
    assert figure.get_figwidth() == (figures_module.COLUMN if levels <= 8 else figures_module.PAGE)
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / levels
    assert all(text.get_window_extent().width < cell and text.get_fontsize() > 5 for text in axes.texts)
