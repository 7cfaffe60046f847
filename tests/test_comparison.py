"""Recorded pools side by side: which belong to one run, means and deviations over runs, and what is refused."""

import csv
import json
from pathlib import Path
from statistics import mean, stdev

import pytest
from conftest import snapshot
from script_runs import assert_shows_something, write_pools

from CIFAR import evaluate
from utils import comparison, pool_results, report
from utils.errors import UserError


@pytest.fixture
def seeds(tmp_path) -> list[Path]:
    """Two methods on the tickets of two seeds, levels 0 and 1, and one of them on a third seed's."""
    numbers = {1: ((70.0, 71.0), (69.0, 71.5)), 2: ((70.5, 71.2), (69.4, 71.0)), 3: ((70.1, 72.0), (69.1, 70.0))}
    return [
        write_pools(tmp_path / f"seed{seed}" / label, label, dict(enumerate(numbers[seed])), seed)
        for label, count in (("SWA", 3), ("average", 2))
        for seed in range(1, count + 1)
    ]


def read(folder: Path) -> tuple[dict, list[dict]]:
    summary = json.loads((folder / "comparison.json").read_text())["summary"]
    with (folder / "comparison.csv").open(newline="") as file:
        return {(row["method"], row["level"]): row for row in summary}, list(csv.DictReader(file))


