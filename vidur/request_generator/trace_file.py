"""Read the rows of a trace file, CSV or JSON lines, keeping their line numbers."""

from __future__ import annotations

import csv
import difflib
import gzip
import itertools
import json
import operator
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from vidur.data_files import data_path
from vidur.errors import InputError
from vidur.request_generator.request_table import FloatArray, IntArray
from vidur.request_generator.timestamps import parse_instant, parse_instants

MOST = 1e12  # the largest time in seconds or number of tokens; more suggests a wrong unit
REFUSED = (ValueError, TypeError, OverflowError)  # errors of a conversion


@dataclass(frozen=True)
class TraceRows:
    """Columns by name: text from CSV, any JSON values from JSON lines (None if missing)."""

    path: str
    lines: list[int]  # of each row, from 1
    columns: dict[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.lines)

    def refusal(self, row: int, column: str, why: str) -> InputError:
        """Return the error for a value; `row` counts from 0."""
        value = self.columns[column][row]
        value = value.tolist() if isinstance(value, array) else value
        shown = "nothing" if value is None or value == "" else repr(value)[:60]
        return InputError(f"{self.path}, row {self.lines[row]}, column {column}: {shown} is not {why}")

    def numbers(self, column: str, minimum: float, blank: str | None = None) -> FloatArray:
        """Return a column's numbers, `blank` for missing ones, also of the whole column, unless it is None.

        Raises InputError for the first that is invalid, too small or above MOST.
        """
        expected = f"a number of at least {minimum:g}"
        if blank is None:
            values = self.columns[column]
        else:
            values = [value or blank for value in self.columns.get(column, [blank] * len(self))]
        try:
            numbers = np.fromiter(map(float, values), np.float64, len(values))
        except REFUSED:
            raise self.refusal(_first_refused(float, values), column, expected) from None
        wrong = ~((numbers >= minimum) & (numbers <= MOST))
        if wrong.any():
            row = int(np.argmax(wrong))
            too_much = MOST < numbers[row] < np.inf
            raise self.refusal(row, column, f"below {MOST:g}: is its unit right?" if too_much else expected)
        return numbers

    def integers(self, column: str, blank: int) -> IntArray:
        """Return a column's integers, `blank` for missing ones. Raises InputError for the first that is invalid."""
        values = [blank if value is None or value == "" else value for value in self.columns[column]]
        try:
            return np.fromiter(map(_integer, values), np.int64, len(values))
        except REFUSED:
            raise self.refusal(_first_refused(_integer, values), column, "an integer") from None

    def instants(self, column: str) -> IntArray:
        """Return a column's timestamps in nanoseconds since 1970. Raises InputError for the first that is invalid."""
        values = self.columns[column]
        try:
            return parse_instants(values)
        except REFUSED:
            row = _first_refused(parse_instant, values)
            raise self.refusal(row, column, "a time like 2023-11-16 18:15:46.68") from None


def _first_refused(parse: Callable[[Any], object], values: Sequence[Any]) -> int:
    for row, value in enumerate(values):
        try:
            parse(value)
        except REFUSED:
            return row
    raise AssertionError("every value can be read")


