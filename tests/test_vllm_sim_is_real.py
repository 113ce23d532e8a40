"""The same state of the cluster is the same to the simulator's schedulers and to those in front of real replicas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mirror import Mirror, MirroredSimulation

from rl.router.scheduler import PPOScheduler
from rl.vllm.decide.routing import Router
from vidur.config import SimulationConfig
from vidur.observation import (
    COMPLETED_E2E,
    COMPLETED_TTFT,
    ITL_EWMA,
    STREAMED_TOKENS,
    ClusterObservation,
    Floats,
)
from vidur.scheduler.routers import GLOBAL_SCHEDULERS

EXAMPLE = Path(__file__).resolve().parent.parent / "docs/examples/fewest_prompts.py"
CLUSTER = """
    --cluster_config_replica_groups num_replicas=2,device=h100 num_replicas=2,device=a100,num_blocks=2000
    --replica_config_model_name meta-llama/Meta-Llama-3-8B
    --length_generator_config_type quantile --quantile_request_length_generator_config_distribution azure_conv_2023
    --poisson_request_interval_generator_config_qps 30 --seed 3
    --cluster_config_replica_events time=3,replica=0,action=drain time=5,replica=0,action=return
"""
# Those that need an index of prefixes are refused there.
NAMES = [name for name in GLOBAL_SCHEDULERS.names() if not GLOBAL_SCHEDULERS.get(name).needs_index]
SCHEDULERS = dict.fromkeys(NAMES, "") | {
    "size_split": "--size_split_global_scheduler_config_thresholds 1500",
    "ppo": "--ppo_global_scheduler_config_beta 20",
    "lookahead": "",
    f"{EXAMPLE}:FewestPrompts": "",
}
# The simulator counts the pace of streams at the end of a run of iterations, all at once; a router counts each token
# as it comes. The mean error, relative, over a simulation; 0.01 to 0.03 is found.
PACE = 0.04


def config(scheduler: str, requests: int) -> SimulationConfig:
    words = f"{CLUSTER} {SCHEDULERS[scheduler]} --global_scheduler_config_type {scheduler}"
    words += f" --synthetic_request_generator_config_num_requests {requests}"
    return SimulationConfig.from_cli(words.split())


def check_observation(real: ClusterObservation, simulated: ClusterObservation) -> Floats:
    """Equal to the bit, but for sums of times, which are added up in another order, and the pace of tokens: its
    relative errors, of replicas of which both have one."""
    assert real.now == simulated.now
    paces = real.ledger[:, ITL_EWMA], simulated.ledger[:, ITL_EWMA]
    np.testing.assert_array_equal(np.delete(real.ledger, ITL_EWMA, 1), np.delete(simulated.ledger, ITL_EWMA, 1))
    for name in ("gauges", "hardware", "available", "arrival"):
        np.testing.assert_array_equal(getattr(real, name), getattr(simulated, name), err_msg=name)
    times = [COMPLETED_E2E, COMPLETED_TTFT]
    np.testing.assert_array_equal(np.delete(real.completions, times), np.delete(simulated.completions, times))
    np.testing.assert_allclose(real.completions[times], simulated.completions[times], rtol=1e-12)
    for replica in range(real.num_replicas):
        ours, theirs = real.placed(replica), simulated.placed(replica)
        for name in ("arrived_at", "placed_at", "prompt_tokens", "streamed_tokens", "has_first_token"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    both = (paces[0] > 0) & (paces[1] > 0)
    errors: Floats = np.abs(paces[0][both] / paces[1][both] - 1.0)
    return errors


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda name: name.rpartition("/")[2])
def test_the_router_sees_and_decides_what_the_simulator_does(scheduler: str, tmp_path: Path) -> None:
    """At each decision: the observation, what the policy is fed, its scores, the choice. In what is fed, the pace of
    tokens is the simulator's, for it alone is not exact."""
    simulation = MirroredSimulation(config(scheduler, 60 if scheduler == "lookahead" else 400))
    described = tmp_path / "simulation.json"
    described.write_text(json.dumps(simulation.config.to_dict()))
    router = Router(simulation.router_config(simulation=str(described), gauge_age_limit=1e9, feature_limit=1e9), -1.0)
    mirror = Mirror(simulation, router)
    errors, streamed = [], 0.0
    while (observation := simulation.simulator.next_decision()) is not None:
        mirror.follow(simulation.events(observation.now))
        arrival = mirror.arrival(observation)
        seen = router.observe(arrival, observation.available, observation.now)
        errors.extend(check_observation(seen, observation))
        streamed += observation.ledger[:, STREAMED_TOKENS].sum()
        own = seen.ledger[:, ITL_EWMA].copy()
        seen.ledger[:, ITL_EWMA] = observation.ledger[:, ITL_EWMA]
        decision = router.decide(arrival, observation.available, observation.now)
        seen.ledger[:, ITL_EWMA] = own
        if isinstance(simulation.scheduler, PPOScheduler):
            assert isinstance(router.scheduler, PPOScheduler)
            scores = simulation.scheduler.scores(observation)
            np.testing.assert_array_equal(router.scheduler.seen, simulation.scheduler.seen)
            np.testing.assert_array_equal(decision.scores, scores)
            chosen = simulation.scheduler.choose_by(scores)
        else:
            chosen = simulation.scheduler.schedule(observation)
        assert decision.replica == chosen and decision.fallback is None
        mirror.tickets[simulation.request] = router.place(decision, arrival, observation.now)
        simulation.place(chosen)
    assert streamed > 0 and len(mirror.tickets) > 0
    assert np.mean(errors) < PACE


def test_the_router_alone_routes_a_simulation_as_the_simulator_does() -> None:
    """With its own view of the pace too: nearly every decision of ppo is the same."""
    simulation = MirroredSimulation(config("ppo", 600))
    router = Router(simulation.router_config(gauge_age_limit=1e9, feature_limit=1e9), -1.0)
    mirror = Mirror(simulation, router)
    same = []
    while (observation := simulation.simulator.next_decision()) is not None:
        mirror.follow(simulation.events(observation.now))
        arrival = mirror.arrival(observation)
        decision = router.decide(arrival, observation.available, observation.now)
        same.append(decision.replica == simulation.scheduler.schedule(observation))
        mirror.tickets[simulation.request] = router.place(decision, arrival, observation.now)
        simulation.place(decision.replica)
    assert len(same) == 600 and np.mean(same) > 0.98
