"""Length distributions of `data/workloads/*.json`: quantiles of prompt and output tokens and their rank correlation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidur.data_files import data_path
from vidur.documents import parse_json
from vidur.errors import InputError, unknown_name
from vidur.request_generator.request_table import FloatArray, IntArray


@dataclass(frozen=True)
class QuantileTable:
    """Quantiles of prompt and output tokens at the same probabilities, and Spearman's correlation of the two."""

    probabilities: FloatArray  # ascending from 0 to 1
    prefill_quantiles: FloatArray  # tokens, at least 1, not descending
    decode_quantiles: FloatArray  # likewise
    rank_correlation: float  # in [-1, 1]

    def sample(self, count: int, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Draw `count` pairs of lengths from a Gaussian copula through each distribution's inverse.

        Normal variables of correlation 2 sin(pi * rho / 6) have the rank correlation rho (Pearson, 1907). The inverse
        is interpolated linearly, and lengths are rounded. The first pairs do not depend on `count`.
        """
        normal = generator.standard_normal((count, 2))
        correlation = 2.0 * math.sin(math.pi * self.rank_correlation / 6.0)
        normal[:, 1] = correlation * normal[:, 0] + math.sqrt(max(0.0, 1.0 - correlation**2)) * normal[:, 1]
        uniform = _normal_cdf(normal)
        prefill = np.interp(uniform[:, 0], self.probabilities, self.prefill_quantiles)
        decode = np.interp(uniform[:, 1], self.probabilities, self.decode_quantiles)
        return np.floor(prefill + 0.5).astype(np.int64), np.floor(decode + 0.5).astype(np.int64)


def load_quantile_table(distribution: str, flag: str) -> QuantileTable:
    """Return the table of a name in data/workloads, or of a file (with a slash or the ending .json).

    Raises InputError naming `flag` if there is none, or the file if it is malformed.
    """
    if "/" in distribution or "\\" in distribution or distribution.endswith(".json"):
        path = Path(distribution)
    else:
        shipped = {file.stem: file for file in data_path("workloads").glob("*.json")}
        if distribution not in shipped:
            raise unknown_name(f"{flag} (a name in data/workloads, or a .json file)", distribution, shipped)
        path = shipped[distribution]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{flag}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    return parse_quantile_table(parse_json(text, str(path)), str(path))


def parse_quantile_table(document: object, path: str) -> QuantileTable:
    """Return the table of a JSON document. Raises InputError, naming the file and the entry."""
    if not isinstance(document, Mapping):
        raise InputError(f"{path}: expected an object with probabilities, prefill_tokens and decode_tokens")
    probabilities = _ascending(document.get("probabilities"), f"{path}: probabilities")
    if probabilities[0] != 0.0 or probabilities[-1] != 1.0:
        raise InputError(f"{path}: probabilities must go from 0 to 1")
    quantiles = []
    for name in ("prefill_tokens", "decode_tokens"):
        part = document.get(name)
        values = _ascending(part.get("quantiles") if isinstance(part, Mapping) else None, f"{path}: {name}.quantiles")
        if len(values) != len(probabilities):
            raise InputError(
                f"{path}: {name}.quantiles has {len(values)} values for {len(probabilities)} probabilities"
            )
        if not 1.0 <= values[0] <= values[-1] <= 1e12:
            raise InputError(f"{path}: {name}.quantiles must be lengths of at least 1 token")
        quantiles.append(values)
    correlation = document.get("rank_correlation")
    if isinstance(correlation, bool) or not isinstance(correlation, (int, float)) or not -1 <= correlation <= 1:
        raise InputError(f"{path}: rank_correlation must be a number from -1 to 1, not {correlation!r}")
    return QuantileTable(probabilities, quantiles[0], quantiles[1], float(correlation))


def _ascending(values: Any, where: str) -> FloatArray:
    numbers = isinstance(values, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numbers or len(values) < 2:
        raise InputError(f"{where} must be a list of at least two numbers")
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all() or (np.diff(array) < 0).any():
        raise InputError(f"{where} must be finite and in ascending order")
    return array


def _normal_cdf(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled = (values * -math.sqrt(0.5)).ravel().tolist()
    return 0.5 * np.fromiter(map(math.erfc, scaled), np.float64, values.size).reshape(values.shape)
