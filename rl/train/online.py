"""Train a policy while a simulation runs: `--ppo_global_scheduler_config_mode train`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rl.reward.reward import Reward, RewardConfig, Window
from rl.router.encoder import DEFAULT_QUEUE_REQUESTS
from rl.router.scheduler import PPOScheduler, configured_checkpoint
from rl.simulate.rollout import RunningSimulation
from rl.train.log import TrainingLog
from rl.train.report import write_training_report
from rl.train.trainer import Trainer
from vidur.config import PPOGlobalSchedulerConfig
from vidur.engine.simulation import Simulation
from vidur.errors import InputError
from vidur.metrics.text import plural
from vidur.observation import ClusterObservation
from vidur.scheduler.routers import DrivingScheduler, RouterContext

# The default number of decisions between two updates.
_ROLLOUT_DECISIONS = 1024

NEW = "new"


class OnlineTrainer(DrivingScheduler):
    """Route by sampling from a policy, and improve it by PPO after each rollout.

    Training starts from the configured checkpoint, or from scratch for the name `new`. The policy is saved to `output`,
    its log and report to a folder beside it: `mine_training` for mine.safetensors.
    """

    def __init__(self, config: PPOGlobalSchedulerConfig, context: RouterContext) -> None:
        super().__init__({}, context)
        self._rng = context.rng
        seed = int(context.rng.integers(2**31))
        torch.set_num_threads(1)
        start = None if config.checkpoint == NEW else configured_checkpoint(config)
        depth = DEFAULT_QUEUE_REQUESTS if config.max_queue_requests is None else config.max_queue_requests
        self.queue_depth = depth if start is None else start.max_queue_requests
        hidden = (config.hidden_1, config.hidden_2) if start is None else start.weights.hidden.shape
        self._rollout_decisions = config.rollout_decisions or _ROLLOUT_DECISIONS
        self._config = dataclasses.replace(
            config, max_queue_requests=self.queue_depth, rollout_decisions=self._rollout_decisions,
            hidden_1=hidden[0], hidden_2=hidden[1],
        )  # fmt: skip
        self._trainer = Trainer(self._config, self.queue_depth, Reward(RewardConfig.load(config.reward)), seed)
        self._fresh = start is None
        if start is not None:
            self._trainer.begin_with(start)
        self._decided = self._updates = 0

    def schedule(self, observation: ClusterObservation) -> int:
        """Sample from the current policy without learning, for simulations that ask decision by decision."""
        policy = PPOScheduler(self.context, self._trainer.weights(), self.queue_depth, self._config.beta, sample=True)
        return policy.schedule(observation)

    def drive(self, simulation: Simulation, on_slice: Callable[[int], None]) -> None:
        running = RunningSimulation(simulation.engine, simulation.batcher, self._config.beta)
        output = Path(self._config.output)
        folder = output.with_name(f"{output.stem}_training")
        with closing(TrainingLog(folder)) as log:
            log.hyperparameters(self._settings())
            while not self._roll(running, log):
                on_slice(simulation.num_finished)
        on_slice(simulation.num_finished)
        simulation.done = True
        self._save(output)
        report = write_training_report(folder)
        print(f"Policy after {plural(self._updates, 'update')}: {output}\nReport: {report}", file=sys.stderr)

    def _roll(self, running: RunningSimulation, log: TrainingLog) -> bool:
        """Roll out the policy and learn from it. Returns whether the simulation has ended."""
        started = time.perf_counter()
        rollout = running.roll(
            self._trainer.weights().memory(self._config.beta, True), self._rollout_decisions, self._rng
        )
        progress = min(self._decided / running.num_requests, 1.0)
        self._decided += len(rollout)
        if self._fresh:
            self._trainer.fit_normaliser([rollout])
            self._trainer.start_from_here()
            self._fresh = False
        elif len(rollout) > 1:
            try:
                figures, results = self._trainer.learn([rollout], [Window.of(rollout, running)], [0], progress)
            except FloatingPointError as error:
                raise InputError(
                    f"training stopped as {error}: lower {self._config.flag('learning_rate')} or clip the reward"
                ) from None
            self._updates += 1
            figures["sps"] = len(rollout) / (time.perf_counter() - started)
            log.update(self._decided, figures, [rollout], results)
        return rollout.ended

    def _settings(self) -> dict[str, Any]:
        """Return the settings that matter in training, without the output's path."""
        return {key: value for key, value in asdict(self._config).items() if key not in ("mode", "sample", "output")}

    def _save(self, output: Path) -> None:
        facts = {"ppo": self._settings(), "decisions": self._decided, "updates": self._updates, "online": True,
                 "uses_the_future": False}  # fmt: skip
        self._trainer.checkpoint(facts, with_training=False).save(output)