def _integer(value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.strip().lstrip("+-").isdigit() else float(value)
    if number != int(number) or not -(2**63) <= number < 2**63:
        raise ValueError(value)
    return int(number)


class TraceLines(NamedTuple):
    """The lines of a file from the first nonblank one."""

    lines: Iterator[str]  # that first one included
    first: str
    row: int  # of the first, from 1


def shipped_trace(name: str) -> str:
    """Return the path of the trace of that name in data/traces; any other name is a path itself."""
    found = list(data_path("traces").glob(f"{name}.*")) if name.isidentifier() and not Path(name).exists() else []
    return str(found[0]) if found else name


@contextmanager
def open_trace(path: str, flag: str) -> Iterator[TraceLines]:
    """Open a text file (.gz: compressed) with any line endings, with or without a byte-order mark.

    Raises InputError, naming the file or its flag, if it cannot be read or is empty.
    """
    try:
        with _open(path) as file:
            for row, first in enumerate(file, 1):
                if first.strip():
                    yield TraceLines(itertools.chain([first], file), first, row)
                    return
            raise InputError(f"{path} is empty: {flag} needs a trace")
    except FileNotFoundError:
        raise InputError(f"{flag}: there is no file {path}: name a trace file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: {flag} needs a CSV or JSON-lines trace") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{flag}: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _open(path: str) -> IO[str]:
    if path.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return Path(path).open(encoding="utf-8-sig", newline="")


def read_csv_columns(path: str, flag: str, names: Sequence[str]) -> TraceRows:
    """Return the named columns of a CSV file."""
    with open_trace(path, flag) as file:
        return csv_rows(path, file, names)


def csv_rows(
    path: str, file: TraceLines, required: Sequence[str], optional: Sequence[str] = (), limit: int | None = None
) -> TraceRows:
    """Return the first `limit` rows of a CSV file, with optional columns if present, without blank lines.

    Raises InputError if a column is missing, a row is not as wide as the header, or there are no rows.
    """
    reader = csv.reader(file.lines, strict=True)
    lines: list[int] = []
    cells: list[Any] = []
    try:
        header = next(reader)
        places = find_columns(path, file.row, header, required, optional)
        pick = operator.itemgetter(*places.values())
        for row in reader:
            if len(row) != len(header) or not any(row):
                if not any(map(str.strip, row)):
                    continue
                expected = f"{len(header)} fields, as in its header, not {len(row)}"
                raise InputError(f"{path}, row {reader.line_num + file.row - 1}: expected {expected}")
            lines.append(reader.line_num + file.row - 1)
            cells.append(pick(row))
            if len(lines) == limit:
                break
    except csv.Error as error:
        raise InputError(f"{path}, row {reader.line_num + file.row - 1}: not CSV: {error}") from None
    if not lines:
        raise InputError(f"{path} has a header and no requests")
    columns = zip(*cells, strict=True) if len(places) > 1 else [cells]
    return TraceRows(path, lines, dict(zip(places, columns, strict=True)))


def json_rows(
    path: str, file: TraceLines, names: Sequence[str], limit: int | None = None, integers: str | None = None
) -> TraceRows:
    """Return the named entries of the first `limit` objects of a JSON-lines file.

    integers: an entry whose lists are returned as arrays, a fifth as large, if they are of 64-bit integers. Raises
    InputError for a line that is not an object.
    """
    lines: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for number, line in enumerate(file.lines, file.row):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise InputError(f"{path}, row {number}: expected a JSON object on a line of its own")
        lines.append(number)
        for name, column in columns.items():
            column.append(_compact(entry.get(name)) if name == integers else entry.get(name))
        if len(lines) == limit:
            break
    return TraceRows(path, lines, dict(columns))


def _compact(value: Any) -> Any:
    """Return a list of integers as an array; anything else as it is."""
    if not isinstance(value, list) or not all(type(element) is int for element in value):
        return value
    try:
        return array("q", value)
    except OverflowError:
        return value


def find_columns(
    path: str, row: int, header: Sequence[str], required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, int]:
    """Return the indices of columns in a header, ignoring case. Raises InputError if a required one is missing."""
    places = {text.strip().lower(): index for index, text in reversed(list(enumerate(header)))}
    for name in required:
        if name.lower() not in places:
            raise missing_column(path, row, header, name, required)
    return {name: places[name.lower()] for name in (*required, *optional) if name.lower() in places}


def missing_column(path: str, row: int, header: Sequence[str], name: str, required: Sequence[str]) -> InputError:
    """Return the error for a missing column, suggesting the most similar one."""
    texts = [text.strip()[:40] for text in header]
    nearest = max(texts, key=lambda text: likeness(name, text), default="")
    hint = f"is it '{nearest}'? " if likeness(name, nearest) >= 0.6 else ""
    return InputError(f"{path}, row {row}: column '{name}' is missing: {hint}needed: {', '.join(required)}")


def likeness(name: str, second: str) -> float:
    """Return the similarity of two names, from 0 to 1, ignoring case."""
    return difflib.SequenceMatcher(None, name.lower(), second.lower()).ratio()
