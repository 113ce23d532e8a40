"""A table of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidur.report.markup import Markup, markup


@dataclass(frozen=True)
class Table:
    """A table of texts or Markup: `num_texts` text columns, then number columns.

    title: names its download; the section's title if empty. sortable: a click on a heading sorts by the column's
    numbers, respecting units.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_texts: int = 1
    title: str = ""
    sortable: bool = True

    def html(self) -> Markup:
        """Return the table as HTML; the page's script adds sorting and download."""
        attributes = (f' data-title="{markup(self.title)}"' if self.title else "") + " data-fixed" * (not self.sortable)
        head, *lines = (
            "<tr>" + "".join(self._cell(tag, column, text) for column, text in enumerate(row)) + "</tr>"
            for tag, row in [("th", self.names), *(("td", row) for row in self.rows)]
        )
        return Markup(f"<table{attributes}><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>")

    def _cell(self, tag: str, column: int, text: str) -> str:
        return f"<{tag}{'' if column < self.num_texts else ' class=number'}>{markup(text)}</{tag}>"
