"""The result of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vidur.engine.recording import Columns, Recording
from vidur.metrics.batch_runs import whole_batches

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from plotly.graph_objects import Figure

    from vidur.config import SimulationConfig
    from vidur.engine.plan import HardwarePlan
    from vidur.metrics.itl import TokenLatencies


@dataclass(frozen=True, eq=False, repr=False)
class SimulationResult:
    """The configuration of a run and its recording; tables and the summary are computed on first use.

    hardware: the execution times of each of `config.cluster_config.groups`. workload: the source of the requests, in
    one line. wall_seconds: wall-clock time of the simulation; None leaves it out of the summary.
    """

    config: SimulationConfig
    recording: Recording
    hardware: tuple[HardwarePlan, ...]
    workload: str = ""
    wall_seconds: float | None = None

    @cached_property
    def runs(self) -> Columns:
        """The recorded rows as runs of whole batches; see `vidur.metrics.batch_runs.whole_batches`."""
        return whole_batches(self.recording)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """A row for each request, the columns of request_metrics.csv."""
        from vidur.metrics.frames import request_frame

        return request_frame(self.recording)

    @cached_property
    def batches(self) -> pd.DataFrame:
        """A row for each batch (iteration), the columns of batch_metrics.csv; may be very long."""
        from vidur.metrics.frames import batch_frame

        return batch_frame(self.recording)

    @cached_property
    def replicas(self) -> pd.DataFrame:
        """A row for each replica."""
        from vidur.metrics.frames import replica_frame

        return replica_frame(self.recording)

    @cached_property
    def token_latencies(self) -> TokenLatencies:
        """Inter-token latencies of the finished requests; see `vidur.metrics.itl`."""
        from vidur.metrics.batch_runs import counted_requests
        from vidur.metrics.itl import token_latencies

        metrics = self.config.metrics_config
        counted = counted_requests(self.recording, self.runs, metrics.min_batch_index, metrics.max_batch_index)
        return token_latencies(self.recording, self.runs, counted)

    def itl(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return inter-token latencies in seconds, and the number of tokens with each.

        Empty if batches were not recorded; estimated for preempted requests (vidur.metrics.itl).
        """
        return self.token_latencies.values, self.token_latencies.weights

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The contents of summary.json."""
        from vidur.metrics.summary import summary

        return summary(self)

    def goodput(self, ttft: float | None = None, tpot: float | None = None) -> dict[str, Any]:
        """Return finished requests per second that met the objectives (seconds), and shares of the finished that did.

        Without objectives, `slo_ttft` and `slo_tpot` of the configuration apply; empty if it has none. See
        docs/output.md.
        """
        from vidur.metrics.summary import goodput

        return goodput(self, ttft, tpot)

    def save(self, folder: str | Path) -> None:
        """Write the files that a run of vidur.main writes (docs/output.md) into `folder`. Raises OutputError."""
        from vidur.metrics.writer import write_results

        write_results(self, folder)

    def plot(self) -> Figure:
        """Return a plotly figure of the cumulative distributions of TTFT, TPOT, ITL and E2E."""
        from vidur.metrics.plot import latency_figure

        return latency_figure(self)

    def __repr__(self) -> str:
        from vidur.metrics.console import facts

        shown = dict(facts(self.summary))
        return f"SimulationResult({shown['Requests']}; {shown['Throughput']}; {shown['Cluster']})"

    def _repr_html_(self) -> str:
        """Return the summary as a notebook shows it."""
        from vidur.metrics.notebook import summary_html

        return summary_html(self)
