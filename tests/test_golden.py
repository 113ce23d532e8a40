"""Upstream's own results, to 1e-9 seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import GoldenCase

from vidur.simulator import simulate

CASES = (
    "faster_transformer_conv", "lightllm_conv", "orca_rr_conv", "sarathi_70b_tp4_arxiv", "sarathi_lor_conv",
    "sarathi_pp2", "sarathi_preempt", "sarathi_rr_fixed", "vllm_70b_tp4_pp2", "vllm_rr_conv",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reproduces_upstream(shared: Path, name: str) -> None:
    case = GoldenCase(shared / "golden" / name)
    recording = simulate(case.config()).recording
    expected = case.expected
    for exact, theirs in (("replica", "replica"), ("num_restarts", "num_restarts")):
        assert (recording.requests[exact] == expected[theirs]).all()
    for column in ("scheduled_at", "prefill_completed_at", "completed_at", "execution_time", "preempted_time"):
        assert np.abs(recording.requests[column] - expected[column]).max() < 1e-9, column
    first = recording.batches["stage"] == 0
    assert recording.batches["count"][first].sum() == case.facts["batches"]


def test_no_case_is_forgotten(shared: Path) -> None:
    assert sorted(folder.name for folder in (shared / "golden").iterdir()) == sorted(CASES)
