"""python -m rl.vllm.calibrate: fit the simulator's execution times to the logged steps of a real engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import yaml

from rl.vllm.calibrate.least_squares import least_squares
from rl.vllm.calibrate.steps import Step, read_steps
from vidur.atomic import write_text
from vidur.config.base import Config, setting
from vidur.config.model import ModelConfig
from vidur.errors import InputError
from vidur.execution_time_predictor.tables import LAYER_OPS, POST_NORM_OP, ExecutionTimeTables
from vidur.metrics.text import significant
from vidur.tool import run_tool

Floats: TypeAlias = npt.NDArray[np.float64]

KV_GRANULARITY, CHUNK_GRANULARITY = 64, 16
FEWEST_STEPS = 200
# The numbers of tokens at which the time per token may change.
KNOTS = (16, 64, 256)
# The terms of a step's time; each has a factor of at least 0.
TERMS = (
    "step",
    "request",
    "request in decode",
    "KV token read by a request in decode",
    "pair of prompt tokens",
    *(f"token, {low} to {high}" for low, high in zip((0, *KNOTS), (*KNOTS, "more"), strict=True)),
)


@dataclass(frozen=True)
class CalibrateConfig(Config):
    """The logged steps, and the replicas that logged them."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "calibration"
    help_description: ClassVar[str] = "the logged steps, and the replicas that logged them"

    steps: tuple[str, ...] = setting((), help="the files that VIDUR_STEP_LOG named, of all equal replicas")
    model: str = setting("", help="the model: a known name, or the path of its config.json (or folder)")
    num_replicas: int = setting(1, help="replicas of the simulation to write", minimum=1)
    max_num_seqs: int = setting(256, help="the setting of vllm serve", minimum=1)
    max_num_batched_tokens: int = setting(2048, help="the setting of vllm serve", minimum=1)
    max_model_len: int = setting(2048, help="the setting of vllm serve", minimum=1)
    block_size: int = setting(16, help="the setting of vllm serve", minimum=1)
    kv_blocks: int = setting(1024, help="blocks of a replica's KV-cache: num_gpu_blocks of /metrics", minimum=1)
    output: str = setting("calibrated", help="folder to write: execution_times.npz, simulation.yaml, report.md")

    def check(self) -> None:
        if not self.steps:
            raise InputError("--steps: give the files that VIDUR_STEP_LOG named")
        if not self.model:
            raise InputError("--model: give the model that was served")


@dataclass(frozen=True)
class Fit:
    """A fit of step times. factors: float64[TERMS], seconds; measured, predicted: float64[steps], seconds."""

    factors: Floats
    measured: Floats
    predicted: Floats

    @property
    def explained(self) -> float:
        """The explained share of the variance (R squared)."""
        return 1.0 - float(np.var(self.measured - self.predicted) / np.var(self.measured))


def terms(tokens: Floats, requests: Floats, decodes: Floats, kv: Floats, pairs: Floats) -> Floats:
    """Return float64[N, TERMS] of N steps. kv: KV tokens read in decode; pairs: pairs of prompt tokens."""
    edges = np.array([0.0, *KNOTS, np.inf])
    pieces = np.clip(tokens[:, None] - edges[:-1], 0.0, np.diff(edges))
    return np.column_stack((np.ones(len(tokens)), requests, decodes, kv, pairs, pieces))


def fit_steps(steps: Sequence[Step]) -> Fit:
    """Fit factors of at least 0 to the steps of known duration by least squares.

    A step after an idle time has at most its time in the model; the median overhead of other steps is then added.
    Raises InputError if too few durations are known.
    """
    kv = _kv_before(steps)
    seconds = _seconds(steps)
    known = np.isfinite(seconds)
    if known.sum() < FEWEST_STEPS:
        raise InputError(f"only {known.sum()} steps of known duration, {FEWEST_STEPS} are needed: log a longer load")
    counts = np.array([(step.prompt_tokens, step.prompts, step.decodes) for step in steps], np.float64)[known]
    prompt_tokens, prompts, decodes = counts.T
    pairs = prompt_tokens**2 / np.maximum(prompts, 1.0)
    matrix = terms(prompt_tokens + decodes, prompts + decodes, decodes, kv[known], pairs)
    factors = least_squares(matrix, seconds[known])
    return Fit(factors, seconds[known], matrix @ factors)


def _seconds(steps: Sequence[Step]) -> Floats:
    """Return the durations float64[steps], nan if unknown."""
    whole = np.array([np.nan if step.seconds is None else step.seconds for step in steps])
    model = np.array([np.nan if step.model_seconds is None else step.model_seconds for step in steps])
    both = np.isfinite(whole) & np.isfinite(model)
    overhead = float(np.median(whole[both] - model[both])) if both.any() else 0.0
    return np.where(np.isfinite(whole), whole, model + overhead)


def _kv_before(steps: Sequence[Step]) -> Floats:
    """Return the KV tokens that the decodes of each step read, float64[steps], from the use after the step before."""
    last: dict[tuple[str, int], Step] = {}
    read = np.zeros(len(steps))
    for index, step in enumerate(steps):
        before = last.get((step.replica, step.engine))
        if before is not None and before.running:
            read[index] = before.kv_tokens * min(step.decodes / before.running, 1.0)
        last[step.replica, step.engine] = step
    return read


