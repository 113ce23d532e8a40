"""Record a training run in log.jsonl, from which the report is made, and as TensorBoard events."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidur.atomic import write_text
from vidur.errors import InputError
from vidur.metrics.text import in_seconds, percent, significant

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from rl.reward.reward import RewardResult
    from rl.simulate.rollout import Rollout

LOG, SPEED, EVENTS = "log.jsonl", "speed.jsonl", "tensorboard"

# These depend on the machine, so they are kept out of log.jsonl.
SPEED_NAMES = ("charts/SPS",)

# The percentiles by which log.jsonl records a distribution.
QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)

_LOSSES = (
    "policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance", "kl_to_reference",
)  # fmt: skip

_Row = dict[str, Any]


class TrainingLog:
    """Record one run in `folder`. A step is the number of decisions so far; steps must not decrease.

    log.jsonl has one JSON object per line: the hyper-parameters, then for each step a row with `step` and some of
    `scalars`, `histograms` (count, mean and QUANTILES of each), `evaluation` (by scenario and metric) and `clone` (see
    rl.train.warm_start.clone). The same run gives the same bytes. speed.jsonl has the scalars of SPEED_NAMES.
    tensorboard/ has events if TensorBoard is installed.

    resume_step: cut off the rows beyond this step, so that a run that was killed and resumed has the log of an
    uninterrupted one; None begins a new log. Raises InputError for a log that is damaged before that step.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        self._log = _Rows(folder / LOG, resume_step)
        self._speed = _Rows(folder / SPEED, resume_step)
        self._events = _event_writer(folder / EVENTS, resume_step)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Record the hyper-parameters, before anything else; a resumed log has them already."""
        if not self._log.has_header:
            self._log.write_header({"hyperparameters": dict(values)})
            if self._events is not None:
                rows = [("name", "value"), *values.items()]
                self._events.add_text("hyperparameters", _markdown(rows), 0)

    def clone(self, step: int, cloned: Mapping[str, Any]) -> None:
        """Record what rl.train.warm_start.clone returned."""
        self._log.add(step, "clone", cloned)
        if self._events is not None:
            self._events.add_text("clone", _markdown(clone_table(cloned)), step)

    def update(
        self, step: int, figures: Mapping[str, float], rollouts: Sequence[Rollout], results: Sequence[RewardResult]
    ) -> None:
        """Record an update. figures: those of Trainer.learn, and `sps`, decisions per second."""
        stages = {name: np.concatenate([getattr(result, name) for result in results])
                  for name in ("raw", "scaled", "clipped")}  # fmt: skip
        scalars = {f"losses/{name}": figures[name] for name in _LOSSES}
        scalars |= {"charts/SPS": figures["sps"], "charts/learning_rate": figures["learning_rate"]}
        scalars |= {f"reward/{name}": float(values.mean()) for name, values in stages.items()}
        for bound in ("low", "high"):
            shares = [getattr(result, f"share_clipped_{bound}") for result in results]
            scalars[f"reward/clipped_share_{bound}"] = float(np.mean(shares))
        for name in results[0].terms:
            scalars[f"reward/term/{name}"] = float(np.concatenate([result.terms[name] for result in results]).mean())
        self.scalars(step, scalars)
        for name, values in stages.items():
            self.histogram(step, f"reward/{name}", values)
        self.histogram(step, "policy/action_distribution", _shares(rollouts))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record values by name, such as losses/approx_kl."""
        for name in SPEED_NAMES:
            if name in values:
                self._speed.add(step, "scalars", {name: values[name]})
        self._log.add(step, "scalars", {name: value for name, value in values.items() if name not in SPEED_NAMES})
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, values: NDArray[Any]) -> None:
        """Record the distribution of the finite values."""
        present = np.asarray(values, np.float64).ravel()
        present = present[np.isfinite(present)]
        if not len(present):
            return
        summary = {
            "count": len(present),
            "mean": _rounded(float(present.mean())),
            "quantiles": [_rounded(value) for value in np.percentile(present, QUANTILES).tolist()],
        }
        self._log.add(step, "histograms", {name: summary})
        if self._events is not None:
            # The suffix keeps it apart from the scalar of the same name.
            self._events.add_histogram(f"{name}_distribution", present, step)

    def evaluation(self, step: int, scenarios: Mapping[str, Mapping[str, float]]) -> None:
        """Record figures by scenario and metric; `<metric>_vs_<baseline>` is negative where the policy is better."""
        self._log.add(step, "evaluation", {scenario: dict(figures) for scenario, figures in scenarios.items()})
        if self._events is not None:
            for scenario, figures in scenarios.items():
                for metric, value in figures.items():
                    self._events.add_scalar(f"evaluation/{scenario}/{metric}", value, step)

    def close(self) -> None:
        self._log.close()
        self._speed.close()
        if self._events is not None:
            self._events.close()


