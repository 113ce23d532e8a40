"""What a training run records: log.jsonl, which the report reads, TensorBoard events, and the line of progress."""

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

# Of the machine and not of the run: they differ from one machine to the next, so they are kept out of log.jsonl.
SPEED_NAMES = ("charts/SPS",)

# Percent: the quantiles that stand for a distribution in log.jsonl.
QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)

# Of the figures of an update.
_LOSSES = (
    "policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance", "kl_to_reference",
)  # fmt: skip

_Row = dict[str, Any]


class TrainingLog:
    """The record of one run in `folder`. Steps are decisions so far, and never go down.

    log.jsonl has one JSON object on a line: first the hyper-parameters, then a row for each step, with `step` and what
    was recorded at it: `scalars`, `histograms` (count, mean and QUANTILES of each), `evaluation` (by scenario and
    metric), `clone` (see rl.train.warm_start.clone). The same run gives the same bytes. speed.jsonl has the scalars of
    SPEED_NAMES. The events for TensorBoard lie in tensorboard/; without the package there are none.

    resume_step: go on after the rows of this step: those beyond it are cut off, so that a run that was killed and
    resumed has the log.jsonl of one that was not. None begins anew. Raises InputError for a log that is damaged before
    that step.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        self._log = _Rows(folder / LOG, resume_step)
        self._speed = _Rows(folder / SPEED, resume_step)
        self._events = _event_writer(folder / EVENTS, resume_step)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """What the run was asked for, once, before anything else; a resumed log has it already."""
        if not self._log.has_header:
            self._log.write_header({"hyperparameters": dict(values)})
            if self._events is not None:
                rows = [("name", "value"), *values.items()]
                self._events.add_text("hyperparameters", _markdown(rows), 0)

    def clone(self, step: int, cloned: Mapping[str, Any]) -> None:
        """What rl.train.warm_start.clone returned."""
        self._log.add(step, "clone", cloned)
        if self._events is not None:
            self._events.add_text("clone", _markdown(clone_table(cloned)), step)

    def update(
        self, step: int, figures: Mapping[str, float], rollouts: Sequence[Rollout], results: Sequence[RewardResult]
    ) -> None:
        """An update: the figures of Trainer.learn and `sps`, decisions per second; what was learned from, and the
        rewards of that."""
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
        """Values by the field's names, such as losses/approx_kl."""
        for name in SPEED_NAMES:
            if name in values:
                self._speed.add(step, "scalars", {name: values[name]})
        self._log.add(step, "scalars", {name: value for name, value in values.items() if name not in SPEED_NAMES})
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, values: NDArray[Any]) -> None:
        """The distribution of `values`; those that are not finite are left out."""
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
            # A scalar of the same name is another chart.
            self._events.add_histogram(f"{name}_distribution", present, step)

    def evaluation(self, step: int, scenarios: Mapping[str, Mapping[str, float]]) -> None:
        """Figures by scenario and metric; `<metric>_vs_<baseline>` is relative, negative where the policy is better."""
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
    """JSON lines, one for each step. What is added to the newest step is on disk at once: its line is written anew."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [] if resume_step is None or not path.exists() else list(_kept(path, resume_step))
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


def _kept(path: Path, resume_step: int) -> Iterable[str]:
    """The lines up to a step. The last line may be cut short, by a kill."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            return
        try:
            step = json.loads(line).get("step", -1)
        except (ValueError, AttributeError, RecursionError):
            raise InputError(
                f"{path}:{number} is no JSON object, the log is damaged: train anew, in another folder"
            ) from None
        if step > resume_step:
            return
        yield line


def read_log(folder: Path) -> tuple[dict[str, Any], list[_Row]]:
    """The hyper-parameters and the rows of a run's log.jsonl, with the scalars of speed.jsonl in them. Also of a run
    that is going on: a last line that is not whole is left out. Raises InputError if there is no log, or a damaged one.
    """
    path = folder / LOG
    if not path.is_file():
        raise InputError(f"there is no {path}: give the folder of a training run (python -m rl.train --folder)")
    everything = sys.maxsize
    hyperparameters: dict[str, Any] = {}
    rows: dict[int, _Row] = {}
    for row in map(json.loads, _kept(path, everything)):
        if "step" in row:
            rows[row["step"]] = row
        else:
            hyperparameters = row["hyperparameters"]
    if (folder / SPEED).is_file():
        for row in map(json.loads, _kept(folder / SPEED, everything)):
            rows.setdefault(row["step"], {"step": row["step"]}).setdefault("scalars", {}).update(row["scalars"])
    return hyperparameters, [rows[step] for step in sorted(rows)]


