"""Lookahead: expected lengths, and costs in cases that can be reckoned by hand."""

from __future__ import annotations

import numpy as np

from vidur.config import SimulationConfig
from vidur.observation import COMPLETION_COLUMNS
from vidur.request_generator import RequestTable
from vidur.scheduler.routers.lookahead import LookaheadScheduler, conditional_output
from vidur.simulator import Simulator, simulate


def table(*lengths: tuple[int, int]) -> RequestTable:
    prompts, outputs = np.array(lengths, np.int64).T.copy()
    return RequestTable.of(np.zeros(len(lengths)), prompts, outputs, "a test")


def test_expected_lengths_are_the_prior_until_something_completes() -> None:
    streamed = np.array([0, 1, 10, 5000])
    assert list(conditional_output(np.zeros(COMPLETION_COLUMNS), streamed, 256.0)) == [256, 257, 266, 5256]


def test_the_cost_of_an_empty_replica_is_that_of_the_request_alone() -> None:
    config = SimulationConfig.from_cli(["--global_scheduler_config_type", "lookahead"])
    # The second request only makes the tables reach as far as the expected length.
    simulator = Simulator(config, table((700, 9), (700, 400)))
    assert isinstance(simulator.router, LookaheadScheduler)
    observation = simulator.next_decision()
    assert observation is not None
    (cost,) = simulator.router.marginal_costs(observation)
    alone = simulate(config, table((700, 256))).recording.requests
    assert cost == alone["completed_at"][0] + 5.0 * alone["prefill_completed_at"][0]


def test_a_replica_that_can_never_hold_the_request_costs_everything() -> None:
    groups = ["num_replicas=1,num_blocks=20", "num_replicas=1,num_blocks=200"]
    flags = ["--global_scheduler_config_type", "lookahead", "--cluster_config_replica_groups", *groups]
    simulator = Simulator(SimulationConfig.from_cli(flags), table((700, 9), (700, 9)))
    assert isinstance(simulator.router, LookaheadScheduler)
    observation = simulator.next_decision()
    assert observation is not None
    costs = simulator.router.marginal_costs(observation)
    assert np.isinf(costs[0]) and np.isfinite(costs[1])
