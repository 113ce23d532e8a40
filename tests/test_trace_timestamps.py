"""Instants of trace files, to the nanosecond."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.request_generator.timestamps import parse_instant, parse_instants

SECOND = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "seconds", "nanoseconds"),
    [
        ("1970-01-01 00:00:00", 0, 0),
        ("1970-01-02", 86400, 0),
        ("1970-01-01 00:01", 60, 0),
        ("2023-11-16 18:15:46.6805900", 1700158546, 680590000),
        ("2024-05-10 00:00:00.009930+00:00", 1715299200, 9930000),
        ("2024-05-10T00:00:00.123456789Z", 1715299200, 123456789),
        ("2024-05-10 02:00:00+02:00", 1715299200, 0),
        (" 2024-05-09 19:00:00-0500 ", 1715299200, 0),
    ],
)
def test_known_instants(text: str, seconds: int, nanoseconds: int) -> None:
    assert parse_instant(text) == seconds * SECOND + nanoseconds


@given(
    st.lists(
        st.datetimes(
            min_value=datetime(1900, 1, 2),
            max_value=datetime(2199, 12, 30),
            timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
        )
    )
)
def test_what_python_writes_is_read_back(times: list[datetime]) -> None:
    expected = [(time - EPOCH) // timedelta(microseconds=1) * 1000 for time in times]
    assert parse_instants([str(time) for time in times]).tolist() == expected


@pytest.mark.parametrize(
    "text", ["", "now", "NaT", "2023", "2023-11-16 25:00:00", "2023-13-01", "1e9", "9999-01-01", "2023-11-16 1:2:3"]
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_instant(text)
