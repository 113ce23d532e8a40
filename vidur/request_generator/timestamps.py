"""Parse timestamps like 2023-11-16 18:15:46.6805900 or 2024-05-10T00:00:00.009930+00:00, to the nanosecond."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from vidur.request_generator.request_table import IntArray

# Years that a 64-bit count of nanoseconds since 1970 can hold; a time without a zone is in UTC.
INSTANT = re.compile(
    r"\s*((?:19|20|21)\d\d-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)\s*(Z|UTC|[+-]\d\d:?\d\d)?\s*", re.ASCII
)
UTC = (None, "Z", "UTC", "+00:00", "+0000")


def parse_instants(texts: Sequence[str]) -> IntArray:
    """Return nanoseconds since 1970 for each text. Raises ValueError if one is not a timestamp."""
    instants, offsets = [], []
    for text in texts:
        match = INSTANT.fullmatch(text)
        if match is None:
            raise ValueError(text)
        instants.append(match[1])
        offsets.append(0 if match[2] in UTC else _offset_seconds(match[2]))
    nanoseconds = np.array(instants, dtype="datetime64[ns]").astype(np.int64)
    result: IntArray = nanoseconds - np.array(offsets, dtype=np.int64) * 1_000_000_000
    return result


def parse_instant(text: str) -> int:
    return int(parse_instants([text])[0])


def _offset_seconds(zone: str) -> int:
    seconds = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
    return -seconds if zone[0] == "-" else seconds
