"""Where the shipped data files lie, and where what is made once is kept."""

from __future__ import annotations

import os
from pathlib import Path

import vidur


def data_path(name: str) -> Path:
    """The file or folder `name` of `data/`: beside the package, or in package `vidur_data` where it is installed."""
    root = Path(vidur.__file__).resolve().parent.parent
    for base in (root / "data", root / "vidur_data"):
        if base.is_dir():
            return base / name
    raise FileNotFoundError(f"the data folder of vidur is missing beside {root}")


def cache_root() -> Path:
    """What is kept between runs lies below $VIDUR_CACHE_DIR, $XDG_CACHE_HOME/vidur or ~/.cache/vidur."""
    base = os.environ.get("VIDUR_CACHE_DIR")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vidur"
