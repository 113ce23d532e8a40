"""Read ServeGen's client files: each client's rate and burstiness in windows of time, and its lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidur.documents import parse_json
from vidur.errors import InputError
from vidur.request_generator.request_table import FloatArray, IntArray
from vidur.request_generator.trace_file import open_trace, shipped_trace

SHAPES = ("Gamma", "Weibull")


@dataclass(frozen=True)
class Client:
    """A client: in each window, a renewal process; lengths independent of one another."""

    rates: FloatArray  # [windows] requests per second
    shapes: tuple[tuple[str, float], ...]  # of each window: distribution of the intervals, its shape
    input_quantiles: FloatArray  # [any number] tokens at equally spaced probabilities from 0 to 1
    output_quantiles: FloatArray  # likewise


def read_clients(path: str, flag: str) -> tuple[list[Client], float]:
    """Return the clients that have lengths, and the seconds of a window. Raises InputError naming file and client."""
    path = shipped_trace(path)
    with open_trace(path, flag) as file:
        document = parse_json("".join(file.lines), path)
    entries = document.get("clients") if isinstance(document, dict) else None
    seconds = _number(document.get("window_seconds"), f"{path}: window_seconds") if entries else 0.0
    if not isinstance(entries, list) or not seconds:
        raise InputError(f"{path}: expected an object with window_seconds and clients, as the files made of ServeGen's")
    clients = [_client(entry, f"{path}: clients[{index}]") for index, entry in enumerate(entries)]
    kept = [client for client in clients if len(client.input_quantiles) and len(client.output_quantiles)]
    if not kept or not all(len(client.rates) == len(kept[0].rates) for client in kept):
        raise InputError(f"{path}: needs clients with quantiles, all of as many windows")
    return kept, seconds


def _client(entry: Any, where: str) -> Client:
    windows = entry.get("windows") if isinstance(entry, dict) else None
    if not isinstance(windows, list) or not windows:
        raise InputError(f"{where}: expected an object with windows and quantiles")
    rates, shapes = [], []
    for index, window in enumerate(windows):
        spot = f"{where}.windows[{index}]"
        if not isinstance(window, list) or len(window) < 4:
            raise InputError(f"{spot}: expected [rate, cv, distribution, shape, scale], not {str(window)[:60]}")
        rates.append(_number(window[0], f"{spot}[0]"))
        if rates[-1] and (window[2] not in SHAPES or not _number(window[3], f"{spot}[3]")):
            raise InputError(f"{spot}: expected Gamma or Weibull and a shape above 0, not {str(window[2:4])[:60]}")
        shapes.append((window[2], float(window[3])) if rates[-1] else ("Gamma", 1.0))
    quantiles = entry.get("quantiles") or {}
    names = ("input_tokens", "output_tokens")
    inputs, outputs = (_quantiles(quantiles.get(name, []), f"{where}.quantiles.{name}") for name in names)
    return Client(np.array(rates), tuple(shapes), inputs, outputs)


def _quantiles(values: Any, where: str) -> FloatArray:
    if not isinstance(values, list) or len(values) == 1:
        raise InputError(f"{where}: expected a list of at least two lengths")
    array = np.array([_number(value, where) for value in values], np.float64)
    if (np.diff(array) < 0).any():
        raise InputError(f"{where}: expected lengths in ascending order")
    return array


def _number(value: Any, where: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1e12:
        return float(value)
    raise InputError(f"{where}: {str(value)[:60]} is not a number of at least 0")


def draw_requests(
    client: Client, generator: np.random.Generator, begin: float, end: float, seconds: float, scale: float
) -> tuple[FloatArray, IntArray, IntArray]:
    """Draw a client's arrivals from `begin` to `end` seconds of its file, and their prompt and output tokens.

    The windows are repeated when they run out. scale: multiplies the rates; the intervals keep their variation.
    """
    times = []
    for window in range(math.floor(begin / seconds), math.ceil(end / seconds)):
        index = window % len(client.rates)
        start, stop = max(begin, window * seconds), min(end, (window + 1) * seconds)
        if rate := client.rates[index] * scale:
            times.append(start + _renewals(generator, *client.shapes[index], rate * (stop - start)) / rate)
    arrivals = np.concatenate([np.zeros(0), *times])
    lengths = []
    for quantiles in (client.input_quantiles, client.output_quantiles):
        drawn = np.interp(generator.random(len(arrivals)), np.linspace(0, 1, len(quantiles)), quantiles)
        lengths.append(np.maximum(np.rint(drawn), 1).astype(np.int64))
    return arrivals - begin, lengths[0], lengths[1]


def _renewals(generator: np.random.Generator, distribution: str, shape: float, end: float) -> FloatArray:
    """Return the times before `end` of a stationary renewal process with intervals of mean 1.

    The interval under way at 0 is met in proportion to its length: it is drawn from x f(x) instead of the density f(x),
    and a uniform part of it is left. So the mean number of renewals is `end`, however bursty they are.
    """
    weibull = distribution == "Weibull"
    mean = math.gamma(1 + 1 / shape) if weibull else shape

    def intervals(power: float, count: int) -> FloatArray:
        drawn = generator.standard_gamma(power, count)
        return np.asarray((drawn ** (1 / shape) if weibull else drawn) / mean)

    first = intervals(1 + 1 / shape if weibull else shape + 1, 1) * generator.random()
    times = [first]
    while times[-1][-1] < end:
        count = int(1.2 * (end - times[-1][-1])) + 16
        times.append(times[-1][-1] + np.cumsum(intervals(1.0 if weibull else shape, count)))
    joined = np.concatenate(times)
    return joined[: np.searchsorted(joined, end)]
