"""The record of a simulation: its metrics, and data for the report's charts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidur.compare.figures import TIMES, Figures, Objectives, counted_requests, figures_of, outstanding
from vidur.engine.recording import FINISHED, Recording
from vidur.metrics.latency import latencies
from vidur.metrics.timeline import binned_mean, time_edges
from vidur.observation import Floats

# Probabilities at which the quantiles of TTFT, TPOT and E2E are recorded, dense in the tail.
PROBABILITIES = np.array([*np.linspace(0.0, 0.9, 37), *np.linspace(0.91, 0.99, 9), 0.995, 0.999, 1.0])
# Upper bounds of the prompt classes, in tokens; a last class has none.
PROMPT_CLASSES = (128, 512, 2048, 8192)
# Time bins of the chart of each replica's load.
_BINS = 60
_DIGITS = 5


@dataclass(frozen=True, eq=False)
class CellRecord:
    """The record of one simulation.

    figures: those of vidur.compare.figures.figures_of; nan if undefined. quantiles: for `ttft`, `tpot` and `e2e`,
    float64[len(PROBABILITIES)], seconds, of counted requests that finished; empty if none.
    load_edges: float64[B + 1], seconds; load: float64[R, B], mean outstanding requests of each replica per bin.
    placements: int64[R, len(PROMPT_CLASSES) + 1], requests of each replica by prompt class; a request counts for its
    last replica. seconds: wall-clock time of the simulation.
    """

    figures: Figures
    quantiles: Mapping[str, Floats]
    load_edges: Floats
    load: Floats
    placements: NDArray[np.int64]
    seconds: float

    @classmethod
    def of(cls, recording: Recording, objectives: Objectives, speeds: Floats, seconds: float) -> CellRecord:
        """Make a record. speeds: float64[R], of the replicas. seconds: wall-clock time."""
        requests, num_replicas = recording.requests, len(recording.replicas["num_blocks"])
        times = latencies(recording, counted_requests(recording) & (requests["status"] == FINISHED))
        edges = time_edges(recording, _BINS)
        load = np.zeros((num_replicas, len(edges) - 1))
        for replica in range(num_replicas):
            changed, level = outstanding(recording, replica)
            load[replica] = binned_mean(changed[:-1], changed[1:], level[:-1], edges)
        classes = len(PROMPT_CLASSES) + 1
        size = np.searchsorted(PROMPT_CLASSES, requests["num_prefill_tokens"], side="left")
        placed = requests["replica"] >= 0
        cells = requests["replica"][placed] * classes + size[placed]
        return cls(
            figures=figures_of(recording, objectives, speeds),
            quantiles={name: _quantiles(times[name]) for name in TIMES},
            load_edges=edges,
            load=load,
            placements=np.bincount(cells, minlength=num_replicas * classes).reshape(num_replicas, classes),
            seconds=seconds,
        )

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values: figures exact, chart data with five digits."""
        return {
            "figures": {name: None if math.isnan(value) else value for name, value in self.figures.items()},
            "quantiles": {name: _rounded(values) for name, values in self.quantiles.items()},
            "load_edges": _rounded(self.load_edges),
            "load": [_rounded(row) for row in self.load],
            "placements": self.placements.tolist(),
            "seconds": round(self.seconds, 4),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> CellRecord:
        """Return the inverse of `to_document`. Raises KeyError, TypeError or ValueError for another document."""
        return cls(
            figures={
                str(name): math.nan if value is None else float(value) for name, value in document["figures"].items()
            },
            quantiles={name: np.array(document["quantiles"][name], np.float64) for name in TIMES},
            load_edges=np.array(document["load_edges"], np.float64),
            load=np.array(document["load"], np.float64),
            placements=np.array(document["placements"], np.int64),
            seconds=float(document["seconds"]),
        )


def _quantiles(values: Floats) -> Floats:
    present = values[~np.isnan(values)]
    return np.quantile(present, PROBABILITIES) if len(present) else np.zeros(0)


def _rounded(values: Floats) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
