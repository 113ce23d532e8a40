"""The record of a training run, its report, and its line of progress."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from report_pages import page_and_charts

from rl.train import log as training_log
from rl.train.log import QUANTILES, ProgressNotes, TrainingLog, read_log
from rl.train.report import main, write_training_report
from vidur.errors import InputError

UPDATE = 8192


def record(log: TrainingLog, update: int, seed: int = 0) -> None:
    """What a trainer records at an update: made up, but of the shape of a run that learns."""
    rng = np.random.default_rng([seed, update])
    step = update * UPDATE
    learned = 1 - np.exp(-update / 40)
    raw = rng.gamma(2.0, 0.6, 500) * -1.2 + 0.4 * learned
    log.scalars(
        step,
        {
            "losses/policy_loss": 0.01 * rng.normal(),
            "losses/value_loss": 0.5 - 0.3 * learned + 0.05 * rng.normal(),
            "losses/entropy": 1.1 - 0.6 * learned + 0.02 * rng.normal(),
            "losses/approx_kl": 0.004 + 0.002 * rng.random(),
            "losses/clipfrac": 0.05 + 0.02 * rng.random(),
            "losses/explained_variance": 0.7 * learned + 0.04 * rng.normal(),
            "losses/kl_to_reference": 0.08 * learned,
            "charts/SPS": 9000 + 500 * rng.normal(),
            "charts/learning_rate": 3e-4 - 1e-6 * update,
            "reward/raw": float(raw.mean()),
            "reward/scaled": float(raw.mean()) / 1.5,
            "reward/clipped": float(np.clip(raw / 1.5, -1.5, 1.5).mean()),
            "reward/clipped_share_low": float((raw / 1.5 < -1.5).mean()),
            "reward/clipped_share_high": 0.0,
            "reward/term/marginal_cost": float(raw.mean()) * 0.8,
            "reward/term/load_balance": float(raw.mean()) * 0.2,
        },
    )
    for name, values in (("raw", raw), ("scaled", raw / 1.5), ("clipped", np.clip(raw / 1.5, -1.5, 1.5))):
        log.histogram(step, f"reward/{name}", values)
    log.histogram(step, "policy/action_distribution", 1 + (0.1 + 0.2 * learned) * rng.normal(size=64))
    if update % 10 == 0:
        log.evaluation(step, {"training": {
            "mean_e2e": 7.7 - 0.5 * learned, "mean_e2e_vs_round_robin": -0.05 - 0.05 * learned,
            "mean_e2e_vs_least_tokens": 0.02 - 0.07 * learned, "p99_ttft": 1.9 - 0.4 * learned,
            "p99_ttft_vs_round_robin": -0.2, "p99_ttft_vs_least_tokens": 0.3 - 0.25 * learned,
        }})  # fmt: skip


def run(folder: Path, first: int, last: int, resume_step: int | None = None) -> None:
    log = TrainingLog(folder, resume_step)
    log.hyperparameters({"suite": "default", "seed": 0, "learning_rate": 3e-4, "reward": "marginal_cost"})
    for update in range(first, last + 1):
        record(log, update)
    log.close()


def test_resumed_log_is_that_of_a_run_that_was_not_killed(tmp_path: Path) -> None:
    run(tmp_path / "whole", 1, 30)
    run(tmp_path / "killed", 1, 24)
    # The kill came in the middle of a line; the last checkpoint is of update 17.
    path = tmp_path / "killed" / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    run(tmp_path / "killed", 18, 30, resume_step=17 * UPDATE)
    assert path.read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    assert [row["step"] // UPDATE for row in read_log(tmp_path / "killed")[1]] == list(range(1, 31))


def test_a_kill_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    """Every row is on disk when the call returns: a checkpoint that is written next may rely on it."""
    log = TrainingLog(tmp_path)
    log.hyperparameters({"seed": 1})
    log.evaluation(0, {"training": {"mean_e2e": 7.0}})
    record(log, 10)
    hyperparameters, rows = read_log(tmp_path)
    log.close()
    assert hyperparameters == {"seed": 1}
    assert [row["step"] for row in rows] == [0, 10 * UPDATE]
    assert set(rows[1]) == {"step", "scalars", "histograms", "evaluation"}
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_a_new_run_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    run(tmp_path, 1, 5)
    run(tmp_path, 1, 2)
    assert len(read_log(tmp_path)[1]) == 2


def test_what_the_machine_does_is_kept_apart(tmp_path: Path) -> None:
    run(tmp_path, 1, 3)
    assert "SPS" not in (tmp_path / "log.jsonl").read_text()
    assert all(row["scalars"]["charts/SPS"] > 0 for row in read_log(tmp_path)[1])


def test_histogram_is_quantiles_of_what_is_finite(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.histogram(1, "reward/raw", np.array([np.nan, *range(101), np.inf]))
    log.histogram(1, "reward/none", np.array([np.nan]))
    log.scalars(1, {"losses/entropy": float("nan")})
    log.close()
    (row,) = read_log(tmp_path)[1]
    assert row["histograms"] == {"reward/raw": {"count": 101, "mean": 50.0, "quantiles": list(map(float, QUANTILES))}}
    assert row["scalars"] == {"losses/entropy": None}


def test_tensorboard_events_have_the_fields_names(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, 1, 24)
    # Files of events are read in the order of their names, which begin with the second.
    time.sleep(1)
    run(tmp_path, 18, 20, resume_step=17 * UPDATE)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"losses/approx_kl", "charts/SPS", "reward/term/load_balance"} <= set(tags["scalars"])
    assert "evaluation/training/mean_e2e_vs_least_tokens" in tags["scalars"]
    assert "reward/raw_distribution" in tags["histograms"]
    # What lies past the step that was resumed is gone.
    assert [event.step // UPDATE for event in events.Scalars("losses/entropy")] == list(range(1, 21))


def test_without_tensorboard_it_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_log, "find_spec", lambda name: None)
    run(tmp_path, 1, 2)
    assert capsys.readouterr().err.count("TensorBoard is not installed") == 1
    assert len(read_log(tmp_path)[1]) == 2 and not (tmp_path / "tensorboard").exists()


def test_damaged_log_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 1, 3)
    path = tmp_path / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "garbage\n", *lines[2:]]))
    with pytest.raises(InputError, match=r"log.jsonl:2 is not a JSON object"):
        TrainingLog(tmp_path, resume_step=3 * UPDATE)


def test_report_shows_the_run_and_works_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, 1, 60)
    assert main([str(tmp_path)]) == 0
    path = tmp_path / "report.html"
    assert capsys.readouterr().out.strip() == str(path)
    head, charts = page_and_charts(path)
    titles = re.findall(r"<figcaption><span><b>(.*?)</b>", head)
    for title in ("Mean E2E", "p99 TTFT", "Entropy", "Clip fraction", "Raw reward", "Clipped share",
                  "Shares of the replicas", "Speed", "Terms of the reward"):  # fmt: skip
        assert title in titles
    assert len(charts) == head.count("class='plot'") == len(titles)
    # The learning curve: percent against each baseline, at the steps of the evaluations.
    against = charts[titles.index("Mean E2E")]["data"]
    assert [trace["name"] for trace in against] == ["against round_robin", "against least_tokens", "equal"]
    assert against[1]["x"] == [10 * UPDATE * i for i in range(1, 7)]
    assert against[1]["y"][-1] == pytest.approx(100 * (0.02 - 0.07 * (1 - np.exp(-1.5))), rel=1e-3)
    assert "learning_rate" in head and "0.0003" in head


def test_report_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.hyperparameters({"name": "<b>"})
    head, charts = page_and_charts(write_training_report(tmp_path))
    log.close()
    assert charts == [] and "nothing was recorded" in head and "&lt;b&gt;" in head


def test_report_without_a_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("rl.training_report: error: there is no ") and "--folder" in first
    assert "FOLDER" in second


FIGURES: Mapping[str, float] = {"sps": 9000.0, "reward": -1.25, "approx_kl": 0.004, "clipfrac": 0.05,
                                "entropy": 0.8, "explained_variance": 0.4, "kl_to_reference": 0.02}  # fmt: skip


def test_notes_of_progress_keep_the_last_comparison() -> None:
    notes = ProgressNotes()
    first = notes.text({**FIGURES, "mean_e2e_vs_least_tokens": -0.034, "p99_ttft_vs_least_tokens": 0.1})
    assert first.startswith("9,000 decisions/s, reward -1.250, approx_kl 0.0040")
    assert notes.text(FIGURES).endswith("against least_tokens: mean E2E -3.4 %, p99 TTFT +10.0 %")
