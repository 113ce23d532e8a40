"""Where the shipped data files lie."""

from __future__ import annotations

from pathlib import Path

import vidur


def data_path(name: str) -> Path:
    """The file or folder `name` of `data/`: beside the package, or in package `vidur_data` where it is installed."""
    root = Path(vidur.__file__).resolve().parent.parent
    for base in (root / "data", root / "vidur_data"):
        if base.is_dir():
            return base / name
    raise FileNotFoundError(f"the data folder of vidur is missing beside {root}")
