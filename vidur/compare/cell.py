"""A cell: one simulation of a sweep."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import time
from dataclasses import dataclass
from functools import cached_property

from vidur.compare.figures import LONG_PROMPT, WARM_UP, Objectives
from vidur.compare.policy_file import PolicyFile
from vidur.compare.record import CellRecord
from vidur.compare.version import code_version
from vidur.config import ArrivingRequestGeneratorConfig, MetricsConfig, PPOGlobalSchedulerConfig, SimulationConfig
from vidur.config.command_line import flags_of
from vidur.engine.plan import hardware_facts
from vidur.observation import SPEED
from vidur.request_generator import RequestTable
from vidur.simulator import Simulator


@dataclass(frozen=True)
class Cell:
    """One simulation of a sweep, and its labels.

    point: label of the scenario at its load and number of replicas. workload: a hash of the requests. policy: the kept
    copy of the learned router's checkpoint; its contents count, not the path in `config`.
    """

    point: str
    router: str
    seed: int
    config: SimulationConfig
    objectives: Objectives
    workload: str = ""
    policy: PolicyFile | None = None

    @cached_property
    def key(self) -> str:
        """A hash of everything the record depends on: configuration, requests, checkpoint, objectives and code."""
        document = self.config.to_dict()
        if self.policy is not None:
            document["cluster_config"]["global_scheduler_config"]["checkpoint"] = self.policy.digest
        version = code_version(self.config.cluster_config.global_scheduler_config)
        parts = [document, vars(self.objectives), WARM_UP, LONG_PROMPT, self.workload, version]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def effort(self) -> int:
        """A measure that grows with the simulation's duration."""
        workload = self.config.request_generator_config
        assert isinstance(workload, ArrivingRequestGeneratorConfig)
        return workload.num_requests or 0

    @property
    def command(self) -> str:
        """The command that runs this simulation alone and writes all its files."""
        config = dataclasses.replace(self.config, metrics_config=MetricsConfig())
        return shlex.join(["python", "-m", "vidur.main", *flags_of(config)])


def simulate_cell(cell: Cell) -> CellRecord:
    """Simulate a cell. Raises InputError if it cannot be simulated, KeyboardInterrupt if it was interrupted."""
    config, router = cell.config, cell.config.cluster_config.global_scheduler_config
    if cell.policy is not None:
        assert isinstance(router, PPOGlobalSchedulerConfig)
        router = dataclasses.replace(router, checkpoint=cell.policy.path)
        cluster = dataclasses.replace(config.cluster_config, global_scheduler_config=router)
        config = dataclasses.replace(config, cluster_config=cluster)
    started = time.perf_counter()
    simulator = Simulator(config)
    recording = simulator.run().recording
    if simulator.interrupted:
        # A partial simulation must not be recorded as complete.
        raise KeyboardInterrupt
    speeds = hardware_facts(simulator.replica_plans)[:, SPEED]
    return CellRecord.of(recording, cell.objectives, speeds, time.perf_counter() - started)


def workload_digest(requests: RequestTable) -> str:
    """Return a hash of arrivals, lengths, contents and turns."""
    digest = hashlib.sha256()
    columns = [requests.arrived_at, requests.num_prefill_tokens, requests.num_decode_tokens]
    if (content := requests.content) is not None:
        columns += [content.offsets, content.first, content.lengths]
    if (turns := requests.turns) is not None:
        columns += [turns.offsets, turns.children, turns.think]
    for column in columns:
        digest.update(column.tobytes())
    return digest.hexdigest()[:32]
