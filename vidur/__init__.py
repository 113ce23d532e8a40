"""A simulator of LLM serving clusters, with microsoft/vidur's behaviour and command line."""

from __future__ import annotations

__version__ = "0.1.0"
