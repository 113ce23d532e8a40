"""Which files a run leaves, by its flags."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import empty_recording, made_up_recording, result_of, three_requests

from vidur.atomic import check_writable
from vidur.config import SimulationConfig
from vidur.errors import InputError, OutputError
from vidur.metrics.operations import CPU_OPERATIONS, LAYER_OPERATIONS
from vidur.metrics.wandb_log import flat
from vidur.metrics.writer import write_results

ALWAYS = {"config.json", "summary.json"}
DEFAULT = ALWAYS | {"request_metrics.csv", "report.html"}
OPERATIONS = {"operation_metrics.csv", "cpu_operation_metrics.csv"}


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        ({}, DEFAULT),
        ({"write_metrics": False}, ALWAYS),
        ({"enable_chrome_trace": True}, DEFAULT | {"chrome_trace.json"}),
        ({"store_request_metrics": False}, DEFAULT - {"request_metrics.csv"}),
        ({"store_plots": False}, DEFAULT - {"report.html"}),
        ({"write_json_trace": True}, DEFAULT | {"event_trace.json"}),
        ({"keep_individual_batch_metrics": True}, DEFAULT | {"batch_metrics.csv"}),
        ({"keep_individual_batch_metrics": True, "store_batch_metrics": False}, DEFAULT),
        ({"store_operation_metrics": True}, DEFAULT),
        (
            {"store_operation_metrics": True, "keep_individual_batch_metrics": True},
            DEFAULT | OPERATIONS | {"batch_metrics.csv"},
        ),
        ({"store_token_completion_metrics": True}, DEFAULT | {"token_completions.csv"}),
        ({"store_utilization_metrics": False}, DEFAULT),
    ],
)
@pytest.mark.parametrize("is_empty", [False, True])
def test_files_follow_the_flags(tmp_path: Path, flags: dict[str, Any], files: set[str], is_empty: bool) -> None:
    write_results(result_of(empty_recording() if is_empty else three_requests(), **flags), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == files


def test_what_cannot_be_written_is_named_and_the_rest_is_written(tmp_path: Path) -> None:
    for name in ("summary.json", "report.html"):
        (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(OutputError) as raised:
        write_results(result_of(three_requests()), tmp_path / "run")
    assert str(raised.value) == f"{tmp_path}/run: summary.json, report.html could not be written: Is a directory"
    written = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert written == DEFAULT - {"summary.json", "report.html"}
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"run: config.json, summary.json, .* could not be written: Not a directory"):
        write_results(result_of(three_requests()), tmp_path / "file" / "run")


def test_an_output_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / "there", "--output")
    check_writable(tmp_path / "new" / "newer", "--output")
    with pytest.raises(InputError, match=r"--output .*/file/below: nothing can be written there \(.*Not a directory\)"):
        check_writable(tmp_path / "file" / "below", "--output")
    with pytest.raises(InputError, match="/proc/none: nothing can be written there"):
        check_writable("/proc/none", "--output")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "there"}
    assert not list((tmp_path / "there").iterdir())


def test_config_json_reproduces_the_run(tmp_path: Path) -> None:
    result = result_of(made_up_recording(10, 3), store_plots=False, subsamples=50)
    write_results(result, tmp_path)
    assert SimulationConfig.from_file(tmp_path / "config.json") == result.config
    assert json.loads((tmp_path / "summary.json").read_text()) == result.summary


def test_same_run_same_bytes(tmp_path: Path) -> None:
    flags = {"keep_individual_batch_metrics": True, "write_json_trace": True, "store_token_completion_metrics": True}
    for name in ("a", "b"):
        write_results(result_of(made_up_recording(60, 2), **flags), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def read(path: Path) -> dict[str, list[str]]:
    with path.open() as file:
        rows = list(csv.reader(file))
    return {name: [row[place] for row in rows[1:]] for place, name in enumerate(rows[0])}


def test_batch_limits_hold_in_every_table(tmp_path: Path) -> None:
    flags = {"keep_individual_batch_metrics": True, "store_operation_metrics": True, "store_plots": False}
    write_results(result_of(three_requests(), min_batch_index=1, max_batch_index=5, **flags), tmp_path)
    for name in ("batch_metrics", "operation_metrics", "cpu_operation_metrics"):
        assert read(tmp_path / f"{name}.csv")["Batch Id"] == ["1", "2", "3", "4", "5"]
    requests = read(tmp_path / "request_metrics.csv")
    assert requests["request_e2e_time"] == ["3.5", "2.5", ""]
    assert requests["request_num_tokens"] == ["7", "7", "6"]


def test_operation_metrics_are_those_of_the_tables(tmp_path: Path) -> None:
    flags = {"keep_individual_batch_metrics": True, "store_operation_metrics": True, "store_plots": False}
    result = result_of(three_requests(), **flags)
    write_results(result, tmp_path)
    layer, cpu = read(tmp_path / "operation_metrics.csv"), read(tmp_path / "cpu_operation_metrics.csv")
    assert list(layer)[1 : 1 + len(LAYER_OPERATIONS)] == list(LAYER_OPERATIONS)
    assert list(cpu)[1:] == list(CPU_OPERATIONS)
    tables = result.hardware[0].tables
    step = tables.token_rounding
    tokens = [4, 7, 1, 2, 1, 1, 1]
    expected = tables.linear["mlp_up_proj"][[-(-count // step) * step for count in tokens]]
    np.testing.assert_allclose([float(text) for text in layer["mlp_up_proj"]], expected, atol=1e-12)
    assert [text != "" for text in layer["attn_prefill"]] == [True, True, False, True, False, False, False]
    assert [text != "" for text in layer["attn_decode"]] == [False, True, True, False, True, True, True]
    whole = sum(float(text or 0) for name, column in layer.items() if name != "Batch Id" for text in column[1:2])
    assert float(cpu["model_execution_e2e"][1]) == pytest.approx(32 * whole, abs=1e-9)


def test_wandb_is_asked_for_but_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = result_of(three_requests(), wandb_project="p", wandb_group="g", store_plots=False)
    with pytest.raises(InputError, match="pip install wandb"):
        write_results(result, tmp_path)
    assert (tmp_path / "request_metrics.csv").exists()


class FakeWandb:
    """Records what is sent."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}

    def init(self, **settings: Any) -> FakeWandb:
        self.settings = settings
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged |= values

    def finish(self) -> None:
        self.logged["finished"] = True

    @staticmethod
    def Table(dataframe: Any) -> int:
        return len(dataframe)


def test_summary_goes_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    flags = {"wandb_project": "p", "wandb_group": "g", "wandb_run_name": "n", "save_table_to_wandb": True}
    write_results(result_of(three_requests(), store_plots=False, **flags), tmp_path)
    assert (fake.settings["project"], fake.settings["group"], fake.settings["name"]) == ("p", "g", "n")
    assert fake.logged["latency/ttft/mean"] == 1.5 and fake.logged["replicas/0/busy"] == 0.48
    assert fake.logged["request_metrics_table"] == 3 and fake.logged["finished"]


def test_flat_names() -> None:
    assert flat({"a": {"b": 1, "c": None}, "d": [2, {"e": "x"}]}) == {"a/b": 1, "d/0": 2, "d/1/e": "x"}