def test_seeds_become_mean_and_deviation(seeds, tmp_path, capsys):
    evaluate.main([*map(str, seeds), "--save_dir", str(tmp_path / "out")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    summary, rows = read(tmp_path / "out")
    pools, tickets = [71.5, 71.0, 70.0], [69.0, 69.4, 69.1]
    assert summary["SWA", 1]["accuracy"] == {"mean": mean(pools), "deviation": stdev(pools)}
    gains = [pool - ticket for pool, ticket in zip(pools, tickets, strict=True)]
    assert summary["SWA", 1]["gain"] == {"mean": mean(gains), "deviation": stdev(gains)}
    assert summary["ticket", 1]["accuracy"] == {"mean": mean(tickets), "deviation": stdev(tickets)}
    assert summary["ticket", 1]["gain"] is None
    assert [summary[name, 0]["runs"] for name in ("ticket", "SWA", "average")] == [3, 3, 2]
    assert float(rows[1]["SWA"]) == mean(pools) and float(rows[1]["SWA deviation"]) == stdev(pools)
    assert float(rows[1]["SWA gain"]) == mean(gains) and float(rows[1]["SWA gain deviation"]) == stdev(gains)
    assert float(rows[1]["ticket % deviation"]) == stdev(tickets)
    assert lines[3] == f"1 80.00 {mean(tickets):.2f} ± 0.21 70.83 ± 0.76 71.25 ± 0.35".split()
    assert lines[5] == ["runs", "3", "2"]


def test_a_pools_json_may_have_any_name_and_place(seeds, tmp_path, capsys):
    evaluate.main([*map(str, seeds), "--save_dir", str(tmp_path / "folders")])
    copies = [(folder / "pools.json").rename(tmp_path / f"{number}.json") for number, folder in enumerate(seeds)]
    table = capsys.readouterr().out.splitlines()[:-1]
    evaluate.main([*map(str, copies), "--save_dir", str(tmp_path / "files")])
    assert capsys.readouterr().out.splitlines()[:-1] == table
    assert (tmp_path / "files" / "comparison.csv").read_text() == (tmp_path / "folders" / "comparison.csv").read_text()


def test_mean_gain_deviates_over_runs_and_not_over_levels(seeds, tmp_path, capsys):
    evaluate.main([*map(str, seeds[:3]), "--save_dir", str(tmp_path / "out")])
    gains = [mean(pair) for pair in ((1.0, 2.5), (0.7, 1.6), (1.9, 0.9))]
    printed = capsys.readouterr().out
    assert f"mean gain  {mean(gains):+.2f} ± {stdev(gains):.2f}" in printed and "share" not in printed


def test_pictures_have_a_band_and_a_line_at_zero(seeds, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(report.figures, "write", lambda figure, path: drawn.update({path.name: figure}))
    comparison.compare(pool_results.read_all(seeds), tmp_path)
    accuracy, gain = (drawn[name].axes[0] for name in ("accuracy.png", "gain.png"))
    assert len(accuracy.collections) == 3 and len(gain.collections) == 2
    zero, *lines = gain.lines
    assert list(zero.get_ydata()) == [0, 0]
    assert list(lines[0].get_xdata()) == pytest.approx([100, 80])
    assert lines[0].get_ydata()[1] == pytest.approx(mean([2.5, 1.6, 0.9]))
    assert [line.get_color() for line in lines] == [line.get_color() for line in accuracy.lines[1:3]]
    band = gain.collections[0].get_paths()[0].vertices
    deviation = stdev([2.5, 1.6, 0.9])
    heights = [height for place, height in band if place == pytest.approx(80)]
    assert max(heights) - min(heights) == pytest.approx(2 * deviation)


def test_mean_gains_are_over_the_starts_that_all_methods_share(tmp_path, capsys):
    whole = write_pools(tmp_path / "whole", "SWA", {0: (70.0, 71.0), 1: (69.0, 71.5), 2: (60.0, 61.5)})
    part = write_pools(tmp_path / "part", "average", {1: (69.0, 69.5), 2: (60.0, 61.0), 3: (50.0, 58.0)})
    evaluate.main([str(whole), str(part), "--save_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert ["mean", "gain", "+2.00", "+0.75"] in [line.split() for line in printed.splitlines()]
    note = "mean gain: over the 2 of 4 starts that all methods share"
    assert f"\n{note}\n" in printed and note in (tmp_path / "out/report.html").read_text()
    assert "\nrows and pictures: each method over the starts that it has, which are not the same for all\n" in printed


def test_runs_on_other_images_are_no_runs_of_one_experiment(tmp_path):
    folders = [
        write_pools(tmp_path / digest, "SWA", {0: (70.0, 71.0)}, seed, images={"test": 9, "digest": digest})
        for seed, digest in enumerate(("one", "other"))
    ]
    with pytest.raises(UserError, match=r"other/pools.json is of other images than .*one/pools.json: they are no runs"):
        evaluate.main([*map(str, folders), "--save_dir", str(tmp_path / "out")])


def test_the_page_of_a_comparison_tells_the_flags_that_it_heeds(tmp_path):
    pools = write_pools(tmp_path / "pools", "SWA", {0: (70.0, 71.0)})
    evaluate.main([str(pools), "--save_dir", str(tmp_path / "out"), "--arch", "resnet50"])
    own = (tmp_path / "out/report.html").read_text().partition("<summary>of this command</summary>")[2]
    own = own.partition("</details>")[0]
    assert f"<td>paths</td><td>{pools}</td>" in own and f"<td>save_dir</td><td>{tmp_path / 'out'}</td>" in own
    assert "<td>arch</td>" not in own and "<td>seed</td>" not in own


def test_mean_gains_are_over_the_runs_that_all_methods_share(seeds, tmp_path, capsys):
    """The third seed has SWA alone."""
    evaluate.main([*map(str, seeds), "--save_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    gains = [mean(pair) for pair in ((1.0, 2.5), (0.7, 1.6))]
    assert printed.count(f"{mean(gains):+.2f} ± {stdev(gains):.2f}") == 2
    assert "over the 4 of 6 starts that all methods share" in printed


def test_without_a_start_in_common_there_is_no_mean_gain(tmp_path, capsys):
    parts = [write_pools(tmp_path / str(level), "SWA", {level: (70.0, 71.0)}) for level in range(2)]
    evaluate.main([*map(str, parts), "--save_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed.count("mean gain") == 1 and "\nno mean gain: there is no start that all methods share\n" in printed


@pytest.mark.pictures
def test_one_run_is_shown_without_deviations(seeds, tmp_path, capsys):
    evaluate.main([str(seeds[0]), str(seeds[3])])
    assert "±" not in (printed := capsys.readouterr().out) and "runs" not in printed
    _, rows = read(seeds[0].parent)
    assert [*rows[0]] == ["level", "density %", "ticket %", "SWA", "average", "SWA gain", "average gain"]
    for name in ("accuracy.png", "gain.png"):
        assert_shows_something(seeds[0].parent / name)
        assert (seeds[0].parent / name).with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_a_folder_named_twice_counts_once(seeds, tmp_path):
    evaluate.main([str(seeds[0]), str(seeds[0] / "pools.json"), "--save_dir", str(tmp_path / "out")])
    assert read(tmp_path / "out")[0]["SWA", 0]["runs"] == 1


def labels(*folders: Path) -> list[tuple[str, int]]:
    return [(results.label, results.run) for results in pool_results.read_all(folders)]


def test_copies_of_one_search_are_no_runs(tmp_path):
    copies = [write_pools(tmp_path / name, "SWA", {0: (70.0, 71.0)}) for name in ("a/pools", "b/pools")]
    assert labels(*copies) == [(f"SWA (pools) ({path})", 0) for path in copies]


def test_searches_of_one_ticket_that_scored_it_differently_are_no_runs(tmp_path):
    """In bfloat16, say; the digest tells that it is the same ticket."""
    searches = [
        write_pools(tmp_path / name, "SWA", {0: (accuracy, 71.0)}, amp=name == "b")
        for name, accuracy in (("a", 70.0), ("b", 70.1))
    ]
    assert labels(*searches) == [("SWA (a)", 0), ("SWA (b)", 0)]


def test_without_digests_tickets_are_told_apart_by_what_they_scored(tmp_path):
    files = [
        write_pools(tmp_path / name, label, {0: (accuracy, 71.0)}, digests=name == "c")
        for name, label, accuracy in (("a", "SWA", 70.0), ("b", "SWA", 70.1), ("c", "average", 70.1))
    ]
    assert labels(*files) == [("SWA", 0), ("SWA", 1), ("average", 1)]


def test_levels_searched_in_folders_of_their_own_are_one_run(tmp_path):
    parts = [write_pools(tmp_path / str(level), "SWA", {level: (70.0, 71.0)}) for level in range(2)]
    assert labels(*parts) == [("SWA (0)", 0), ("SWA (1)", 0)]


def test_folders_without_a_common_start_are_told_apart_by_all_tickets_of_their_runs(tmp_path):
    parts = []
    for seed, label, levels in ((41, "average", (0, 1)), (42, "SWA", (2,)), (41, "SWA", (1, 2))):
        folder = tmp_path / f"{seed} {label}"
        write_pools(folder, label, dict.fromkeys(levels, (70.0, 71.0)), seed)
        content = json.loads((folder / "pools.json").read_text())
        content["tickets"] = [[level, f"{seed} {level}"] for level in range(3)]
        (folder / "pools.json").write_text(json.dumps(content))
        parts.append(folder)
    assert labels(*parts) == [("average", 0), ("SWA", 1), ("SWA", 0)]


@pytest.mark.parametrize(
    "flag, value",
    [("search_num", 5), ("arch", "vgg16_bn"), ("bn_images", 256), ("passes", 2)],
)
def test_runs_of_one_method_with_other_flags_are_refused(fails, seeds, tmp_path, flag, value):
    settings = {"arch": "resnet18", "bn_images": 0, "search_num": 19}
    first, other = (
        write_pools(tmp_path / f"run{seed}", "SWA", {0: (70.0, 71.0)}, seed, **{**settings, **changed})
        for seed, changed in ((1, {}), (2, {flag: value}))
    )
    before = snapshot(tmp_path)
    line = fails(evaluate, first, other)
    assert f"--{flag} {value}" in line and str(first) in line and str(other) in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("tickets", [None, [[0]], [[0, 1]], ["text"], [["0", "text"]]])
def test_digests_that_are_none_are_refused(fails, seeds, tickets):
    path = seeds[0] / "pools.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tickets": tickets}))
    assert str(path) in fails(evaluate, seeds[0])
