"""The whole configuration of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vidur.config.base import Config, setting
from vidur.config.cluster import ClusterConfig
from vidur.config.execution_time_predictor import (
    BaseExecutionTimePredictorConfig,
    RooflineExecutionTimePredictorConfig,
)
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.config.metrics import MetricsConfig
from vidur.config.request_generator import BaseRequestGeneratorConfig, SyntheticRequestGeneratorConfig

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class SimulationConfig(Config):
    """A simulation. Two equal configurations give the same results. SLOs judge a run and do not change it."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "simulation"
    help_description: ClassVar[str] = "the run as a whole"

    seed: int = setting(42, help="seed of all randomness that has no seed of its own", minimum=0)
    log_level: str = setting("info", help="least severe message shown", choices=LOG_LEVELS)
    time_limit: int = setting(0, help="simulated seconds after which to stop; 0 is no limit", minimum=0)
    compare_with: tuple[str, ...] = setting(
        (), help="routers, with their default settings, whose results on the same requests are shown beside"
    )
    slo_ttft: float | None = setting(None, help="seconds that TTFT should meet, for attainment and goodput", above=0)
    slo_tpot: float | None = setting(None, help="seconds that TPOT should meet, for attainment and goodput", above=0)
    cluster_config: ClusterConfig = field(default_factory=ClusterConfig, metadata={"help": "the cluster"})
    request_generator_config: BaseRequestGeneratorConfig = field(
        default_factory=SyntheticRequestGeneratorConfig, metadata={"help": "where requests come from"}
    )
    execution_time_predictor_config: BaseExecutionTimePredictorConfig = field(
        default_factory=RooflineExecutionTimePredictorConfig, metadata={"help": "how long iterations take"}
    )
    metrics_config: MetricsConfig = field(
        default_factory=MetricsConfig, metadata={"help": "what is recorded and written"}
    )

    def check(self) -> None:
        for name in self.compare_with:
            BaseGlobalSchedulerConfig.from_type(name, self.flag("compare_with"))

    @classmethod
    def from_cli(cls, argv: Sequence[str] | None = None) -> SimulationConfig:
        """The configuration that flags give (`sys.argv` if None), over that of `--config FILE`.

        Raises InputError; `--help` and `--version` print and raise SystemExit(0).
        """
        from vidur.config.command_line import parse_command_line

        return parse_command_line(argv)

    @classmethod
    def from_file(cls, path: str | Path) -> SimulationConfig:
        """The configuration of a YAML file, or of a run's config.json. Raises InputError naming the file and key."""
        from vidur.config.document import read_document
        from vidur.config.given import build

        return build(read_document(Path(path)))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> SimulationConfig:
        """The inverse of `to_dict`; what is left out takes its default. Raises InputError naming the key."""
        from vidur.config.document import flatten
        from vidur.config.given import build

        return build(flatten(document, "configuration"))

    def replace(self, **changes: Any) -> SimulationConfig:
        """Return the same configuration with other values for some flags: `config.replace(qps=20, num_replicas=8)`.

        A name is that of a flag or of a setting, or the end of a flag, where only one of the chosen types has it. A
        type is chosen by its flag, or by its part: `config.replace(global_scheduler_config="lor")`.
        Raises InputError, with the candidates, for a name that is unknown or of several settings.
        """
        from vidur.config.replace import replaced

        return replaced(self, changes)

    def to_dict(self) -> dict[str, Any]:
        """Nested by field name, plain JSON values; a configuration that is chosen by type carries the key `type`."""
        from vidur.config.document import to_document

        return to_document(self)
