"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def open_atomic(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes the name when the block ends, and vanishes if the block raises."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    binary = "b" in mode
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, mode, encoding=None if binary else "utf-8", newline=None if binary else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:  # Ctrl-C too leaves no partial file behind; whatever it is goes on up.
        Path(name).unlink()
        raise


def write_text(path: str | Path, text: str) -> None:
    with open_atomic(path) as file:
        file.write(text)


def write_bytes(path: str | Path, data: bytes) -> None:
    with open_atomic(path, "wb") as file:
        file.write(data)
