"""Locate the package's data files and its cache folders."""

from __future__ import annotations

import functools
import grp
import logging
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vidur
from vidur.atomic import os_reason, probe_folder

logger = logging.getLogger(__name__)


def data_path(name: str) -> Path:
    """Return a file or folder of `data/`, beside the package or in the installed package `vidur_data`."""
    root = Path(vidur.__file__).resolve().parent.parent
    for base in (root / "data", root / "vidur_data"):
        if base.is_dir():
            return base / name
    raise FileNotFoundError(f"the data folder of vidur is missing beside {root}")


def cache_root() -> Path | None:
    """Return the root of all caches: $VIDUR_CACHE_DIR, $XDG_CACHE_HOME/vidur or ~/.cache/vidur.

    None if neither variable is set and the user has no home folder.
    """
    if base := os.environ.get("VIDUR_CACHE_DIR"):
        return Path(base)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "vidur"
    try:
        return Path.home() / ".cache" / "vidur"
    except RuntimeError:  # No HOME and no entry in the user database, as in many containers.
        return None


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning to stderr unless this process has given it before."""
    logger.warning("%s", text)


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Turn an OSError of the block, which reads or writes a cache, into one warning."""
    try:
        yield
    except OSError as error:
        warn_once(
            f"{what} cannot be kept for the next run ({os_reason(error)}): set VIDUR_CACHE_DIR to a writable folder"
        )


def cache_folder(name: str, what: str) -> Path | None:
    """Return a folder of the cache, creating it if needed; None, with a warning, if it is not writable.

    what: its contents, for the warning, as `Compiled kernels`.
    """
    root = cache_root()
    if root is None:
        warn_once(f"{what} cannot be kept for the next run (there is no home folder): set VIDUR_CACHE_DIR to a folder")
        return None
    folder = root / name
    with optional(what):
        for part in reversed((folder, *folder.parents)):
            part.mkdir(mode=0o700, exist_ok=True)
        probe_folder(folder)
        return folder
    return None


def writable_by_others(folder: Path) -> Path | None:
    """Return the folder, or the nearest parent, in which another user could put files; None if there is none.

    Root does not count as another user. Parents with the sticky bit, as /tmp, are safe, and so are groups without other
    members.
    """
    folder = folder.resolve()
    for part in (folder, *folder.parents):
        status = part.stat()
        mode = status.st_mode
        shared = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _is_own_group(status.st_gid))
        sticky = mode & stat.S_ISVTX and part != folder
        if status.st_uid not in (0, os.getuid()) or (shared and not sticky):
            return part
    return None


def _is_own_group(number: int) -> bool:
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return user.pw_gid == number and set(group.gr_mem) <= {user.pw_name}
