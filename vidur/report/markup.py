"""Mark strings that are HTML already."""

from __future__ import annotations

import html


class Markup(str):
    """HTML that a page includes unchanged; other strings are escaped."""

    __slots__ = ()


def markup(text: str) -> Markup:
    """Escape a text unless it is markup."""
    return text if isinstance(text, Markup) else Markup(html.escape(text))
