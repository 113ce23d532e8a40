"""What is recorded, and where it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import Config, setting
from vidur.errors import InputError


@dataclass(frozen=True)
class MetricsConfig(Config):
    """What a run records and writes. Each run makes a folder of its own in `output_dir`."""

    help_title: ClassVar[str] = "metrics"
    help_description: ClassVar[str] = "what is recorded, and where it is written"

    write_metrics: bool = setting(True, help="write results to disk")
    write_json_trace: bool = setting(False, help="write every event as JSON")
    wandb_project: str | None = setting(None, help="Weights & Biases project; needs the group too")
    wandb_group: str | None = setting(None, help="Weights & Biases group; needs the project too")
    wandb_run_name: str | None = setting(None, help="Weights & Biases run name")
    wandb_sweep_id: str | None = setting(None, help="Weights & Biases sweep id")
    wandb_run_id: str | None = setting(None, help="Weights & Biases run id")
    enable_chrome_trace: bool = setting(False, help="write chrome_trace.json, up to 20 MB")
    chrome_trace_max_batches: int = setting(100_000, help="most batches in chrome_trace.json", minimum=1)
    save_table_to_wandb: bool = setting(False, help="send whole tables to Weights & Biases")
    store_plots: bool = setting(True, help="write report.html")
    store_operation_metrics: bool = setting(False, help="record the times of the operations of a layer")
    store_token_completion_metrics: bool = setting(False, help="record the time of every output token")
    store_request_metrics: bool = setting(True, help="write request_metrics.csv")
    store_batch_metrics: bool = setting(True, help="record batches")
    store_utilization_metrics: bool = setting(True, help="record busy time, KV-cache use and FLOP utilization")
    keep_individual_batch_metrics: bool = setting(False, help="write batch_metrics.csv, a row for each batch")
    subsamples: int | None = setting(None, help="most points of a plot or table", minimum=1)
    min_batch_index: int | None = setting(None, help="first batch of the batch metrics", minimum=0)
    max_batch_index: int | None = setting(None, help="last batch of the batch metrics", minimum=0)
    output_dir: str = setting("simulator_output", help="folder in which each run makes a folder of its own")
    cache_dir: str = setting("cache", help="folder of trained predictors")

    @property
    def uses_wandb(self) -> bool:
        return self.wandb_project is not None and self.wandb_group is not None

    def check(self) -> None:
        names = ("wandb_project", "wandb_group", "wandb_run_name", "wandb_sweep_id", "wandb_run_id")
        given = [name for name in names if getattr(self, name) is not None]
        if self.save_table_to_wandb:
            given.append("save_table_to_wandb")
        if given and not self.uses_wandb:
            missing = "wandb_group" if self.wandb_project is not None else "wandb_project"
            raise InputError(
                f"{self.flag(given[0])} does nothing without {self.flag(missing)}: Weights & Biases needs "
                "a project and a group"
            )
        low, high = self.min_batch_index, self.max_batch_index
        if low is not None and high is not None and low > high:
            raise InputError(f"{self.flag('min_batch_index')} {low} is above {self.flag('max_batch_index')} {high}")
