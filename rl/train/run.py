"""Run a training: a warm start, then PPO over many simulations at once."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vidur
from rl.reward.reward import Reward, RewardConfig
from rl.router.checkpoint import Checkpoint
from rl.router.encoder import DEFAULT_QUEUE_REQUESTS
from rl.router.policy import PolicyWeights
from rl.simulate.rollout import Rollout
from rl.train.collector import Collector
from rl.train.config import NOT_OF_TRAINING, SearchConfig, TrainConfig, WarmStartConfig
from rl.train.log import ProgressNotes, TrainingLog
from rl.train.report import write_training_report
from rl.train.search import linear_policy, search
from rl.train.suite import TrainingSuite
from rl.train.trainer import Trainer
from rl.train.validation import Validation
from rl.train.warm_start import clone, dagger, print_clone
from vidur.atomic import check_writable, write_text
from vidur.config import PPOGlobalSchedulerConfig
from vidur.errors import InputError
from vidur.progress import Progress

# The default number of decisions of each simulation between two updates.
_ROLLOUT_DECISIONS = 128

# The most episodes on which a clone is validated, as lookahead takes seconds for each.
_CLONE_EPISODES = 12


class TrainingRun:
    """A training run, which writes into its folder.

    policy.safetensors has the policy of the least cost in validation, checkpoint.safetensors the state to resume from;
    beside them are log.jsonl and report.html.
    """

    def __init__(
        self, train: TrainConfig, search: SearchConfig, warm: WarmStartConfig, ppo: PPOGlobalSchedulerConfig
    ) -> None:
        self._train, self._search, self._warm, self._ppo = train, search, warm, ppo
        self._folder = Path(train.folder)
        self._threads = train.threads or len(os.sched_getaffinity(0))
        self._depth = DEFAULT_QUEUE_REQUESTS if ppo.max_queue_requests is None else ppo.max_queue_requests
        self._suite = TrainingSuite.read(train.suite)
        reward = Reward(RewardConfig.load(ppo.reward))
        self._trainer = Trainer(ppo, self._depth, reward, train.seed)
        self._update = 0
        self._decisions = 0
        self._best_cost = float("inf")
        # One thread, so that sums are the same on any number of cores.
        torch.set_num_threads(1)

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "checkpoint.safetensors"

    @property
    def next_step(self) -> str:
        """How to continue after an interruption."""
        if self._checkpoint.is_file():
            return "--resume continues from the last checkpoint"
        return "there is no checkpoint yet, so start again"

    def run(self) -> int:
        """Train to the end and return the exit status: 1 if the loss is not finite."""
        self._check_folder()
        saved = Checkpoint.load(self._checkpoint, training=True) if self._train.resume else None
        cloned = None
        if saved is None:
            cloned = self._warm_start()
            self._write_config()
        else:
            self._check_same_run(saved)
        collector = Collector(
            self._suite, self._depth, self._train.groups, self._train.members, self._train.seed, self._threads
        )
        if saved is not None:
            self._restore(saved, collector)
        validation = Validation(
            self._suite, self._depth, self._ppo.beta, self._train.validation_episodes, self._threads
        )
        log = TrainingLog(self._folder, resume_step=self._decisions if saved is not None else None)
        facts = self._facts()
        log.hyperparameters({**facts["training"], **facts["search"], **facts["warm_start"], **facts["ppo"]})
        if cloned is not None:
            log.clone(0, cloned)
        status = self._learn(collector, validation, log)
        log.close()
        write_training_report(self._folder)
        print(f"Policy: {self._folder / 'policy.safetensors'}\nReport: {self._folder / 'report.html'}")
        return status

    def _learn(self, collector: Collector, validation: Validation, log: TrainingLog) -> int:
        rollout = self._ppo.rollout_decisions or _ROLLOUT_DECISIONS
        if self._update == 0:
            self._validate(validation, log)
        notes = ProgressNotes()
        with Progress("decisions", self._train.decisions, self._decisions) as progress:
            while self._decisions < self._train.decisions:
                started = time.perf_counter()
                share = self._decisions / self._train.decisions
                rollouts, windows = collector.collect(self._trainer.weights(), rollout)
                try:
                    figures, results = self._trainer.learn(rollouts, windows, collector.groups, share)
                except FloatingPointError as error:
                    print(
                        f"rl.train: stopped as {error}{self._last_good_state}: "
                        "lower --learning_rate or clip the reward, and start again",
                        file=sys.stderr,
                    )
                    return 1
                self._update += 1
                count = sum(len(rollout) for rollout in rollouts)
                self._decisions += count
                figures["sps"] = count / (time.perf_counter() - started)
                log.update(self._decisions, figures, rollouts, results)
                if self._update % self._train.validate_every == 0:
                    figures |= self._validate(validation, log)
                progress.update(self._decisions, notes.text(figures))
                if self._update % self._train.save_every == 0:
                    self._save(collector)
        self._validate(validation, log)
        self._save(collector)
        return 0

    @property
    def _last_good_state(self) -> str:
        for file in (self._checkpoint, self._folder / "policy.safetensors"):
            if file.is_file():
                return f"; {file} is the last good state"
        return ""

    def _validate(self, validation: Validation, log: TrainingLog) -> dict[str, float]:
        """Compare the policy with the baselines, and save it if it has the least cost so far."""
        figures = validation.figures(self._trainer.weights())
        log.evaluation(self._decisions, {"training": figures})
        if figures["cost"] < self._best_cost:
            self._best_cost = figures["cost"]
            best = self._trainer.checkpoint({**self._facts(), "validation": figures}, with_training=False)
            best.save(self._folder / "policy.safetensors")
        return figures

    def _warm_start(self) -> dict[str, Any] | None:
        """Search, clone and run DAgger, as configured. Returns the figures of the clone, if there is one."""
        cloned = None
        seed, actor = self._train.seed, self._trainer.actor
        if self._search.search_iterations:
            products, by_beta, _ = search(self._suite, self._depth, self._search, seed, self._threads)
            rollouts = self._look_around(linear_policy(products, by_beta, self._depth))
            self._trainer.fit_normaliser(rollouts)
            self._trainer.begin_with_products(products, by_beta, self._train.first_entropy, rollouts)
        else:
            self._trainer.fit_normaliser(self._look_around(self._trainer.weights()))
        if self._warm.demonstrators:
            episodes = min(self._train.validation_episodes, _CLONE_EPISODES)
            validation = Validation(self._suite, self._depth, self._ppo.beta, episodes, self._threads)
            cloned = clone(actor, self._suite, self._depth, self._warm, seed, validation)
            print_clone(cloned, sys.stderr)
        if self._warm.dagger_rounds:
            dagger(actor, self._suite, self._depth, self._warm, seed, self._threads)
        self._trainer.start_from_here()
        return cloned

    def _look_around(self, policy: PolicyWeights) -> list[Rollout]:
        """Roll out a policy over as many episodes as there are simulations."""
        count = self._train.groups * self._train.members
        collector = Collector(self._suite, self._depth, count, 1, self._train.seed + 1, self._threads)
        return collector.collect(policy, self._suite.requests // 3)[0]

    def _facts(self) -> dict[str, Any]:
        """Return the facts that a checkpoint records of its training."""
        return {
            "training": {key: value for key, value in asdict(self._train).items() if key not in _MAY_CHANGE},
            "search": asdict(self._search),
            "warm_start": asdict(self._warm),
            "ppo": {key: value for key, value in asdict(self._ppo).items() if key not in NOT_OF_TRAINING},
            "beta_range": list(self._suite.beta),
            "decisions": self._decisions,
            "updates": self._update,
            "versions": {"vidur": vidur.__version__, "torch": torch.__version__, "numpy": np.__version__,
                         "python": platform.python_version()},
            "uses_the_future": False,
        }  # fmt: skip

    def _write_config(self) -> None:
        write_text(self._folder / "config.json", json.dumps(self._facts(), indent=1) + "\n")

    def _check_folder(self) -> None:
        if self._train.resume and not self._checkpoint.is_file():
            raise InputError(f"--resume: there is no {self._checkpoint} yet: drop --resume")
        if not self._train.resume and self._checkpoint.exists():
            raise InputError(f"--folder {self._folder} holds a run: give --resume to continue it, or another folder")
        check_writable(self._folder, "--folder")

    def _check_same_run(self, saved: Checkpoint) -> None:
        ours = json.loads(json.dumps(self._facts()))
        for part in ("training", "search", "warm_start", "ppo"):
            for key, value in ours[part].items():
                before = saved.facts[part].get(key)
                if before != value:
                    raise InputError(f"--resume: the run in {self._folder} has --{key} {before}, not {value}")

    def _save(self, collector: Collector) -> None:
        more = {
            **collector.snapshot(),
            "update": np.array(self._update),
            "decisions": np.array(self._decisions),
            "best_cost": np.array(self._best_cost),
        }
        self._trainer.checkpoint(self._facts(), with_training=True, more=more).save(self._checkpoint)

    def _restore(self, saved: Checkpoint, collector: Collector) -> None:
        self._trainer.restore(saved.training)
        collector.restore(saved.training)
        self._update, self._decisions = int(saved.training["update"]), int(saved.training["decisions"])
        self._best_cost = float(saved.training["best_cost"])


# Flags that may differ between a run and its continuation.
_MAY_CHANGE = ("folder", "resume", "threads")
