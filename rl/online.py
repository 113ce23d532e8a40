"""Learning while one simulation runs: `--ppo_global_scheduler_config_mode train`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rl.checkpoint import Checkpoint, check_queue_requests, policy_path
from rl.encoder import DEFAULT_QUEUE_REQUESTS
from rl.reward import Reward, RewardConfig, Window
from rl.rollout import RunningSimulation
from rl.scheduler import PPOScheduler
from rl.trainer import Trainer
from vidur.config import PPOGlobalSchedulerConfig
from vidur.engine.simulation import Simulation
from vidur.errors import InputError
from vidur.scheduler.global_scheduler import DrivingScheduler, RouterContext
from vidur.scheduler.observation import ClusterObservation

# Decisions between two updates of one simulation, if the configuration leaves it open.
_ROLLOUT_DECISIONS = 1024

NEW = "new"


class OnlineTrainer(DrivingScheduler):
    """Routes by sampling from a policy that its own decisions improve, rollout after rollout.

    It begins with the configured checkpoint, or with nothing for the name `new`, and saves the policy to `output`.
    """

    def __init__(self, config: PPOGlobalSchedulerConfig, context: RouterContext) -> None:
        self._config = config
        self._context = context
        self._rng = context.rng
        seed = int(context.rng.integers(2**31))
        torch.set_num_threads(1)
        begun = None if config.checkpoint == NEW else _load(config)
        depth = DEFAULT_QUEUE_REQUESTS if config.max_queue_requests is None else config.max_queue_requests
        self.queue_depth = depth if begun is None else begun.max_queue_requests
        if begun is not None:
            first, second = begun.weights.hidden.shape
            config = dataclasses.replace(config, hidden_1=first, hidden_2=second)
        self._trainer = Trainer(config, self.queue_depth, Reward(RewardConfig.load(config.reward)), seed)
        self._fresh = begun is None
        if begun is not None:
            self._trainer.begin_with(begun)
        self._updates: list[dict[str, float]] = []

    def schedule(self, observation: ClusterObservation) -> int:
        """By the policy as it is, without learning: for simulations that are driven decision by decision."""
        policy = PPOScheduler(self._context, self._trainer.weights(), self.queue_depth, self._config.beta, sample=True)
        return policy.schedule(observation)

    def drive(self, simulation: Simulation, on_slice: Callable[[int], None]) -> None:
        running = RunningSimulation(simulation.state, simulation.policy, self._config.beta)
        total = running.num_requests
        decisions = self._config.rollout_decisions or _ROLLOUT_DECISIONS
        decided = 0
        while True:
            memory = self._trainer.weights().memory(self._config.beta, True)
            rollout = running.roll(memory, decisions, self._rng)
            if self._fresh:
                self._trainer.fit_normaliser([rollout])
                self._trainer.start_from_here()
                self._fresh = False
            elif len(rollout) > 1:
                self._learn(rollout, running, decided / total)
            decided += len(rollout)
            on_slice(simulation.num_finished)
            if rollout.ended:
                break
        simulation.done = True
        self._save(decided)

    def _learn(self, rollout: Any, running: RunningSimulation, progress: float) -> None:
        try:
            figures, _ = self._trainer.learn([rollout], [Window.of(rollout, running)], [0], min(progress, 1.0))
        except FloatingPointError as error:
            raise InputError(
                f"training stopped, {error}: lower {self._config.flag('learning_rate')} or clip the reward"
            ) from None
        self._updates.append(figures)

    def _save(self, decided: int) -> None:
        facts = {"ppo": asdict(self._config), "decisions": decided, "updates": len(self._updates), "online": True,
                 "uses_the_future": False}  # fmt: skip
        self._trainer.checkpoint(facts, with_training=False).save(self._config.output)
        print(f"Policy after {len(self._updates)} updates: {Path(self._config.output)}", file=sys.stderr)


def _load(config: PPOGlobalSchedulerConfig) -> Checkpoint:
    path = policy_path(config.checkpoint)
    checkpoint = Checkpoint.load(path)
    check_queue_requests(checkpoint, config.max_queue_requests, path)
    return checkpoint
