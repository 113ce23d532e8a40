"""A page: heading, facts, key figures, and sections of charts and tables."""

from __future__ import annotations

import base64
import html
import importlib.util
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from vidur.atomic import write_text
from vidur.report.chart import Chart
from vidur.report.markup import Markup, markup
from vidur.report.table import Table

Part: TypeAlias = "Chart | Table | str"
FOLDER = Path(__file__).parent


class Page:
    """A page in one HTML file that works offline, including plotly.js.

    facts: labelled texts below the heading. warnings: shown first. style, script, data: additions of this page; its
    script reads the text `data[name]` with `unpack(name)`.
    """

    def __init__(
        self,
        title: str,
        facts: Sequence[tuple[str, str]] = (),
        warnings: Sequence[str] = (),
        style: str = "",
        script: str = "",
        data: Mapping[str, str] | None = None,
    ) -> None:
        self.title = title
        self._facts = "".join(f"<dt>{markup(label)}</dt><dd>{markup(text)}</dd>" for label, text in facts)
        self._warnings = "".join(f"<p class='warning'>{markup(text)}</p>" for text in warnings)
        self._style, self._script, self._data = style, script, dict(data or {})
        self._parts: list[str] = []
        self._charts: list[Chart] = []

    def add_cards(self, figures: Iterable[tuple[str, str, str]]) -> None:
        """Add key figures, each a label, a value and a note."""
        cards = "".join(
            f"<div class='card'><span>{markup(label)}</span><strong>{markup(value)}</strong>"
            f"<small>{markup(note)}</small></div>"
            for label, value, note in figures
        )
        self._parts.append(f"<div class='cards'>{cards}</div>")

    def add_section(self, title: str, *parts: Part, tools: str = "") -> None:
        """Add a section. Successive charts form a grid; a string becomes a paragraph. tools: HTML controls."""
        bar = f"<div class='bar'>{tools}</div>" if tools else ""
        shown = [
            f"<div class='charts'>{''.join(map(self._shown, group))}</div>" if kind is Chart
            else "".join(map(self._shown, group))
            for kind, group in groupby(parts, type)
        ]  # fmt: skip
        self._parts.append(f"<section><h2>{markup(title)}</h2>{bar}{''.join(shown)}</section>")

    def _shown(self, part: Part) -> str:
        if isinstance(part, Table):
            return f"<div class='table'><div class='scroll'>{part.html()}</div></div>"
        if isinstance(part, str):
            return part if isinstance(part, Markup) else f"<p>{html.escape(part)}</p>"
        if part.has_data:
            self._charts.append(part)
        return part.figure(f"chart{len(self._charts) - 1}")

    def html(self) -> str:
        """Return the whole page."""
        charts = [{"data": chart.data, "layout": chart.layout} for chart in self._charts]
        data = {"plotly": _plotly(), **self._data}
        packed = "".join(
            f"<script type='text/plain' id='{name}'>{_pack(text)}</script>\n" for name, text in data.items()
        )
        title, style = html.escape(self.title), shared("theme.css", "page.css") + self._style
        return (
            "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width, initial-scale=1'>"
            f"<title>{title}</title>\n<style>{style}</style></head>\n<body>\n"
            f"<header><div class='top'><h1>{title}</h1></div><dl>{self._facts}</dl></header>\n"
            "<main>" + "\n".join([self._warnings, *self._parts]) + "</main>\n"
            f"<script type='application/json' id='charts'>{_json(charts)}</script>\n{packed}"
            f"<script>{shared('theme.js', 'page.js')}{self._script}</script>\n</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page atomically."""
        write_text(path, self.html())

    def _repr_html_(self) -> str:
        """Return the page within a notebook's cell."""
        return f"<iframe srcdoc='{html.escape(self.html())}' style='width:100%;height:800px;border:0'></iframe>"


def page_path(output: str) -> Path:
    """Return the path of a tool's page: report.html in the folder `output`, or `output` if it names a file."""
    path = Path(output)
    return path if path.suffix else path / "report.html"


def command(name: str, text: str) -> Markup:
    """Return a command line with a button that copies it. name: the id of its element."""
    button = f"<button class='button' type='button' data-of='{name}'>copy</button>"
    return Markup(f"<div class='command'>{button}<pre id='{name}'>{html.escape(text)}</pre></div>")


def _json(value: Any) -> str:
    """Return JSON that is safe inside a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _pack(text: str) -> str:
    """Compress to half the size; a higher level takes a quarter of a second to save another tenth."""
    return base64.b64encode(zlib.compress(text.encode(), 1)).decode()


def shared(*names: str) -> str:
    """Return the texts of the kit's style sheets or scripts: theme.css, page.css, theme.js, page.js."""
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


def with_shared(page: str) -> str:
    """Insert the kit's files into a page at a comment that names them: `/* theme.css page.css */`."""
    return re.sub(r"/\* ((?:(?:theme|page)\.(?:css|js) ?)+)\*/", lambda match: shared(*match[1].split()), page)


def _plotly() -> str:
    """Return plotly.js of the installed package without importing it, which takes long."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None and spec.origin is not None, "plotly is a dependency"
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
