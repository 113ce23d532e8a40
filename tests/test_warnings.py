"""What was accepted in silence: flags without effect, other capitals, clusters beyond memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidur.config import PPOGlobalSchedulerConfig, ReplicaGroupConfig, SimulationConfig
from vidur.errors import InputError
from vidur.learned import beta_warning
from vidur.main import main

ROUTER = "--global_scheduler_config_type"


@pytest.mark.parametrize(
    ("flags", "warnings"),
    [
        ([ROUTER, "lor", "--ppo_global_scheduler_config_beta", "5"],
         ["--ppo_global_scheduler_config_beta has no effect with --global_scheduler_config_type lor"]),
        (["--ppo_global_scheduler_config_beta", "5", ROUTER, "ppo"], []),
        (["--request_generator_config_type", "trace_replay", "--trace_request_generator_config_trace_file", "x.csv",
          "--poisson_request_interval_generator_config_qps", "3"],
         ["--poisson_request_interval_generator_config_qps has no effect"]),
        ([ROUTER, "LOR", "--lor_global_scheduler_config_count", "waiting"], []),
    ],
)  # fmt: skip
def test_a_flag_of_a_type_that_is_not_chosen_is_told(
    flags: list[str], warnings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    SimulationConfig.from_cli(flags)
    assert capsys.readouterr().err.splitlines() == [f"vidur: warning: {text}" for text in warnings]


def test_capitals_do_not_matter() -> None:
    config = SimulationConfig.from_cli(
        [ROUTER, "Round_Robin", "--replica_config_device", "H100", "--replica_config_network_device", "H100_DGX",
         "--replica_config_model_name", "META-LLAMA/llama-2-7B-hf", "--log_level", "INFO"]
    )  # fmt: skip
    replica = config.cluster_config.replica_config
    assert (replica.device, replica.network_device, config.log_level) == ("h100", "h100_dgx", "info")
    assert config.cluster_config.global_scheduler_config.get_type() == "round_robin"
    assert replica.model.name == "meta-llama/Llama-2-7b-hf"
    assert ReplicaGroupConfig(device="A100").device == "a100"


def test_a_beta_that_the_policy_was_not_trained_on_is_told() -> None:
    assert beta_warning(PPOGlobalSchedulerConfig(beta=44.0)) is None
    told = beta_warning(PPOGlobalSchedulerConfig(beta=45.0))
    assert told is not None and "beta 45 is outside 2 to 44" in told


def test_an_unknown_model_is_told_of_config_json() -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        SimulationConfig.from_cli(["--replica_config_model_name", "nobody/nothing"])


@pytest.mark.parametrize(
    "flag", ["--cluster_config_num_replicas 1000000", "--cluster_config_replica_groups num_replicas=1000000"]
)
def test_a_million_replicas_are_too_many(flag: str) -> None:
    with pytest.raises(InputError, match=r"at most 16,?384"):
        SimulationConfig.from_cli(flag.split())


def test_a_run_that_serves_nobody_fails_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--synthetic_request_generator_config_num_requests", "5", "--sarathi_scheduler_config_num_blocks", "2"]
    assert main(flags) == 1
    assert "no request was served, so nothing is written: 5 of 5 do not fit" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))
