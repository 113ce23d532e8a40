"""Format columns of numbers as CSV text, column by column: a million rows take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidur.atomic import open_atomic

DECIMALS = 12
"""Decimal places of a float; trailing zeros after the first are left out."""

CHUNK_ROWS = 4096

_GROUP = 10_000
_GROUPS_OF_DECIMALS = DECIMALS // 4
_POWERS = 10 ** np.arange(1, 19, dtype=np.int64)
_DIGITS = (np.arange(_GROUP)[:, None] // np.array([1000, 100, 10, 1]) % 10 + ord("0")).astype(np.uint8)
_FOUR_DIGITS = _DIGITS.view(np.uint32)[:, 0]  # four characters moved as one word
_TRAILING_ZEROS = np.array([4, *(len(str(n)) - len(str(n).rstrip("0")) for n in range(1, _GROUP))], dtype=np.uint8)

Characters = NDArray[np.uint8]
"""(rows, width); zeros are not written."""


def write_csv(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    """Write columns of equal length: integers, floats (nan as an empty field), or byte strings."""
    arrays = list(columns.values())
    num_rows = len(arrays[0])
    with open_atomic(path, "wb") as file:
        file.write(header_line(columns))
        for first in range(0, num_rows, CHUNK_ROWS):
            file.write(format_rows([array[first : first + CHUNK_ROWS] for array in arrays]))


def header_line(names: dict[str, NDArray[Any]] | Sequence[str]) -> bytes:
    return (",".join(names) + "\n").encode()


def format_rows(columns: Sequence[NDArray[Any]]) -> bytes:
    """Return the CSV lines of columns of equal length. Floats are rounded to DECIMALS places."""
    num_rows = len(columns[0])
    parts: list[Characters] = []
    for column in columns:
        parts += _field(column)
        parts.append(np.full((num_rows, 1), ord(","), np.uint8))
    parts[-1][:] = ord("\n")
    lines = np.empty((num_rows, sum(part.shape[1] for part in parts)), np.uint8)
    start = 0
    for part in parts:
        lines[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    return lines.tobytes().translate(None, delete=b"\0")


def _field(column: NDArray[Any]) -> list[Characters]:
    if column.dtype.kind == "S":
        return [np.ascontiguousarray(column).view(np.uint8).reshape(len(column), column.dtype.itemsize)]
    if column.dtype.kind == "f":
        return _float_field(column.astype(np.float64, copy=False))
    values = column.astype(np.int64, copy=False)
    return [_sign(values < 0), _whole_digits(np.abs(values))]


def _float_field(values: NDArray[np.float64]) -> list[Characters]:
    absent = np.isnan(values)
    magnitude = np.abs(np.where(absent, 0.0, values))
    whole = np.floor(magnitude)
    fraction = np.rint((magnitude - whole) * 10.0**DECIMALS).astype(np.int64)
    carried = fraction == 10**DECIMALS
    fraction[carried] = 0
    whole_part = whole.astype(np.int64) + carried
    negative = (values < 0) & ((whole_part > 0) | (fraction > 0))
    point = np.full((len(values), 1), ord("."), np.uint8)
    parts = [_sign(negative), _whole_digits(whole_part), point, _decimal_digits(fraction)]
    for part in parts:
        part[absent] = 0
    return parts


def _sign(negative: NDArray[np.bool_]) -> Characters:
    width = 1 if negative.any() else 0
    return np.where(negative, ord("-"), 0).astype(np.uint8)[:, None][:, :width]


def _whole_digits(values: NDArray[np.int64]) -> Characters:
    """Return digits without leading zeros; 0 has one digit."""
    num_digits = (np.searchsorted(_POWERS, values, side="right") + 1).astype(np.uint8)
    groups = -(-int(num_digits.max(initial=1)) // 4)
    digits = _grouped_digits(values, groups)[0]
    digits *= np.arange(4 * groups, 0, -1, dtype=np.uint8) <= num_digits[:, None]
    return digits


def _decimal_digits(values: NDArray[np.int64]) -> Characters:
    """Return DECIMALS digits without trailing zeros, but at least one."""
    digits, groups = _grouped_digits(values, _GROUPS_OF_DECIMALS)
    zeros = np.zeros(len(values), np.uint8)
    only_zeros_so_far = np.ones(len(values), np.bool_)
    for group in groups:
        zeros += _TRAILING_ZEROS[group] * only_zeros_so_far
        only_zeros_so_far &= group == 0
    num_digits = np.maximum(DECIMALS - zeros, 1).astype(np.uint8)
    digits *= np.arange(DECIMALS, dtype=np.uint8) < num_digits[:, None]
    return digits


def _grouped_digits(values: NDArray[np.int64], num_groups: int) -> tuple[Characters, list[NDArray[np.int64]]]:
    """Return the last 4 * num_groups decimal digits, and each group of four as a number, last group first."""
    digits = np.empty((len(values), num_groups), np.uint32)
    groups: list[NDArray[np.int64]] = []
    rest = values
    for index in range(num_groups - 1, -1, -1):
        rest, group = np.divmod(rest, _GROUP)
        digits[:, index] = _FOUR_DIGITS[group]
        groups.append(group)
    return digits.view(np.uint8), groups
