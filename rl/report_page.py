"""A page of the learning router's tools: sections of charts and tables, in one HTML file that works offline."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from vidur.metrics.report import place, write_page
from vidur.metrics.report_charts import Chart


class Page:
    """A heading over labelled facts (texts), then sections in the order in which they are added."""

    def __init__(self, title: str, facts: Sequence[tuple[str, str]]) -> None:
        rows = "".join(f"<dt>{html.escape(label)}</dt><dd>{html.escape(text)}</dd>" for label, text in facts)
        self._title = title
        self._parts = [f"<header><h1>{html.escape(title)}</h1><dl>{rows}</dl></header>", "<main>"]
        self._charts: list[Chart] = []

    def add(self, markup: str) -> None:
        self._parts.append(markup)

    def add_section(self, title: str, charts: Sequence[Chart] = (), before: str = "") -> None:
        """before: HTML above the charts."""
        places = []
        for chart in charts:
            places.append(place(chart, len(self._charts)))
            if chart.has_data:
                self._charts.append(chart)
        shown = f"<div class='charts'>{''.join(places)}</div>" if places else ""
        self.add(f"<section><h2>{html.escape(title)}</h2>{before}{shown}</section>")

    def write(self, path: Path) -> None:
        write_page(path, self._title, "\n".join([*self._parts, "</main>"]), self._charts)


def cards(figures: Sequence[tuple[str, str, str]]) -> str:
    """Key figures, each a label, a value and a note."""
    shown = "".join(
        f"<div class='card'><span>{html.escape(label)}</span><strong>{html.escape(value)}</strong>"
        f"<small>{html.escape(note)}</small></div>"
        for label, value, note in figures
    )
    return f"<div class='cards'>{shown}</div>"


def paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)
