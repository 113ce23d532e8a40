"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vidur.errors import InputError, OutputError

# Of a probe: a disk that is full may still hold a file of no bytes.
_PROBE_BYTES = 4096


@contextmanager
def open_atomic(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes the name when the block ends, and vanishes if the block raises.

    Raises OutputError where the operating system does not let it be written.
    """
    target = Path(path)
    try:
        with _open_beside(target, mode) as file:
            yield file
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error), str(target)) from error


@contextmanager
def _open_beside(target: Path, mode: str) -> Iterator[IO[Any]]:
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


def write_files(folder: Path, files: Mapping[str, Callable[[Path], None]]) -> None:
    """Write each of the files, by name. Raises OutputError, of all that failed, after the others are written.

    A name may be an absolute path, of a file elsewhere.
    """
    failed: dict[str, OSError] = {}
    for name, write in files.items():
        try:
            write(folder / name)
        except OSError as error:
            failed[name] = error
    if failed:
        with suppress(OSError):  # It holds something, or was never made.
            folder.rmdir()
        reasons = ", ".join(dict.fromkeys(error.strerror or str(error) for error in failed.values()))
        raise OutputError(next(iter(failed.values())).errno, reasons, f"{folder}: {', '.join(failed)}")


def os_reason(error: OSError) -> str:
    """Return what the operating system says, with the file: `/full/file: No space left on device`."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def probe_folder(folder: Path) -> None:
    """Make the folder if need be, and write and remove a file in it. Raises OSError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def check_writable(folder: str | Path, flag: str) -> None:
    """Raise InputError, naming the flag, unless files can be written to the folder; make none that is not there."""
    folder = Path(folder)
    try:
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        try:
            probe_folder(folder)
        finally:
            for part in missing:
                with suppress(OSError):  # Not made above, or another run writes there by now.
                    part.rmdir()
    except OSError as error:
        raise InputError(f"{flag} {folder}: nothing can be written there ({os_reason(error)})") from None


def check_writable_file(path: str | Path, flag: str) -> None:
    """As `check_writable`, for a file."""
    if Path(path).is_dir():
        raise InputError(f"{flag} {path}: there is a folder of that name, give a file")
    check_writable(Path(path).absolute().parent, flag)
