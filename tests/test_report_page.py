"""report.html: it shows what there is, needs no other file, and takes nothing for HTML that is none."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import SMALL
from matplotlib.figure import Figure
from script_runs import write_pools

from CIFAR import Lottery_pools, evaluate
from utils.figures import write
from utils.report_page import Page, write_page

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects texts, images and attributes, and checks that what is opened is closed."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.texts, self.images, self.addresses = [], [], {}, []
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("src", "href", "action") if name in attributes]
        if tag == "img":
            self.images[attributes["alt"]] = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


DESCRIPTION = {"settings": {"arch": "resnet18"}, "versions": {"command": "evaluate.py a", "torch": "2.9"}}


def test_page_shows_everything_and_asks_for_nothing(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG first")
    (tmp_path / "b.png").write_bytes(b"\x89PNG second")
    page = Page(
        "Title",
        DESCRIPTION,
        (["level", "gain"], [["0", "+1.5"], ["1", "−2"]]),
        ["a note"],
        [("first", tmp_path / "a.png")],
        [("second", tmp_path / "b.png")],
        {"of SWA": {"settings": {"seed": 7}, "versions": {"numpy": "2.4"}}},
    )
    write_page(page, tmp_path / "report.html")
    found = Reader(tmp_path / "report.html")
    shown = ("Title", "evaluate.py a", "level", "+1.5", "−2", "a note", "first", "second", "arch", "resnet18", "2.9")
    for text in (*shown, "of SWA", "seed", "7", "numpy", "2.4"):
        assert text in found.texts
    assert found.images == {"first": b"\x89PNG first", "second": b"\x89PNG second"}
    assert all(address.startswith("data:") for address in found.addresses)
    content = (tmp_path / "report.html").read_text()
    assert "light dark" in content and "@import" not in content and not re.search(r"https?:|url\(", content)


def test_nothing_that_a_file_says_becomes_html(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    hostile = '<script>alert("1")</script>&amp;\''
    described = {"settings": {hostile: hostile}, "versions": {"command": hostile, hostile: [hostile]}}
    page = Page(
        hostile,
        described,
        ([hostile], [[hostile]]),
        [hostile],
        [(hostile, tmp_path / "a.png")],
        [(hostile, tmp_path / "a.png")],
        {hostile: described},
    )
    write_page(page, tmp_path / "report.html")
    assert "<script" not in (tmp_path / "report.html").read_text()
    found = Reader(tmp_path / "report.html")
    assert found.texts.count(hostile) == 19, "title twice, command, table, note, captions, flags"
    assert [*found.images] == [hostile]


@pytest.mark.pictures
def test_pictures_are_half_as_wide_as_they_have_pixels(tmp_path):
    figure = Figure(figsize=(3.3, 1))
    write(figure, tmp_path / "a.png", pdf=False)
    write_page(Page("Title", DESCRIPTION, ([], []), pictures=[("a", tmp_path / "a.png")]), tmp_path / "report.html")
    assert 'width="495"' in (tmp_path / "report.html").read_text()


def test_settings_read_as_on_a_command_line(tmp_path):
    settings = {"levels": [0, 2], "data_url": None, "amp": False}
    write_page(Page("Title", {**DESCRIPTION, "settings": settings}, ([], [])), tmp_path / "report.html")
    texts = Reader(tmp_path / "report.html").texts
    assert {"0 2", "False"} <= {*texts} and "None" not in texts


@pytest.mark.pictures
def test_page_of_recorded_pools_has_their_table_searches_and_lines(small_tickets, capsys):
    flags = [*SMALL, "--checkpoint", str(small_tickets), "--interpolation_value_list", "0.3", "0.7", "--quiet"]
    Lottery_pools.main([*flags, "--levels", "0", "1"])
    Lottery_pools.main([*flags, "--interpolate_method", "linear_inter", "--pairs", "all"])
    pools, lines = (small_tickets / "pools" / f"{method}_0.3_0.7" for method in ("Lottery_pools", "linear_inter"))
    capsys.readouterr()
    evaluate.main([str(pools)])
    folder = small_tickets / "pools"
    found = Reader(folder / "report.html")
    files = [folder / "accuracy.png", folder / "gain.png"]
    files += [
        *(pools / f"search_level{level}.png" for level in (0, 1)),
        lines / "connectivity.png",
        lines / "barriers.png",
    ]
    assert [*found.images.values()] == [path.read_bytes() for path in files]
    for cell in capsys.readouterr().out.splitlines()[2].split():
        assert cell in found.texts
    assert "cifar_resnet_8_4" in found.texts, "the settings of the search"
    assert str(pools) in found.text and "report.html" not in found.texts


@pytest.mark.pictures
def test_page_of_scored_networks_has_their_pictures(small_tickets):
    images = [*SMALL[:4], "--device", "cpu", "--arch", "cifar_resnet_8_4"]
    evaluate.main([str(small_tickets), *images])
    found = Reader(small_tickets / "report.html")
    files = [small_tickets / f"{name}.png" for name in ("accuracy", "reliability")]
    assert [*found.images.values()] == [path.read_bytes() for path in files], "no gain without pools"
    assert {"NLL", "Brier", "cifar_resnet_8_4"} <= {*found.texts}


@pytest.mark.parametrize("versions", [None, "text", []])
def test_versions_that_are_none_are_refused(fails, tmp_path, versions):
    path = write_pools(tmp_path / "pools", "SWA", {0: (70.0, 71.0)}) / "pools.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "versions": versions}))
    assert str(path) in fails(evaluate, path)