def _finite(value: Any) -> Any:
    """With None for numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _shares(rollouts: Sequence[Rollout]) -> NDArray[np.float64]:
    """The share of the decisions that each replica got, over its simulation's mean share, of all simulations."""
    shares = [
        np.bincount(rollout.actions, minlength=rollout.masks.shape[1]) * rollout.masks.shape[1] / len(rollout)
        for rollout in rollouts
        if len(rollout)
    ]
    return np.concatenate(shares)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def clone_table(cloned: Mapping[str, Any]) -> list[list[str]]:
    """What rl.train.warm_start.clone returned, as texts: the headings, then each demonstrator, then the clone."""
    rows = [["Scheduler", "Weight", "Decisions", "Agreement", "Cost", "The clone's", "Mean E2E", "p99 TTFT"]]
    for its in cloned["demonstrators"]:
        rows.append([
            its["scheduler"], f"{its['weight']:g}", f"{its['decisions']:,}", percent(its["agreement"]),
            significant(its["cost"]), significant(its["cost_of_clone"]),
        ])  # fmt: skip
    rows.append(["the clone", *[""] * 5])
    for row, its in zip(rows[1:], [*cloned["demonstrators"], cloned], strict=True):
        row += [in_seconds(its["mean_e2e"]), in_seconds(its["p99_ttft"])]
    return rows


def _markdown(rows: Sequence[Sequence[Any]]) -> str:
    """A table; the first row are its headings."""
    first, *others = ("| " + " | ".join(map(str, row)) + " |" for row in rows)
    return "\n".join([first, "|---" * len(rows[0]) + "|", *others])


def _event_writer(folder: Path, resume_step: int | None) -> SummaryWriter | None:
    if find_spec("tensorboard") is None or find_spec("torch") is None:
        print("TensorBoard is not installed (pip install tensorboard): log.jsonl alone is written", file=sys.stderr)
        return None
    from torch.utils.tensorboard import SummaryWriter

    if resume_step is None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
    return SummaryWriter(str(folder), purge_step=None if resume_step is None else resume_step + 1)


# Seconds between two plain lines of progress.
_LINE_EVERY = 15.0

# (name of a figure, how it is called, format), in the order of the line.
_FIGURES = (
    ("reward", "reward", "{:.3f}"),
    ("approx_kl", "approx_kl", "{:.4f}"),
    ("clipfrac", "clipfrac", "{:.3f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("explained_variance", "explained_variance", "{:.2f}"),
    ("kl_to_reference", "kl_to_reference", "{:.3f}"),
)
_COMPARED = {"mean_e2e_vs_least_tokens": "mean E2E", "p99_ttft_vs_least_tokens": "p99 TTFT"}


class ProgressNotes:
    """What stands behind a training run's progress: the figures of the last update that matter. Those against
    least_tokens stay until there are new ones."""

    def __init__(self) -> None:
        self._compared: dict[str, float] = {}

    def text(self, figures: Mapping[str, float]) -> str:
        self._compared |= {name: figures[name] for name in _COMPARED if name in figures}
        parts = [f"{figures['sps']:,.0f} decisions/s"] if "sps" in figures else []
        parts += [f"{label} {form.format(figures[name])}" for name, label, form in _FIGURES if name in figures]
        if self._compared:
            shown = [f"{label} {_signed(self._compared[name])}" for name, label in _COMPARED.items()
                     if name in self._compared]  # fmt: skip
            parts.append(f"against least_tokens: {', '.join(shown)}")
        return ", ".join(parts)


def _signed(fraction: float) -> str:
    return ("+" if fraction > 0 else "") + percent(fraction)
