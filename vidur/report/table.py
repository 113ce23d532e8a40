"""A table of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidur.report.markup import Markup, markup


@dataclass(frozen=True)
class Table:
    """Headings over rows of texts or Markup: the first `num_texts` columns are texts, the others numbers.

    title: names the file of its download, where that of the section would not do. sortable: a click on a heading sorts
    by the numbers of its column, with their units.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_texts: int = 1
    title: str = ""
    sortable: bool = True

    def html(self) -> Markup:
        """Return the table as HTML; a page's script adds the sorting and the download."""
        attributes = (f' data-title="{markup(self.title)}"' if self.title else "") + " data-fixed" * (not self.sortable)
        head, *lines = (
            "<tr>" + "".join(self._cell(tag, column, text) for column, text in enumerate(row)) + "</tr>"
            for tag, row in [("th", self.names), *(("td", row) for row in self.rows)]
        )
        return Markup(f"<table{attributes}><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>")

    def _cell(self, tag: str, column: int, text: str) -> str:
        return f"<{tag}{'' if column < self.num_texts else ' class=number'}>{markup(text)}</{tag}>"
