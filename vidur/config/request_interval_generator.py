"""Configurations of interval generators: when synthetic requests arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import PolyConfig, setting


@dataclass(frozen=True)
class BaseRequestIntervalGeneratorConfig(PolyConfig):
    type_flag: ClassVar[str] = "interval_generator_config_type"

    seed: int = setting(42, help="seed of the arrivals", minimum=0)

    @property
    def mean_gap(self) -> float:
        """The mean interval times `qps`, which the generators that have that setting are to keep."""
        return 1.0


@dataclass(frozen=True)
class TraceRequestIntervalGeneratorConfig(BaseRequestIntervalGeneratorConfig):
    type_name: ClassVar[str] = "trace"
    description: ClassVar[str] = "arrivals of a trace file between two instants"

    trace_file: str = setting(
        "data/processed_traces/AzureFunctionsInvocationTraceForTwoWeeksJan2021Processed.csv",
        help="CSV with the column arrival_time",
    )
    start_time: str = setting("1970-01-04 12:00:00", help="arrivals after this instant")
    end_time: str = setting("1970-01-04 15:00:00", help="arrivals before this instant")
    time_scale_factor: float = setting(1.0, help="multiplies the intervals", minimum=0)


@dataclass(frozen=True)
class PoissonRequestIntervalGeneratorConfig(BaseRequestIntervalGeneratorConfig):
    type_name: ClassVar[str] = "poisson"
    description: ClassVar[str] = "independent arrivals at a constant rate"

    qps: float = setting(0.5, help="requests per second, over the whole cluster", above=0)

    @property
    def mean_gap(self) -> float:
        return 1.0 - math.exp(-3.0)  # Exponential intervals are cut at three times their mean.


@dataclass(frozen=True)
class GammaRequestIntervalGeneratorConfig(BaseRequestIntervalGeneratorConfig):
    type_name: ClassVar[str] = "gamma"
    description: ClassVar[str] = "gamma-distributed intervals: bursty above a coefficient of variation of 1"

    qps: float = setting(0.2, help="requests per second, over the whole cluster", above=0)
    cv: float = setting(0.5, help="coefficient of variation of the intervals", above=0)


@dataclass(frozen=True)
class SwingRequestIntervalGeneratorConfig(BaseRequestIntervalGeneratorConfig):
    """Poisson arrivals with the rate qps (1 + amplitude sin(2 pi (t / period + phase))) at t seconds."""

    type_name: ClassVar[str] = "swing"
    description: ClassVar[str] = "independent arrivals at a rate that rises and falls, as over a day"

    qps: float = setting(0.5, help="mean requests per second of a period, over the whole cluster", above=0)
    amplitude: float = setting(
        0.5, help="amplitude of the rate as a fraction of its mean: 0.5 swings between 0.5 and 1.5 times the mean",
        minimum=0, below=1,
    )  # fmt: skip
    period: float = setting(86400.0, help="seconds from one peak to the next", above=0)
    phase: float = setting(
        0.0, help="where in the period arrivals begin: 0 at the mean, rising; 0.25 at the peak; 0.75 at the trough",
        minimum=0, below=1,
    )  # fmt: skip


@dataclass(frozen=True)
class StaticRequestIntervalGeneratorConfig(BaseRequestIntervalGeneratorConfig):
    type_name: ClassVar[str] = "static"
    description: ClassVar[str] = "every request arrives at time 0"
