import csv
import warnings
from itertools import pairwise

import pytest
from script_runs import assert_shows_something

from utils import report

pytestmark = pytest.mark.pictures


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    """A warning would stand between the lines of a script's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def geometric(count: int, gain: float = 0.0) -> list[tuple[float, float]]:
    """Density and accuracy of `count` levels, as IMP makes them."""
    return [(0.8**level, 70 + gain - level / 4) for level in range(count)]


# Tables


def test_table_is_aligned_and_ends_in_ragged_text():
    table = report.format_table(("level", "gain", "members"), [(0, "+0.50", "0:1.000"), (10, "-12.25", "10:0.5 9:0.5")])
    assert table.splitlines() == [
        "level    gain  members",
        "---------------------------",
        "    0   +0.50  0:1.000",
        "   10  -12.25  10:0.5 9:0.5",
    ]


def test_table_of_nothing_is_its_header():
    assert report.format_table(("level", "gain"), []) == "level  gain\n-----------"


def test_table_has_no_blanks_at_the_ends_of_lines():
    assert report.format_table(("a", "b"), [("1", "")]).splitlines()[-1] == "1"


def test_csv_is_read_back_exactly(tmp_path):
    rows = [[0, 100 / 3, 'a "quoted", list'], [1, None, ""]]
    report.write_csv(("level", "accuracy", "members"), rows, tmp_path / "pools.csv")
    with (tmp_path / "pools.csv").open(newline="") as file:
        read = list(csv.reader(file))
    assert read == [["level", "accuracy", "members"], ["0", str(100 / 3), 'a "quoted", list'], ["1", "", ""]]
    assert b"\r" not in (tmp_path / "pools.csv").read_bytes()


# Pictures


@pytest.mark.parametrize("levels", [1, 2, 6, 19])
@pytest.mark.parametrize("dense", [None, 71.0])
def test_accuracy_is_drawn_of_one_level_and_of_many(tmp_path, levels, dense):
    report.plot_accuracy({"ticket": geometric(levels), "pool": geometric(levels, 1.0)}, tmp_path / "a.png", dense)
    assert_shows_something(tmp_path / "a.png")


def test_accuracy_falls_from_the_dense_network_on_the_left(tmp_path, figures):
    report.plot_accuracy({"ticket": geometric(19)}, tmp_path / "a.png")
    (axes,) = figures[0].axes
    left, right = axes.get_xlim()
    assert left > right > 0
    assert axes.get_xscale() == "log"
    assert axes.lines[0].get_xdata()[0] == 100


def test_levels_in_any_order_give_one_line_by_density(tmp_path, figures):
    report.plot_accuracy({"ticket": [(0.5, 1.0), (1.0, 3.0), (0.8, 2.0)]}, tmp_path / "a.png")
    assert list(figures[0].axes[0].lines[0].get_xdata()) == [100, 80, 50]
    assert list(figures[0].axes[0].lines[0].get_ydata()) == [3, 2, 1]


def test_dollars_in_a_files_name_begin_no_formula(tmp_path, figures):
    report.plot_accuracy({"a$b_$.pt": geometric(3)}, tmp_path / "a.png")


@pytest.mark.parametrize("methods", [2, 8])
def test_every_method_is_drawn_and_named_however_many(tmp_path, figures, methods):
    names = [f"method {number}" for number in range(methods)]
    report.plot_accuracy({name: geometric(3, number) for number, name in enumerate(names)}, tmp_path / "a.png", 60.0)
    (axes,) = figures[0].axes
    assert len(axes.lines) == methods + 1
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == [*names, "dense network"]


def test_no_two_of_fourteen_lines_look_alike(tmp_path, figures):
    report.plot_accuracy({f"method {number}": geometric(3, number) for number in range(14)}, tmp_path / "a.png")
    (axes,) = figures[0].axes
    looks = {(line.get_color(), line.get_linestyle(), line.get_markerfacecolor()) for line in axes.lines}
    assert len(looks) == 14


def test_tick_labels_of_a_long_run_do_not_overlap(tmp_path, figures):
    report.plot_accuracy({"ticket": geometric(19)}, tmp_path / "a.png")
    (axes,) = figures[0].axes
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    places = sorted(axes.transData.transform((tick, 0))[0] for tick in axes.get_xticks())
    height = max(label.get_fontsize() for label in labels) * figures[0].dpi / 72
    assert min(after - before for before, after in pairwise(places)) > 0.7 * height


@pytest.mark.parametrize("epochs", [1, 182])
def test_training_curves_are_drawn_and_named(tmp_path, figures, epochs):
    curves = {name: [float(epoch) for epoch in range(epochs)] for name in ("train", "val", "test")}
    report.plot_curves(curves, tmp_path / "0net_train.png")
    assert_shows_something(tmp_path / "0net_train.png")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "training",
        "validation",
        "test",
    ]


def test_training_curves_of_a_rewound_level_begin_after_its_rewind_epoch(tmp_path, figures):
    report.plot_curves({"val": [1.0, 2.0]}, tmp_path / "1net_train.png", first_epoch=9)
    (axes,) = figures[0].axes
    assert list(axes.lines[0].get_xdata()) == [10, 11]
    assert all(tick == int(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("pairs", [1, 18])
def test_every_pair_has_its_path_in_accuracy_and_in_loss(tmp_path, figures, pairs):
    walk = {"coefficients": [0.0, 0.5, 1.0], "test_accuracy": [70, 60, 71], "test_loss": [1.0, 2.0, 1.1]}
    paths = [{"levels": [level, level + 1], **walk} for level in range(pairs)]
    report.plot_connectivity(paths, tmp_path / "c.png")
    assert_shows_something(tmp_path / "c.png")
    assert [len(axes.lines) for axes in figures[0].axes] == [pairs, pairs]


def reliability_bins(correct: float) -> list[dict[str, float]]:
    """15 bins of which the lower ones are empty, as those of trained networks are."""
    return [
        {"images": 10 * n, "correct": round(10 * n * correct), "confidence_sum": 10 * n * n / 15} for n in range(15)
    ]


@pytest.mark.parametrize("methods", [1, 8])
def test_reliability_is_drawn_where_there_are_images(tmp_path, figures, methods):
    series = {f"method {number}": reliability_bins(0.5) for number in range(methods)}
    report.plot_reliability(series, tmp_path / "r.png")
    assert_shows_something(tmp_path / "r.png")
    upper, lower = figures[0].axes
    assert [len(axes.lines) for axes in (upper, lower)] == [methods + 1, methods]
    line = upper.lines[1]
    assert list(line.get_xdata()) == pytest.approx([100 * number / 15 for number in range(1, 15)])
    assert list(line.get_ydata()) == pytest.approx([50] * 14)
    assert sum(lower.lines[0].get_ydata()) == pytest.approx(100)


@pytest.mark.parametrize("methods", [1, 8])
@pytest.mark.parametrize("corruptions", [1, 19])
def test_every_corruption_has_a_bar_for_each_method(tmp_path, figures, corruptions, methods):
    series = {
        f"method {number}": {f"corruption_{place}": 50.0 + number for place in range(corruptions)}
        for number in range(methods)
    }
    report.plot_corruptions(series, tmp_path / "c.png")
    assert_shows_something(tmp_path / "c.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"corruption {n}" for n in range(corruptions)]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [
        [50.0 + number] * corruptions for number in range(methods)
    ]
    assert len({(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in axes.containers}) == methods
    places = sorted(bar.get_y() for bar in axes.patches)
    assert all(after - before > 0.99 * axes.patches[0].get_height() for before, after in pairwise(places))
    assert figures[0].get_figheight() <= 8.5, "it fits a page"


def test_pdf_lies_beside_the_picture_with_fonts_that_publishers_take(tmp_path):
    for name in ("first", "second"):
        report.plot_reliability({"ticket": reliability_bins(1.0)}, tmp_path / f"{name}.png")
    first, second = ((tmp_path / f"{name}.pdf").read_bytes() for name in ("first", "second"))
    assert first.startswith(b"%PDF") and b"/Type3" not in first.replace(b" ", b"")
    assert first == second, "no date in it"
