"""The configuration of a simulation."""

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
    """The configuration of a simulation. Equal configurations give equal results; SLOs do not affect the run."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "simulation"
    help_description: ClassVar[str] = "the run as a whole"

    seed: int = setting(42, help="seed of all randomness that has no seed of its own", minimum=0)
    log_level: str = setting("info", help="least severe message shown", choices=LOG_LEVELS)
    time_limit: int = setting(0, help="simulated seconds after which to stop; 0: no limit", minimum=0)
    compare_with: tuple[str, ...] = setting(
        (), help="also simulate these routers, with default settings, on the same requests and show their results"
    )
    slo_ttft: float | None = setting(None, help="objective of TTFT in seconds, for attainment and goodput", above=0)
    slo_tpot: float | None = setting(None, help="objective of TPOT in seconds, for attainment and goodput", above=0)
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
        """Return the configuration of `argv` (default: sys.argv); flags override `--config FILE`.

        Raises InputError; `--help` and `--version` print and raise SystemExit(0).
        """
        from vidur.config.command_line import parse_command_line

        return parse_command_line(argv)

    @classmethod
    def from_file(cls, path: str | Path) -> SimulationConfig:
        """Read a YAML file or a run's config.json. Raises InputError naming the file and key."""
        from vidur.config.document import read_document
        from vidur.config.given import build

        return build(read_document(Path(path)))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> SimulationConfig:
        """Return the inverse of `to_dict`; missing keys take their defaults. Raises InputError naming the key."""
        from vidur.config.document import flatten
        from vidur.config.given import build

        return build(flatten(document, "configuration"))

    def replace(self, **changes: Any) -> SimulationConfig:
        """Return a copy with other values for some settings: `config.replace(qps=20, num_replicas=8)`.

        Name a flag, a setting, or the end of a flag, if only one setting of the chosen types matches. Choose a type by
        its flag or its part: `config.replace(global_scheduler_config="lor")`. Raises InputError, with the candidates,
        if a name is unknown or ambiguous.
        """
        from vidur.config.replace import replaced

        return replaced(self, changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, nested by field name; the key `type` names a chosen type."""
        from vidur.config.document import to_document

        return to_document(self)
