"""Format numbers for people; a missing value is a dash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NOTHING = "-"


class Unit(NamedTuple):
    """A unit of time, and how many of it make a second."""

    name: str
    per_second: float


SECONDS = Unit("s", 1.0)
MILLISECONDS = Unit("ms", 1e3)


def time_unit(seconds: Iterable[float | None]) -> Unit:
    """Return the unit in which the largest time is at least 1, or milliseconds."""
    largest = max((abs(value) for value in seconds if value is not None), default=0.0)
    return SECONDS if largest >= 1.0 else MILLISECONDS


def significant(value: float | None, digits: int = 3) -> str:
    """Round to significant digits, without an exponent, with commas between thousands."""
    if value is None:
        return NOTHING
    rounded = float(f"{value:.{digits}g}") if abs(value) < 10**digits else float(round(value))
    if rounded == 0:
        return "0"
    decimals = max(0, digits - len(str(int(abs(rounded))))) if abs(rounded) >= 1 else digits
    while decimals < 12 and float(f"{rounded:.{decimals}f}") != rounded:
        decimals += 1
    return f"{rounded:,.{decimals}f}"


def in_seconds(value: float | None) -> str:
    """Format a time with its unit."""
    if value is None:
        return NOTHING
    unit = time_unit([value])
    return f"{significant(value * unit.per_second)} {unit.name}"


def percent(fraction: float | None, decimals: int = 1) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.{decimals}f} %"


def plural(count: int, noun: str, ending: str = "s") -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else ending)
