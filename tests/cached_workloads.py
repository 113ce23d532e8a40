"""Simulations of sessions whose prompts repeat the conversation so far, on replicas that cache prefixes."""

from __future__ import annotations

from functools import cache

import numpy as np

from vidur.config import SimulationConfig
from vidur.metrics.result import SimulationResult
from vidur.observation import HARDWARE_COLUMNS, MATCHED_TOKENS, ClusterObservation
from vidur.request_generator import RequestTable
from vidur.request_generator.content import ID_GAP, Content, Turns
from vidur.scheduler.routers import GlobalScheduler, RouterContext
from vidur.simulator import Simulator


def session_requests(sessions: int = 12, turns: int = 4, closed: bool = False, seed: int = 1) -> RequestTable:
    """Return sessions whose prompts are the conversation so far and a question.

    closed: a turn arrives a second after the answer before it, though all turns of a session are estimated to arrive
    in the instant in which it begins; else 3 seconds after the arrival before.
    """
    rng = np.random.default_rng(seed)
    shape = (sessions, turns)
    questions, outputs = rng.integers(50, 300, shape), rng.integers(20, 120, shape)
    prompts = np.cumsum(questions, axis=1) + np.cumsum(outputs, axis=1) - outputs
    begins = np.repeat(rng.uniform(0.0, 5.0, sessions), turns).reshape(shape)
    arrived_at = begins + (0.0 if closed else 3.0) * np.arange(turns)
    count, turn = sessions * turns, np.tile(np.arange(turns), sessions)
    session = np.repeat(np.arange(sessions), turns)
    content = Content(np.arange(count + 1), 2 * ID_GAP * (session + 1), (prompts + outputs).ravel())
    later = np.flatnonzero(turn > 0)
    return RequestTable.of(
        arrived_at.ravel(),
        prompts.ravel(),
        outputs.ravel(),
        "sessions made up for tests",
        session_id=session,
        content=content,
        turns=Turns.of_edges(later - 1, later, (turn > 0).astype(np.float64)) if closed else None,
    )


class MostMatched(GlobalScheduler):
    """Chooses the replica that is believed to hold the most of the prompt; if none holds any, each in turn."""

    def __init__(self, replicas: int) -> None:
        super().__init__({}, RouterContext(np.ones((replicas, HARDWARE_COLUMNS)), np.random.default_rng(0)))
        self.last = -1

    def schedule(self, observation: ClusterObservation) -> int:
        matched = observation.prefix[:, MATCHED_TOKENS]
        self.last = int(np.argmax(matched)) if matched.any() else (self.last + 1) % len(matched)
        return self.last


@cache
def simulate_sessions(*flags: str, closed: bool = False, num_blocks: int = 200) -> SimulationResult:
    """Simulate `session_requests` on two vllm_v1 replicas under MostMatched. flags: of vidur.main."""
    config = SimulationConfig.from_cli(
        ["--cluster_config_num_replicas", "2", "--replica_scheduler_config_type", "vllm_v1",
         "--vllm_v1_scheduler_config_num_blocks", f"{num_blocks}", *flags]
    )  # fmt: skip
    return Simulator(config, session_requests(closed=closed), MostMatched(2)).run()
