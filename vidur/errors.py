"""Errors that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input. Its text is one line that names the culprit (a flag, or a file and row) and the remedy."""


class OutputError(OSError):
    """Results that cannot be written: number, reason and files, as of OSError. Its text is one line of the last two."""

    def __str__(self) -> str:
        return f"{self.filename} could not be written: {self.strerror}"


def known_name(name: str, valid: Iterable[str]) -> str | None:
    """`name` as it is among the valid ones; if it is not, the only one that differs from it in capitals alone."""
    names = set(valid)
    if name in names:
        return name
    alike = [other for other in names if other.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def unknown_name(kind: str, name: str, valid: Iterable[str], remedy: str = "") -> InputError:
    """The error for a name that is not among the valid ones: the nearest come first, then all of them, then what else
    helps."""
    names = sorted(valid)
    hint = did_you_mean(name, names)
    return InputError(f"unknown {kind} '{name}': {hint and hint + '? '}valid: {', '.join(names)}{remedy}")


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`did you mean` and the valid names that are near `name`, without a question mark; empty if none is near."""
    near = difflib.get_close_matches(name, sorted(valid), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}" if near else ""
