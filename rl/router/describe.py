"""python -m rl.describe: list the features that the policy observes."""

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
    """The cluster and the policy whose features are listed."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "cluster and policy"

    config: str | None = setting(None, help="YAML of vidur.main, for its replica count")
    num_replicas: int | None = setting(None, help="replicas of the cluster; else those of --config, or 4", minimum=1)
    max_queue_requests: int | None = setting(
        None, help="observed waiting requests per replica; by default the checkpoint's", minimum=0, maximum=64
    )
    checkpoint: str | None = setting(None, help="policy whose statistics are shown: a file, or a name in data/policies")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the features and return the exit status."""
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
        "\nlog: x = log(1 + quantity), then (x - mean) / std with the checkpoint's statistics. none: not normalised.\n"
        "One decode iteration is that of the fastest replica."
    )


def _table(
    console: Console, features: Sequence[Feature], first: int, statistics: Sequence[tuple[float, float]] | None
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("index", justify="right")
    for name in ("name", "unit", "norm.", *(("mean", "std") if statistics else ()), "meaning"):
        table.add_column(name, justify="right" if name in ("mean", "std") else "left")
    for index, feature in enumerate(features):
        shown: list[str] = []
        if statistics:
            known = index < len(statistics)
            shown = [f"{value:.2f}" for value in statistics[index]] if known else ["", ""]
        table.add_row(str(first + index), feature.name, feature.unit, feature.normalisation, *shown, feature.meaning)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