class _Rows:
    """A file of JSON lines, one per step. Each addition to the newest step rewrites its line at once."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [] if resume_step is None or not path.exists() else list(_lines(path, resume_step))
        write_text(path, "".join(rows))
        self._row: _Row = json.loads(rows[-1]) if rows else {}
        self.has_header = bool(rows) and "step" not in json.loads(rows[0])
        self._file: IO[bytes] = path.open("r+b")
        self._begin = sum(len(row.encode()) for row in rows[:-1])

    def write_header(self, header: _Row) -> None:
        assert not self._row and not self.has_header
        self._row = header
        self._write()
        self.has_header = True

    def add(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        if self._row.get("step") != step:
            assert step > self._row.get("step", -1), f"step {step} after step {self._row['step']}"
            self._begin = self._file.seek(0, 2)
            self._row = {"step": step}
        self._row.setdefault(kind, {}).update(values)
        self._write()

    def _write(self) -> None:
        self._file.seek(self._begin)
        self._file.write((json.dumps(_finite(self._row)) + "\n").encode())
        self._file.truncate()
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines(path: Path, last_step: int) -> Iterable[str]:
    """Yield the lines up to `last_step`, without an incomplete last line of a killed or running process."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            return
        try:
            step = json.loads(line).get("step", -1)
        except (ValueError, AttributeError, RecursionError):
            raise InputError(
                f"the log is damaged: {path}:{number} is not a JSON object; train in another folder"
            ) from None
        if step > last_step:
            return
        yield line


def read_log(folder: Path) -> tuple[dict[str, Any], list[_Row]]:
    """Read the hyper-parameters and the rows of a run, finished or not; the rows include the scalars of speed.jsonl.

    Raises InputError if there is no log or it is damaged.
    """
    path = folder / LOG
    if not path.is_file():
        raise InputError(f"there is no {path}: give the folder of a training run (python -m rl.train --folder)")
    hyperparameters: dict[str, Any] = {}
    rows: dict[int, _Row] = {}
    for row in map(json.loads, _lines(path, sys.maxsize)):
        if "step" in row:
            rows[row["step"]] = row
        else:
            hyperparameters = row["hyperparameters"]
    if (folder / SPEED).is_file():
        for row in map(json.loads, _lines(folder / SPEED, sys.maxsize)):
            rows.setdefault(row["step"], {"step": row["step"]}).setdefault("scalars", {}).update(row["scalars"])
    return hyperparameters, [rows[step] for step in sorted(rows)]


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot express by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _shares(rollouts: Sequence[Rollout]) -> NDArray[np.float64]:
    """Return each replica's share of its simulation's decisions, relative to the mean share."""
    shares = [
        np.bincount(rollout.actions, minlength=rollout.masks.shape[1]) * rollout.masks.shape[1] / len(rollout)
        for rollout in rollouts
        if len(rollout)
    ]
    return np.concatenate(shares)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def clone_table(cloned: Mapping[str, Any]) -> list[list[str]]:
    """Format what rl.train.warm_start.clone returned: the headings, a row per demonstrator, and one for the clone."""
    rows = [["Scheduler", "Weight", "Decisions", "Agreement", "Cost", "Cost of clone", "Mean E2E", "p99 TTFT"]]
    for figures in cloned["demonstrators"]:
        rows.append([
            figures["scheduler"], f"{figures['weight']:g}", f"{figures['decisions']:,}", percent(figures["agreement"]),
            significant(figures["cost"]), significant(figures["cost_of_clone"]),
        ])  # fmt: skip
    rows.append(["the clone", *[""] * 5])
    for row, figures in zip(rows[1:], [*cloned["demonstrators"], cloned], strict=True):
        row += [in_seconds(figures["mean_e2e"]), in_seconds(figures["p99_ttft"])]
    return rows


def _markdown(rows: Sequence[Sequence[Any]]) -> str:
    """Format a table whose first row has the headings."""
    first, *others = ("| " + " | ".join(map(str, row)) + " |" for row in rows)
    return "\n".join([first, "|---" * len(rows[0]) + "|", *others])


def _event_writer(folder: Path, resume_step: int | None) -> SummaryWriter | None:
    if find_spec("tensorboard") is None or find_spec("torch") is None:
        print("TensorBoard is not installed (pip install tensorboard): only log.jsonl is written", file=sys.stderr)
        return None
    from torch.utils.tensorboard import SummaryWriter

    if resume_step is None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
    return SummaryWriter(str(folder), purge_step=None if resume_step is None else resume_step + 1)


# The figures of a line of progress, with their formats.
_FIGURES = {
    "reward": "{:.3f}", "approx_kl": "{:.4f}", "clipfrac": "{:.3f}", "entropy": "{:.3f}",
    "explained_variance": "{:.2f}", "kl_to_reference": "{:.3f}",
}  # fmt: skip
_COMPARED = {"mean_e2e_vs_least_tokens": "mean E2E", "p99_ttft_vs_least_tokens": "p99 TTFT"}


class ProgressNotes:
    """Format the figures of the last update beside a training run's progress.

    The comparison with least_tokens is repeated until there is a new one.
    """

    def __init__(self) -> None:
        self._compared: dict[str, float] = {}

    def text(self, figures: Mapping[str, float]) -> str:
        self._compared |= {name: figures[name] for name in _COMPARED if name in figures}
        parts = [f"{figures['sps']:,.0f} decisions/s"] if "sps" in figures else []
        parts += [f"{name} {form.format(figures[name])}" for name, form in _FIGURES.items() if name in figures]
        if self._compared:
            shown = [f"{label} {_signed(self._compared[name])}" for name, label in _COMPARED.items()
                     if name in self._compared]  # fmt: skip
            parts.append(f"against least_tokens: {', '.join(shown)}")
        return ", ".join(parts)


def _signed(fraction: float) -> str:
    return ("+" if fraction > 0 else "") + percent(fraction)
