"""The command line: every flag of upstream's, and what a mistake gets."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vidur.config import SimulationConfig
from vidur.config.command_line import _parser
from vidur.config.flag import Flag, all_flags
from vidur.errors import InputError

KINDS = {int: "int", float: "float", str: "str", bool: "bool"}
PREDICTOR_TYPE = "--execution_time_predictor_config_type"
# Where our defaults are not upstream's: see docs/differences.md.
OTHER_DEFAULTS = {PREDICTOR_TYPE: "roofline", "--metrics_config_enable_chrome_trace": False}


def error_of(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        SimulationConfig.from_cli(argv)
    line = str(caught.value)
    assert "\n" not in line
    return line


def kind_of(flag: Flag) -> str:
    kind = "str" if flag.family else KINDS[flag.item.type]
    return f"List[{kind}]" if flag.item.many else kind


def shown(default: Any) -> str:
    if default is None:
        return ""
    return str(list(default)) if isinstance(default, tuple) else str(default)


def test_every_flag_of_upstream_has_its_type_and_default(shared: Path) -> None:
    with (shared / "vidur" / "cli_flags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 100
    for row in rows:
        flag = all_flags()[row["flag"].removeprefix("--")]
        assert kind_of(flag) == row["type"], row["flag"]
        if row["flag"] in OTHER_DEFAULTS:
            assert flag.default == OTHER_DEFAULTS[row["flag"]] and shown(flag.default) != row["default"], row["flag"]
        elif row["type"] == "float" and row["default"]:
            assert float(shown(flag.default)) == float(row["default"]), row["flag"]
        else:
            assert shown(flag.default) == row["default"], row["flag"]


def test_upstreams_types_are_accepted() -> None:
    types = {
        "global_scheduler_config_type": ["random", "round_robin", "lor"],
        "replica_scheduler_config_type": ["vllm", "orca", "faster_transformer", "sarathi"],
        "request_generator_config_type": ["synthetic", "trace_replay"],
        "length_generator_config_type": ["trace", "zipf", "uniform", "fixed"],
        "interval_generator_config_type": ["trace", "poisson", "gamma", "static"],
        "execution_time_predictor_config_type": ["random_forrest", "random_forest", "linear_regression"],
    }
    for flag, names in types.items():
        for name in names:
            SimulationConfig.from_cli([f"--{flag}", name])


def test_random_forest_is_random_forrest() -> None:
    one = SimulationConfig.from_cli([PREDICTOR_TYPE, "random_forest"])
    other = SimulationConfig.from_cli([PREDICTOR_TYPE, "random_forrest"])
    assert one == other
    assert one.to_dict()["execution_time_predictor_config"]["type"] == "random_forrest"


def test_flags_of_every_kind_are_read() -> None:
    argv = (
        "--seed 7 --no-metrics_config_write_metrics --metrics_config_write_json_trace --metrics_config_subsamples 9 "
        "--poisson_request_interval_generator_config_qps=2.5 --execution_time_predictor_config_type random_forest "
        "--random_forrest_execution_time_predictor_config_max_depth 4 5 "
        "--random_forrest_execution_time_predictor_config_num_training_job_threads -1 "
        "--random_forrest_execution_time_predictor_config_no_cache"
    )
    config = SimulationConfig.from_cli(argv.split())
    forest: Any = config.execution_time_predictor_config
    requests: Any = config.request_generator_config
    assert (config.seed, config.metrics_config.write_metrics, config.metrics_config.subsamples) == (7, False, 9)
    assert config.metrics_config.write_json_trace
    assert requests.interval_generator_config.qps == 2.5
    assert (forest.max_depth, forest.num_training_job_threads, forest.no_cache) == ((4, 5), -1, True)


def test_lists_of_truths_are_read_as_such() -> None:
    config = SimulationConfig.from_cli(
        [
            *(PREDICTOR_TYPE, "linear_regression"),
            *("--linear_regression_execution_time_predictor_config_fit_intercept", "False", "true"),
        ]
    )
    predictor: Any = config.execution_time_predictor_config
    assert predictor.fit_intercept == (False, True)


def test_flags_of_a_type_not_chosen_have_no_effect() -> None:
    config = SimulationConfig.from_cli(["--lightllm_scheduler_config_block_size", "16", "--seed", "42"])
    assert config == SimulationConfig()


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ("--seed abc", ["--seed", "an integer", "'abc'"]),
        ("--seed 1.5", ["--seed", "an integer", "'1.5'"]),
        ("--seed", ["--seed", "expected one argument"]),
        ("--poisson_request_interval_generator_config_qps fast", ["interval_generator_config_qps", "a number"]),
        ("--poisson_request_interval_generator_config_qps nan", ["interval_generator_config_qps", "finite"]),
        ("--num_replicas 3", ["unknown flag --num_replicas", "--cluster_config_num_replicas"]),
        ("--cluster_config_num_replica 3", ["unknown flag", "did you mean --cluster_config_num_replicas"]),
        ("--cluster_config_num 3", ["unknown flag --cluster_config_num"]),
        ("--no-metrics_config_store_plot", ["unknown flag", "--no-metrics_config_store_plots"]),
        ("--no-seed", ["--no-seed", "takes a value"]),
        ("--zzz", ["unknown flag --zzz", "--help"]),
        ("-x", ["unknown flag -x"]),
        ("simulate", ["unexpected argument 'simulate'"]),
        ("--metrics_config_write_metrics false", ["unexpected argument 'false'", "--no-x"]),
        ("--metrics_config_write_metrics=false", ["--metrics_config_write_metrics"]),
        ("--replica_scheduler_config_type vlm", ["--replica_scheduler_config_type 'vlm'", "mean vllm"]),
        ("--global_scheduler_config_type lro", ["--global_scheduler_config_type 'lro'", "lor"]),
        ("--length_generator_config_type fixd", ["--length_generator_config_type 'fixd'", "mean fixed"]),
        ("--replica_config_device h10", ["--replica_config_device 'h10'", "mean h100"]),
        ("--replica_config_model_name meta-llama/Llama-2-7b", ["--replica_config_model_name", "Llama-2-7b-hf"]),
        ("--log_level loud", ["--log_level 'loud'", "info"]),
    ],
)
def test_a_mistake_gets_one_line_that_names_the_flag(argv: str, parts: list[str]) -> None:
    line = error_of(*argv.split())
    for part in parts:
        assert part in line


def test_a_hint_for_a_flag_is_short() -> None:
    assert len(error_of("--sed", "3")) < 300


def test_help_groups_flags_and_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        SimulationConfig.from_cli(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    for flag in all_flags():
        assert f"--{flag}" in text
    assert "replica scheduler: sarathi: Sarathi: chunked prompts" in text
    assert "metrics: what is recorded, and where it is written" in text
    assert "token budget of a batch (default: 512)" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        SimulationConfig.from_cli(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("vidur ")


def test_the_parser_is_built_fast() -> None:
    _parser()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        _parser()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vidur.config import SimulationConfig; SimulationConfig.from_cli(['--seed', '1']);"
        "print([name for name in ('numpy', 'pandas', 'numba', 'plotly', 'yaml', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["routers.py:Mine", "package.routers:Mine"])
def test_a_scheduler_of_the_users_is_named_as_the_type(name: str) -> None:
    config = SimulationConfig.from_cli(
        ["--global_scheduler_config_type", name, "--custom_global_scheduler_config_options", '{"beta": 2}']
    )
    scheduler: Any = config.cluster_config.global_scheduler_config
    assert (scheduler.get_type(), scheduler.scheduler, scheduler.parsed_options) == ("custom", name, {"beta": 2})
    assert SimulationConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "part"), [("{", "is not JSON"), ("[1]", "must be a JSON object")]
)  # fmt: skip
def test_bad_options_of_a_users_scheduler(options: str, part: str) -> None:
    line = error_of("--global_scheduler_config_type", "a:B", "--custom_global_scheduler_config_options", options)
    assert "--custom_global_scheduler_config_options" in line
    assert part in line


@pytest.mark.parametrize("name", ["a:", ":B", "a:b c"])
def test_a_malformed_class_name(name: str) -> None:
    assert "module:Class" in error_of("--global_scheduler_config_type", name)
