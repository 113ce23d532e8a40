"""python -m rl.describe: what the policy sees, number by number."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rl.router.checkpoint import Checkpoint, check_queue_requests, policy_path
from rl.router.encoder import DEFAULT_QUEUE_REQUESTS, Feature, StateEncoder
from rl.router.policy import Normaliser
from vidur.config import SimulationConfig
from vidur.config.base import Config, setting
from vidur.tool import run_tool

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 100


@dataclass(frozen=True)
class DescribeConfig(Config):
    """Which cluster, and which policy."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "what is described"

    config: str | None = setting(None, help="YAML of vidur.main: its replica count is taken")
    num_replicas: int | None = setting(None, help="of the cluster; 4 if there is no --config either", minimum=1)
    max_queue_requests: int | None = setting(
        None, help="requests without a first token; the checkpoint's if none", minimum=0, maximum=64
    )
    checkpoint: str | None = setting(
        None, help="show the statistics of this policy: a file, or a name in data/policies"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the encoder's spec. Returns the exit status of `run_tool`."""
    return run_tool("rl.describe", (DescribeConfig,), _describe, argv, description=__doc__ or "")


def _describe(config: DescribeConfig) -> None:
    replicas = config.num_replicas
    if replicas is None:
        replicas = 4 if config.config is None else SimulationConfig.from_file(config.config).cluster_config.num_replicas
    depth, normaliser = config.max_queue_requests, None
    if config.checkpoint is not None:
        path = policy_path(config.checkpoint)
        checkpoint = Checkpoint.load(path)
        check_queue_requests(checkpoint, depth, path)
        depth, normaliser = checkpoint.max_queue_requests, checkpoint.normaliser
    _print(StateEncoder(replicas, DEFAULT_QUEUE_REQUESTS if depth is None else depth), normaliser)


def _print(encoder: StateEncoder, normaliser: Normaliser | None) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    block = encoder.replica_dimension + 1
    console.print(
        f"{encoder.num_replicas} replicas, {encoder.max_queue_requests} waiting requests each: "
        f"{encoder.replica_dimension} features of a replica, {encoder.context_dimension} of the context, "
        f"{encoder.flat_dimension} numbers in the flat vector\n"
    )
    console.print(f"Of each replica (replica r at r x {block}; then 1 where it is available, 0 where it is away)")
    means = None if normaliser is None else list(zip(normaliser.replica_mean, normaliser.replica_std, strict=True))
    _table(console, encoder.spec.replica, 0, means)
    console.print("\nOf the request and the cluster")
    means = None if normaliser is None else list(zip(normaliser.context_mean, normaliser.context_std, strict=True))
    _table(console, encoder.spec.context, encoder.num_replicas * block, means)
    console.print(
        "\nlog: log(1 + quantity), then less the checkpoint's mean, over its standard deviation. none: as it is.\n"
        "A decode iteration is that of the fastest replica."
    )


def _table(
    console: Console, features: Sequence[Feature], first: int, statistics: Sequence[tuple[float, float]] | None
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("index", justify="right")
    for name in ("name", "unit", "norm.", *(("mean", "std") if statistics else ()), "meaning"):
        table.add_column(name, justify="right" if name in ("mean", "std") else "left")
    for place, feature in enumerate(features):
        shown: list[str] = []
        if statistics:
            known = place < len(statistics)
            shown = [f"{value:.2f}" for value in statistics[place]] if known else ["", ""]
        table.add_row(str(first + place), feature.name, feature.unit, feature.normalisation, *shown, feature.meaning)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
