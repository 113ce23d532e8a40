"""Measure a cluster's capacity: the greatest arrival rate that it can sustain."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from vidur.atomic import write_text
from vidur.compare.executor import Executor, Failure
from vidur.compare.version import code_version
from vidur.compare.workload import require_rate, reseeded, with_rate
from vidur.config import (
    ArrivingRequestGeneratorConfig,
    ClusterConfig,
    LeastTokensGlobalSchedulerConfig,
    PoissonRequestIntervalGeneratorConfig,
    SimulationConfig,
    SyntheticRequestGeneratorConfig,
    TimeCostGlobalSchedulerConfig,
)
from vidur.data_files import cache_folder, optional
from vidur.engine.recording import FINISHED, Recording
from vidur.errors import InputError
from vidur.observation import Floats
from vidur.request_generator import RequestTable, generate_requests
from vidur.simulator import Simulator

# Requests of a measurement: a minimum, so that their mean length matches the workload's, and a number per replica. The
# same requests arrive in several rounds, so outstanding requests grow between rounds only if the cluster falls behind.
_REQUESTS, _REQUESTS_EACH, _ROUNDS = 8000, 500, 4
_SEED = 0
# A cluster keeps up if, in the second half of the rounds, outstanding requests grow by at most this part of arrivals.
_GROWTH = 0.01
# The relative width at which the bisection stops.
_PRECISION = 0.005
# Of sessions: their requests in a measurement, the relative width, and samples of a quarter of it. The rate of sessions
# is known less well, as their number is smaller.
_SESSION_REQUESTS, _SESSIONS_PRECISION, _SAMPLES = 6000, 0.02, 200
_WIDEN = 1.15
_WHAT = "Measured capacities"


def capacity(config: SimulationConfig) -> float:
    """Return the greatest arrival rate, requests/s, that a configuration's cluster keeps up with.

    Measured once by `measure_capacity` and cached on disk. Raises InputError if the requests are not synthetic, or the
    cluster can serve none of them.
    """
    require_rate(config)
    return Capacities().of(config)


def measure_capacity(config: SimulationConfig) -> float:
    """Return the greatest rate of Poisson arrivals that the cluster keeps up with, requests/s.

    Bisects from the saturated throughput, under least_tokens. For requests whose content is known: under time_cost,
    with the caches; in sessions per second where sessions arrive. Raises InputError if the cluster can serve none.
    """
    config = _essential(config)
    workload = config.request_generator_config
    assert isinstance(workload, ArrivingRequestGeneratorConfig)
    requests = generate_requests(with_rate(workload, 1.0))
    if requests.content is not None:
        first = _saturated_sessions(config, requests)
        return _bisect(lambda rate: _keeps_up_with_sessions(config, rate), first, _SESSIONS_PRECISION)
    return _bisect(lambda rate: _keeps_up(config, requests, rate), saturated_throughput(config, requests), _PRECISION)


def _bisect(keeps_up: Callable[[float], bool], first: float, precision: float) -> float:
    """Return the greatest rate that `keeps_up`, to a relative `precision`, searched for from `first` on."""
    low = high = first
    if keeps_up(low):
        while keeps_up(high):
            low, high = high, _WIDEN * high
    else:
        while not keeps_up(low):
            low, high = low / _WIDEN, low
    while high / low > 1.0 + precision:
        middle = math.sqrt(low * high)
        if keeps_up(middle):
            low = middle
        else:
            high = middle
    return low


def _saturated_sessions(config: SimulationConfig, requests: RequestTable) -> float:
    """Return a first guess of the rate of sessions: completions per second when all arrive at once, over the requests
    of a session."""
    recorded = _run(config, replace(requests, arrived_at=np.zeros(len(requests))))
    ends = recorded.requests["completed_at"][recorded.requests["status"] == FINISHED]
    if len(ends) < 8 or np.ptp(ends) == 0.0:
        raise InputError("the capacity cannot be measured: no replica of the cluster holds requests of these lengths")
    return middle_rate(ends) * len(requests.first_turns_at()) / len(requests)


def _keeps_up_with_sessions(config: SimulationConfig, rate: float) -> bool:
    """Whether outstanding requests do not grow from the second to the last quarter of the time in which sessions begin,
    by more than a part of the requests that arrive between."""
    workload = config.request_generator_config
    assert isinstance(workload, ArrivingRequestGeneratorConfig)
    requests = generate_requests(with_rate(workload, rate))
    recorded = _run(config, requests).requests
    if (recorded["status"] != FINISHED).all():
        return False
    end = float(requests.first_turns_at()[-1])
    arrivals, ends = np.sort(recorded["arrived_at"]), np.sort(recorded["completed_at"])
    times = np.linspace(0.0, end, 4 * _SAMPLES, endpoint=False)
    outstanding = (np.searchsorted(arrivals, times) - np.searchsorted(ends, times)).reshape(4, _SAMPLES).mean(axis=1)
    between = np.searchsorted(arrivals, 0.875 * end) - np.searchsorted(arrivals, 0.375 * end)
    return bool(outstanding[3] - outstanding[1] <= _GROWTH * between)


def _run(config: SimulationConfig, requests: RequestTable) -> Recording:
    simulator = Simulator(config, requests)
    recorded = simulator.run().recording
    if simulator.interrupted:
        raise KeyboardInterrupt
    return recorded


def saturated_throughput(config: SimulationConfig, requests: RequestTable) -> float:
    """Return completions per second when all requests arrive at once, over the middle half of the completions.

    Raises InputError if the cluster can serve none of them.
    """
    ends = _completions(config, requests, np.zeros(len(requests)))
    ends = ends[np.isfinite(ends)]
    if len(ends) < 8 or np.ptp(ends) == 0.0:
        raise InputError("the capacity cannot be measured: no replica of the cluster holds requests of these lengths")
    return middle_rate(ends)


def middle_rate(ends: Floats) -> float:
    """Return completions per second over the middle half of the completion times."""
    ends = np.sort(ends)
    quarter = len(ends) // 4
    return float((len(ends) - 2 * quarter - 1) / (ends[-1 - quarter] - ends[quarter]))


def _keeps_up(config: SimulationConfig, requests: RequestTable, rate: float) -> bool:
    """Whether the cluster keeps up with `rate`. requests: one round, whose gaps are scaled to the rate."""
    gaps = np.diff(requests.arrived_at, prepend=0.0)
    arrived_at = np.cumsum(np.tile(gaps / (gaps.mean() * rate), _ROUNDS))
    ends = _completions(config, requests, arrived_at)
    begin, end = arrived_at[len(arrived_at) // 2 - 1], arrived_at[-1]
    completions = np.count_nonzero((ends > begin) & (ends <= end))
    return bool(completions >= (1.0 - _GROWTH) * (len(arrived_at) // 2))


def _completions(config: SimulationConfig, requests: RequestTable, arrived_at: Floats) -> Floats:
    """Return the completion times of the repeated requests; inf if never completed."""
    rounds = len(arrived_at) // len(requests)
    prompts, outputs = np.tile(requests.num_prefill_tokens, rounds), np.tile(requests.num_decode_tokens, rounds)
    table = RequestTable.of(arrived_at, prompts, outputs, "capacity")
    recorded = _run(config, table)
    return np.where(recorded.requests["status"] == FINISHED, recorded.requests["completed_at"], np.inf)


def _essential(config: SimulationConfig) -> SimulationConfig:
    """Reduce a configuration to what the capacity depends on: replicas and requests, with least_tokens, or time_cost
    where contents are known, Poisson arrivals and no events."""
    given, workload = config.cluster_config, config.request_generator_config
    assert isinstance(workload, ArrivingRequestGeneratorConfig)
    synthetic = isinstance(workload, SyntheticRequestGeneratorConfig)
    least = _REQUESTS if synthetic else _SESSION_REQUESTS
    cluster = ClusterConfig(
        num_replicas=given.num_replicas,
        replica_config=given.replica_config,
        global_scheduler_config=LeastTokensGlobalSchedulerConfig() if synthetic else TimeCostGlobalSchedulerConfig(),
        replica_scheduler_config=given.replica_scheduler_config,
        replica_groups=given.replica_groups,
    )
    return SimulationConfig(
        seed=_SEED,
        cluster_config=cluster,
        request_generator_config=reseeded(
            dataclasses.replace(workload, interval_generator_config=PoissonRequestIntervalGeneratorConfig()),
            _SEED,
            max(least, _REQUESTS_EACH * given.num_replicas),
        ),
        execution_time_predictor_config=config.execution_time_predictor_config,
        metrics_config=dataclasses.replace(config.metrics_config, write_metrics=False),
    )


class Capacities:
    """Measured capacities, cached on disk by configuration and code version."""

    def __init__(self) -> None:
        self._folder = cache_folder("capacity", _WHAT)
        self._known: dict[str, float] = {}

    def of(self, config: SimulationConfig) -> float:
        """Return the capacity in requests/s, measuring it if it is not cached. Raises InputError."""
        key = _key(config)
        cached = self._load(key)
        return self._keep(key, measure_capacity(config)) if cached is None else cached

    def measure(
        self, configs: Mapping[str, SimulationConfig], executor: Executor, on_finished: Callable[[int], None]
    ) -> None:
        """Measure capacities that are not cached. `on_finished(count)` reports progress, cached ones first.

        Raises InputError, naming the configuration, if a cluster can serve none of its requests.
        """
        names: dict[str, list[str]] = {}
        for name, config in configs.items():
            names.setdefault(_key(config), []).append(name)
        missing = [key for key in names if self._load(key) is None]
        on_finished(len(configs) - sum(len(names[key]) for key in missing))
        jobs = [configs[names[key][0]] for key in missing]
        for index, outcome in executor.run(measure_capacity, jobs):
            key = missing[index]
            if isinstance(outcome, Failure):
                raise InputError(f"{names[key][0]}: {outcome.error}")
            self._keep(key, outcome)
            on_finished(len(names[key]))

    def _load(self, key: str) -> float | None:
        if key not in self._known:
            if self._folder is None:
                return None
            try:
                document = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
                self._known[key] = float(document["requests_per_second"])
            except (OSError, ValueError, KeyError, TypeError):
                return None
        return self._known[key]

    def _keep(self, key: str, value: float) -> float:
        if self._folder is not None:
            with optional(_WHAT):
                write_text(self._folder / f"{key}.json", json.dumps({"requests_per_second": value}) + "\n")
        self._known[key] = value
        return value


def _key(config: SimulationConfig) -> str:
    essential = _essential(config)
    version = code_version(essential.cluster_config.global_scheduler_config)
    parts: list[object] = [essential.to_dict(), _ROUNDS, _GROWTH, _PRECISION, _SESSIONS_PRECISION, version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
