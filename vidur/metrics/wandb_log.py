"""Log a run's results to Weights & Biases if configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vidur.errors import InputError

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult


def require_wandb() -> Any:
    """Import wandb. Raises InputError if it is not installed."""
    try:
        import wandb
    except ImportError:
        raise InputError("--metrics_config_wandb_project needs the package wandb: pip install wandb") from None
    return wandb


def log_to_wandb(result: SimulationResult) -> None:
    """Log the summary under flat names, and with save_table_to_wandb the table of requests, as a new run."""
    wandb = require_wandb()
    metrics = result.config.metrics_config
    run = wandb.init(
        project=metrics.wandb_project,
        group=metrics.wandb_group,
        name=metrics.wandb_run_name,
        id=metrics.wandb_run_id,
        config={**result.config.to_dict(), "sweep_id": metrics.wandb_sweep_id},
    )
    run.log(flat(result.summary), step=0)
    if metrics.save_table_to_wandb:
        run.log({"request_metrics_table": wandb.Table(dataframe=result.requests)}, step=0)
    run.finish()


def flat(figures: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten `{"a": {"b": 1}, "c": [2]}` to `{"a/b": 1, "c/0": 2}`, without None values."""
    if isinstance(figures, dict):
        items = list(figures.items())
    elif isinstance(figures, list):
        items = list(enumerate(figures))
    else:
        return {} if figures is None else {prefix: figures}
    return {
        name: value
        for key, part in items
        for name, value in flat(part, f"{prefix}/{key}" if prefix else str(key)).items()
    }
