"""Errors that a user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input. The message is one line that names the culprit (a flag, or a file and row) and the remedy."""


class OutputError(OSError):
    """Results that cannot be written: number, reason and files, as in OSError. The message is one line."""

    def __str__(self) -> str:
        return f"{self.filename} could not be written: {self.strerror}"


def known_name(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that equals `name`, else the only one that differs in case alone, else None."""
    names = set(valid)
    if name in names:
        return name
    alike = [other for other in names if other.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def unknown_name(kind: str, name: str, valid: Iterable[str], remedy: str = "") -> InputError:
    """Return the error for an invalid name, with the nearest valid names, all of them, and a further remedy."""
    names = sorted(valid)
    hint = did_you_mean(name, names)
    return InputError(f"unknown {kind} '{name}': {hint and hint + '? '}valid: {', '.join(names)}{remedy}")


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `did you mean` with valid names similar to `name`, without a question mark; empty if there are none."""
    near = difflib.get_close_matches(name, sorted(valid), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}" if near else ""
