"""A run's results as one web page that needs no other file and no network: report.html."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from utils.checkpoint import write_text
from utils.report import Table

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
pre, .wide { overflow-x: auto; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #8886; white-space: nowrap; }
th { border-bottom-width: 2px; }
.flags th, .flags td { text-align: left; font-weight: normal; }
.flags td + td { white-space: normal; overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; max-width: 100%; }
img { max-width: 100%; background: white; } figcaption { max-width: 30rem; }
summary { cursor: pointer; margin: .5rem 0; }
"""


@dataclass
class Page:
    """What a page shows: a title, how it came about, a table with notes below it, and pictures.

    `description` is what `utils.provenance.describe_run` says; `sources` maps titles to the same of the files that the
    results are from. Pictures are pairs of a caption and a PNG file; `details` are folded away.
    """

    title: str
    description: Mapping[str, Any]
    table: Table
    notes: Sequence[str] = ()
    pictures: Sequence[tuple[str, Path]] = ()
    details: Sequence[tuple[str, Path]] = ()
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_page(page: Page, path: Path) -> None:
    """Write `page` as one HTML file, everything that it shows included. UserError where the folder is not writable."""
    write_text("\n".join(_page_lines(page)) + "\n", path)


def _page_lines(page: Page) -> Iterator[str]:
    title, versions = escape(page.title), page.description["versions"]
    yield f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>"
    yield f"<pre>{escape(str(versions['command']))}</pre>"
    yield from _table_lines(*page.table)
    yield from (f"<p>{escape(note)}</p>" for note in page.notes)
    yield from _picture_lines("Pictures", page.pictures)
    if page.details:
        yield f"<details><summary>{len(page.details)} more pictures</summary>"
        yield from _picture_lines("Searches and lines between tickets", page.details)
        yield "</details>"
    yield "<h2>Settings and versions</h2>"
    for name, values in {"of this command": page.description, **page.sources}.items():
        yield f"<details><summary>{escape(name)}</summary>"
        for part in ("settings", "versions"):
            rows = [(name, _words(value)) for name, value in values.get(part, {}).items()]
            yield from _table_lines((part, ""), rows, kind="flags")
        yield "</details>"
    yield "</body>\n</html>"


def _words(value: Any) -> str:
    """A setting as one gives it on a command line."""
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table_lines(header: Sequence[object], rows: Sequence[Sequence[object]], kind: str = "") -> Iterator[str]:
    yield f'<div class="wide"><table class="{kind}">'
    for tag, cells in (("th", header), *(("td", row) for row in rows)):
        yield f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
    yield "</table></div>"


def _picture_lines(title: str, pictures: Sequence[tuple[str, Path]]) -> Iterator[str]:
    yield f'<h2>{title}</h2>\n<div class="pictures">'
    for caption, path in pictures:
        png, text = path.read_bytes(), escape(caption)
        width = int.from_bytes(png[16:20], "big") // 2  # of its header; a printer has more dots than a screen
        image = f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" width="{width}" alt="{text}">'
        yield f"<figure>{image}<figcaption>{text}</figcaption></figure>"
    yield "</div>"
