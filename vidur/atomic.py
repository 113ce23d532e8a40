"""Write files atomically: completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vidur.errors import InputError, OutputError

# Bytes of a probe: a full disk may still accept an empty file.
_PROBE_BYTES = 4096


@contextmanager
def open_atomic(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` when the block ends, and is removed if the block raises.

    Raises OutputError if the operating system refuses to write it.
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
    except BaseException:  # Remove the partial file after Ctrl-C too; the exception is raised again.
        Path(name).unlink()
        raise


def write_text(path: str | Path, text: str) -> None:
    with open_atomic(path) as file:
        file.write(text)


def write_bytes(path: str | Path, data: bytes) -> None:
    with open_atomic(path, "wb") as file:
        file.write(data)


def write_files(folder: Path, files: Mapping[str, Callable[[Path], None]]) -> None:
    """Write files by name. Raises OutputError, naming those that failed, after writing the others.

    A name may be an absolute path.
    """
    failed: dict[str, OSError] = {}
    for name, write in files.items():
        try:
            write(folder / name)
        except OSError as error:
            failed[name] = error
    if failed:
        with suppress(OSError):  # The folder is not empty, or does not exist.
            folder.rmdir()
        reasons = ", ".join(dict.fromkeys(error.strerror or str(error) for error in failed.values()))
        raise OutputError(next(iter(failed.values())).errno, reasons, f"{folder}: {', '.join(failed)}")


def os_reason(error: OSError) -> str:
    """Return the operating system's message with the file: `/full/file: No space left on device`."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def probe_folder(folder: Path) -> None:
    """Create the folder if needed, and write and remove a file in it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def check_writable(folder: str | Path, flag: str) -> None:
    """Raise InputError, naming the flag, unless files can be written to the folder, which is not created."""
    folder = Path(folder)
    try:
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        try:
            probe_folder(folder)
        finally:
            for part in missing:
                with suppress(OSError):  # The folder was not created, or another run uses it by now.
                    part.rmdir()
    except OSError as error:
        raise InputError(f"{flag} {folder}: nothing can be written there ({os_reason(error)})") from None


def check_writable_file(path: str | Path, flag: str) -> None:
    """Raise InputError, naming the flag, unless the file can be written."""
    if Path(path).is_dir():
        raise InputError(f"{flag} {path}: there is a folder of that name, give a file")
    check_writable(Path(path).absolute().parent, flag)
