"""A window holds what happened around decisions of one simulation, from which rewards are computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl.router.features import F_AWAITING
from rl.simulate.rollout import Rollout, RunningSimulation
from vidur.observation import DECODE_SECONDS, SPEED, Floats

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """T successive decisions of one simulation of N requests on R replicas. Times are in seconds.

    decided_at [T + 1]: the last is the next decision, or the end of the simulation. Interval i lasts from decision i to
    the next. costs [T, COST_PARTS]: the growth of the cost of all requests by each decision, with their true output
    lengths (vidur.engine.foresight); its sum over a simulation is the simulation's cost. outstanding [T, R]: requests
    before each decision; actions int64[T]; waiting [T + 1, R]: outstanding requests without a first token at each
    decision and at the next. speeds [R]: relative to the fastest. arrived_at, first_token_at, completed_at [N]: nan if
    it has not happened; prompt_tokens, output_tokens int64[N]. beta: weight of TTFT. time_unit: a decode iteration of
    the fastest replica.
    """

    decided_at: Floats
    costs: Floats
    outstanding: Floats
    actions: Ints
    waiting: Floats
    speeds: Floats
    arrived_at: Floats
    first_token_at: Floats
    completed_at: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    beta: float
    time_unit: float

    def __len__(self) -> int:
        return len(self.costs)

    @classmethod
    def of(cls, rollout: Rollout, simulation: RunningSimulation) -> Window:
        """Copy the window of a rollout that `simulation` has just made."""
        engine = simulation.engine
        count = len(rollout)
        decided_at = rollout.decided_at[: count + 1].copy()
        if rollout.ended:
            decided_at[count] = engine.clock.ended_at
        return cls(
            decided_at=np.maximum.accumulate(decided_at),
            costs=rollout.costs[:count],
            outstanding=rollout.outstanding[:count],
            actions=rollout.actions[:count],
            # A feature is log(1 + requests).
            waiting=np.rint(np.expm1(rollout.features[: count + 1, :, F_AWAITING].astype(np.float64))),
            speeds=engine.books.hardware[:, SPEED].copy(),
            arrived_at=engine.requests["arrived_at"].copy(),
            first_token_at=engine.requests["first_token_at"].copy(),
            completed_at=engine.requests["completed_at"].copy(),
            prompt_tokens=engine.requests["prompt"].copy(),
            output_tokens=engine.requests["output"].copy(),
            beta=simulation.beta,
            time_unit=float(engine.books.hardware[:, DECODE_SECONDS].min()),
        )

    @property
    def e2e(self) -> Floats:
        """End-to-end latency [N], nan where a request is not complete."""
        return self.completed_at - self.arrived_at

    @property
    def ttft(self) -> Floats:
        return self.first_token_at - self.arrived_at

    @property
    def tpot(self) -> Floats:
        """Mean time per output token after the first [N]; nan for a request of one token."""
        after = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        return (self.completed_at - self.first_token_at) / after

    def sums(self, moments: Floats, values: Floats) -> tuple[float, Floats]:
        """Sum the values [N] of events at `moments` [N]: before the window, and in each interval [T]."""
        happened = moments <= self.decided_at[-1]
        # An event at the instant of a decision belongs to the interval after it, except at the end of a simulation.
        interval = np.minimum(np.searchsorted(self.decided_at, moments[happened], side="right"), len(self))
        totals = np.bincount(interval, values[happened], len(self) + 1).astype(np.float64, copy=False)
        return float(totals[0]), totals[1:]

    def lifetime_sums(self, moments: Floats, values: Floats) -> Floats:
        """Sum the values [N] of all events at `moments` [N] up to the end of each interval [T]."""
        before, sums = self.sums(moments, values)
        lifetime: Floats = before + np.cumsum(sums)
        return lifetime

    def requests_in_system(self) -> Floats:
        """Integrate over each interval [T] the number of requests that have arrived and are not complete."""
        complete = self.completed_at[~np.isnan(self.completed_at)]
        area = _area(self.arrived_at, self.decided_at) - _area(complete, self.decided_at)
        integral: Floats = np.diff(area)
        return integral


def _area(starts: Floats, ends: Floats) -> Floats:
    """Return sum(max(0, end - start) for start in starts) for each end."""
    ordered = np.sort(starts)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    count = np.searchsorted(ordered, ends)
    area: Floats = count * ends - sums[count]
    return area