def make_tables(factors: Floats, config: CalibrateConfig, source: str) -> ExecutionTimeTables:
    """Make tables by which a simulated step takes the fitted time. Raises InputError for an unknown model."""
    model = ModelConfig.from_name(config.model, "--model")
    milliseconds = factors * 1e3
    per_layer = milliseconds / model.num_layers
    tokens = np.arange(config.max_num_batched_tokens + CHUNK_GRANULARITY + 1, dtype=np.float64)
    zero = np.zeros_like(tokens)
    by_tokens = terms(tokens, zero, zero, zero, zero)[:, 5:] @ per_layer[5:]
    requests = np.arange(config.max_num_seqs + 1, dtype=np.float64)
    overhead = np.where(requests > 0, milliseconds[0] + milliseconds[1] * requests, 0.0)
    kv = np.arange(-(-config.max_model_len // KV_GRANULARITY) + 1, dtype=np.float64) * KV_GRANULARITY
    chunk = np.arange(-(-config.max_num_batched_tokens // CHUNK_GRANULARITY) + 1, dtype=np.float64) * CHUNK_GRANULARITY
    return ExecutionTimeTables(
        linear={op: by_tokens if op == "mlp_up_proj" else zero for op in (*LAYER_OPS, POST_NORM_OP)},
        attn_prefill=np.tile(chunk**2 * per_layer[4], (4 * len(kv), 1)),
        attn_decode=requests[:, None] * (per_layer[2] + per_layer[3] * kv[None, :]),
        kv_granularity=KV_GRANULARITY,
        chunk_granularity=CHUNK_GRANULARITY,
        cpu={"cpu_overhead": overhead},
        source=source,
        token_rounding=1,
    )


def simulation_of(config: CalibrateConfig, tables: Path) -> str:
    """Return the YAML of a simulation of these replicas."""
    document = {
        "cluster_config": {
            "num_replicas": config.num_replicas,
            "replica_config": {"model_name": config.model},
            "replica_scheduler_config": {
                "type": "vllm_v1",
                "max_num_seqs": config.max_num_seqs,
                "max_num_batched_tokens": config.max_num_batched_tokens,
                "block_size": config.block_size,
                "num_blocks": config.kv_blocks,
            },
        },
        "execution_time_predictor_config": {
            "type": "tables",
            "file": str(tables),
            "kv_cache_prediction_granularity": KV_GRANULARITY,
            # The times are of whole steps, and so include all overheads.
            "attention_decode_batching_overhead_fraction": 0.0,
            "attention_prefill_batching_overhead_fraction": 0.0,
        },
    }
    return yaml.safe_dump(document, sort_keys=False)


def report(fit: Fit, steps: Sequence[Step]) -> str:
    """Report the fit in Markdown."""
    error = np.abs(fit.predicted - fit.measured)
    names = ", ".join(sorted({f"{step.replica} (engine {step.engine})" for step in steps}))
    lines = [
        "# Execution times from logged steps",
        "",
        f"{len(fit.measured):,} steps of known duration, of {len(steps):,}, by {names}. A step's time is the sum of",
        "",
        "| per | microseconds |",
        "|---|---|",
        *(f"| {name} | {significant(1e6 * factor)} |" for name, factor in zip(TERMS, fit.factors, strict=True)),
        "",
        "| steps | measured, ms | predicted, ms |",
        "|---|---|---|",
        f"| mean | {significant(1e3 * fit.measured.mean())} | {significant(1e3 * fit.predicted.mean())} |",
    ]
    for percentile in (10, 50, 90, 99):
        values = [significant(1e3 * float(np.percentile(times, percentile))) for times in (fit.measured, fit.predicted)]
        lines.append(f"| p{percentile} | {values[0]} | {values[1]} |")
    lines += [
        "",
        f"Mean absolute error {significant(1e3 * float(error.mean()))} ms, "
        f"{100 * float(error.sum() / fit.measured.sum()):.1f} % of the time; R² {fit.explained:.3f}.",
        "",
        "For the router: " + hardware_group(fit.factors),
        "",
    ]
    return "\n".join(lines)


def hardware_group(factors: Floats) -> str:
    """Format the hardware for `vidur-router --groups`: a prefill of 1,024 tokens, 16 decodes of that length."""
    prompt, batch = 1024.0, 16.0
    of_prompt, of_decode = (prompt, 1.0, 0.0, 0.0, prompt**2), (batch, batch, batch, batch * prompt, 0.0)
    prefill, decode = terms(*np.array([of_prompt, of_decode]).T) @ factors
    return f"`--groups name=NAME,prefill_seconds={prefill / prompt:.3g},decode_seconds={decode:.3g}`"


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate as the flags say and return the exit status."""
    return run_tool("rl.vllm.calibrate", (CalibrateConfig,), calibrate, argv, description=__doc__ or "")


def calibrate(config: CalibrateConfig) -> None:
    """Fit the steps, write the folder and print the report. Raises InputError."""
    steps = read_steps(config.steps)
    fit = fit_steps(steps)
    tables = make_tables(fit.factors, config, f"steps of real engines ({', '.join(config.steps)})")
    folder = Path(config.output)
    tables.save(folder / "execution_times.npz")
    write_text(folder / "simulation.yaml", simulation_of(config, folder / "execution_times.npz"))
    text = report(fit, steps)
    write_text(folder / "report.md", text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
