"""Learning from the decision log: the estimate against what is known, and the new policy against the simulator."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mirror import MirroredSimulation, serve

from rl.reward.cost import episode_cost
from rl.router.checkpoint import Checkpoint, policy_path
from rl.router.features import I_BACKLOG
from rl.vllm.decide.config import RouterConfig
from rl.vllm.decide.decision_log import read_log
from rl.vllm.decide.fleet import VllmReplicaConfig
from rl.vllm.decide.routing import Arrival, Router
from rl.vllm.learn.__main__ import LearnConfig, main
from rl.vllm.learn.congestion import Congestion, Pace
from rl.vllm.learn.experience import read_experience
from rl.vllm.learn.improvement import learn
from rl.vllm.learn.off_policy import compare_policies
from vidur import SimulationConfig, simulate
from vidur.errors import InputError
from vidur.extras import install_command
from vidur.observation import DECODE_SECONDS

ROOT = Path(__file__).resolve().parent.parent


def test_the_estimate_finds_the_values_of_policies_that_were_not_run() -> None:
    """Costs of three choices are known, the model of them is wrong by 30 %: over 100 logs the estimates' mean is right,
    and the interval holds the truth about 19 times in 20."""
    rng = np.random.default_rng(0)
    costs = np.array([1.0, 2.0, 4.0])
    behaviour, old, new = np.array([0.6, 0.2, 0.2]), np.array([0.2, 0.4, 0.4]), np.array([0.7, 0.3, 0.0])
    truth = new @ costs / (old @ costs) - 1.0
    changes, held = [], 0
    for _ in range(100):
        actions = rng.choice(3, 600, p=behaviour)
        estimate = compare_policies(
            np.tile(old, (600, 1)), np.tile(new, (600, 1)), actions, behaviour[actions],
            costs[actions] * rng.exponential(size=600), np.tile(costs * 1.3, (600, 1)), np.arange(600) // 10, rng,
        )  # fmt: skip
        changes.append(estimate.change)
        held += estimate.low <= truth <= estimate.high
    assert np.mean(changes) == pytest.approx(truth, abs=0.015) and 85 <= held <= 100


def test_the_same_policy_changes_nothing() -> None:
    policy = np.full((40, 2), 0.5)
    estimate = compare_policies(
        policy, policy, np.arange(40) % 2, np.full(40, 0.5), np.arange(40.0), np.ones((40, 2)), np.arange(40) // 4,
        np.random.default_rng(0),
    )  # fmt: skip
    assert (estimate.change, estimate.low, estimate.high) == (0.0, 0.0, 0.0) and estimate.effective == 40


def config(checkpoint: Path, requests: int, seed: int) -> SimulationConfig:
    words = f"""
        --cluster_config_replica_groups num_replicas=2,device=h100 num_replicas=2,device=a100
        --replica_config_model_name meta-llama/Meta-Llama-3-8B --no-metrics_config_write_metrics --seed {seed}
        --length_generator_config_type quantile --poisson_request_interval_generator_config_qps 30
        --quantile_request_length_generator_config_distribution azure_conv_2023
        --synthetic_request_generator_config_num_requests {requests} --synthetic_request_generator_config_seed {seed}
        --quantile_request_length_generator_config_seed {seed} --global_scheduler_config_type ppo
        --ppo_global_scheduler_config_checkpoint {checkpoint}
    """
    return SimulationConfig.from_cli(words.split())


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that looks at the prompts that wait and at nothing else."""
    shipped = Checkpoint.load(policy_path(None))
    products = np.zeros_like(shipped.weights.products)
    products[I_BACKLOG] = -10.0
    weights = dataclasses.replace(
        shipped.weights, score=np.full_like(shipped.weights.score, 1e-3), products=products,
        products_by_beta=np.zeros_like(products),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("policies") / "poor.safetensors"
    Checkpoint(weights, shipped.max_queue_requests, {}, normaliser=shipped.normaliser).save(path)
    return path


@pytest.fixture(scope="module")
def log(poor: Path) -> Path:
    """What a router with that policy logs while it serves a simulation."""
    path = poor.parent / "log.jsonl"
    simulation = MirroredSimulation(config(poor, 1500, 1))
    given = {"explore": "epsilon", "explore_fraction": 0.2, "gauge_age_limit": 1e9, "feature_limit": 1e9}
    serve(simulation, Router(simulation.router_config(decision_log=str(path), **given), -1.0))
    return path


def test_the_log_says_of_every_request_what_the_simulation_recorded(log: Path, poor: Path) -> None:
    lines = list(read_log([log]))
    assert len(lines) == 1500 and {line.status for line in lines} == {"finished"}
    assert min(line.probabilities.min() for line in lines) == pytest.approx(0.05)
    placed = np.bincount([line.replica for line in lines], minlength=4)
    assert placed.sum() == 1500 and placed.min() > 50
    rates = [line.served.tpot for line in lines if line.served.output_tokens > 20]
    assert 0.005 < np.mean(np.array(rates, np.float64)) < 0.05


def test_congestion_is_that_of_the_hardware(log: Path) -> None:
    """Reading a token of the KV-cache takes an H100 about 131,072 bytes / 3.35 TB/s, an A100 two thirds more; a prompt
    token that is read beside streams costs less than one that is read alone."""
    slow, fast = (pace for _, pace in sorted(Congestion.of(list(read_log([log]))).paces.items()))
    assert 1.5e-8 < fast.per_kv_token < slow.per_kv_token < 3e-7
    assert 0.2 * 2.4e-5 < fast.per_prompt_token < 2.4e-5 and fast.per_prompt_token < slow.per_prompt_token < 7e-5


def test_a_policy_learns_from_its_log_and_the_simulator_agrees(
    log: Path, poor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = poor.parent / "learned.safetensors"
    flags = ["--checkpoint", str(poor), "--output", str(output), "--model_epochs", "15", "--policy_epochs", "15"]
    assert main([str(log), *flags]) == 0
    assert "1,500 decisions" in capsys.readouterr().out
    facts = Checkpoint.load(output).facts["learned_from_log"]
    assert facts["estimates"]["cost"]["high"] < 0.0
    costs = {}
    for checkpoint in (poor, output):
        simulated = config(checkpoint, 2500, 5)
        unit = float(MirroredSimulation(config(checkpoint, 10, 5)).hardware[:, DECODE_SECONDS].min())
        requests = simulate(simulated).recording.requests
        ttft = requests["prefill_completed_at"] - requests["arrived_at"]
        costs[checkpoint] = episode_cost(ttft, requests["completed_at"] - requests["arrived_at"], 10.0, unit)
    assert costs[output] < 0.85 * costs[poor]


def test_what_may_be_no_better_is_not_written(log: Path, poor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a step there is no change."""
    output = poor.parent / "none.safetensors"
    flags = ["--checkpoint", str(poor), "--output", str(output), "--model_epochs", "1", "--policy_epochs", "1"]
    flags += ["--learning_rate", "1e-12"]
    assert main([str(log), *flags]) == 1 and not output.exists()
    assert "Not written" in capsys.readouterr().out
    assert main([str(log), *flags, "--force"]) == 0 and output.exists()


def test_a_log_without_exploration_is_refused(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_bytes(log.read_bytes().replace(b'"probabilities":[', b'"probabilities":[1,0,0,0],"were":['))
    with pytest.raises(InputError, match=r"1500 lines no exploration.*--explore epsilon"):
        read_experience([path], 4, 10.0)
    assert main([str(path)]) == 2 and main([]) == 2 and main([str(tmp_path / "none")]) == 2
    errors = capsys.readouterr().err
    assert "give the files" in errors and "No such file" in errors
    short = tmp_path / "short"
    short.write_bytes(b"".join(log.read_bytes().splitlines(True)[:100]))
    assert main([str(short)]) == 2 and "are too few" in capsys.readouterr().err


BASE, PER_KV_TOKEN, PER_PROMPT_TOKEN = 0.01, 2e-6, 3e-5


def log_of_two(path: Path, unseen: float, pace: Pace, odd: float = 0.0, failing: float = 0.0, seed: int = 1) -> Path:
    """900 requests by a router with exploration in front of two equal replicas, of which an iteration takes BASE
    seconds, and what `pace` says of the tokens there. unseen: the part that does not stream. odd: of the streams, the
    part that comes at once at the end. failing: the part that ends in an error."""
    replicas = tuple(VllmReplicaConfig(f"http://127.0.0.1:{port}") for port in (1, 2))
    guard = {"decision_limit_ms": 1e6, "gauge_age_limit": 1e9, "feature_limit": 1e9}
    router = Router(
        RouterConfig(replicas, explore="epsilon", explore_fraction=0.3, decision_log=str(path), **guard)  # type: ignore[arg-type]
    )
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / 24, 900)).tolist()
    # Of each replica: when its iteration ends; its requests by ticket: prompt, tokens, tokens left, and what is odd.
    ends = [0.0, 0.0]
    running: list[dict[int, list[float]]] = [{}, {}]
    waiting: list[dict[int, list[float]]] = [{}, {}]
    while arrivals or any(running) or any(waiting):
        here = int(ends[1] < ends[0])
        if arrivals and arrivals[0] <= ends[here]:
            now = arrivals.pop(0)
            prompt, tokens = int(rng.integers(10, 500)), int(rng.integers(10, 60))
            kind = rng.random(3) < (unseen, odd, failing)
            arrival = Arrival(prompt, now)
            decision = router.decide(arrival, np.ones(2, np.bool_), now)
            ticket = router.place(decision, arrival, now, not kind[0])
            waiting[decision.replica][ticket] = [prompt, tokens, tokens, *kind]
            continue
        now = ends[here]
        for ticket, (_, tokens, left, hidden, late, fails) in list(running[here].items()):
            running[here][ticket][2] = left = left - 1
            if not hidden and (not late or left == 0):
                router.stream(ticket, int(tokens) if late else 1, now)
            if left == 0:
                del running[here][ticket]
                if fails:
                    router.drop(ticket, now)
                else:
                    router.finish(ticket, now + (1e-5 if late else 0.0), int(tokens))
        read = sum(request[0] for request in waiting[here].values())
        held = sum(prompt + tokens - left for prompt, tokens, left, *_ in running[here].values())
        running[here] |= waiting[here]
        waiting[here] = {}
        ends[here] = now + BASE + pace.per_kv_token * held + pace.per_prompt_token * read
    router.close()
    return path


FREE = Pace(0.0, 0.0, 0.0)
BUSY = Pace(PER_KV_TOKEN, PER_PROMPT_TOKEN, 0.0)


@pytest.mark.parametrize("unseen", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("odd", [0.0, 0.03])
def test_congestion_is_found_however_few_requests_stream(tmp_path: Path, unseen: float, odd: float) -> None:
    (found,) = Congestion.of(list(read_log([log_of_two(tmp_path / "busy", unseen, BUSY, odd)]))).paces.values()
    assert found.per_kv_token == pytest.approx(PER_KV_TOKEN, rel=0.15)
    assert found.per_prompt_token == pytest.approx(PER_PROMPT_TOKEN, rel=0.15)
    (found,) = Congestion.of(list(read_log([log_of_two(tmp_path / "free", unseen, FREE, odd)]))).paces.values()
    assert found.share < 0.01


def test_without_a_stream_congestion_is_what_the_configuration_says(tmp_path: Path) -> None:
    ((hardware, found),) = Congestion.of(list(read_log([log_of_two(tmp_path / "log", 1.0, BUSY)]))).paces.items()
    assert found == Pace(0.0, hardware[1], 0.0)


@pytest.mark.parametrize("unseen", [0.0, 0.05, 0.25])
def test_where_all_choices_are_equal_nothing_is_learned(
    tmp_path: Path, unseen: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever does not stream has no TTFT, and is no reason to change the policy. (3 of 24 such logs are told a gain of
    less than 1 %: docs/vllm-decisions.md.)"""
    path = log_of_two(tmp_path / "log", unseen, FREE, seed=2)
    output = tmp_path / "learned.safetensors"
    assert main([str(path), "--output", str(output)]) == 1 and not output.exists()
    printed = capsys.readouterr().out
    change = float(re.search(r"cost .*?([+-][0-9.]+) %", printed).group(1))  # type: ignore[union-attr]
    assert abs(change) < 0.5 and ("without TTFT" in printed) == (unseen > 0.0)


def test_too_few_streams_are_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for unseen in (0.5, 1.0):
        path = log_of_two(tmp_path / f"log{unseen}", unseen, FREE)
        output = tmp_path / "learned.safetensors"
        assert main([str(path), "--output", str(output), "--force"]) == 2 and not output.exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(r": \d+ usable .* too few, 600 are needed .* without TTFT\): .* let clients stream$", line)


def test_the_report_says_what_failed_requests_count_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(log_of_two(tmp_path / "log", 0.0, FREE, failing=0.1)), "--output", str(tmp_path / "learned")])
    printed = capsys.readouterr().out
    assert "not finished" in printed and "even if a choice made them fail" in printed


def test_what_is_no_time_is_refused(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, e2e in enumerate(("NaN", "Infinity", "-1", "1e-9", '"x"')):
        lines = log.read_bytes().splitlines(True)
        lines[6] = re.sub(rb'"e2e":[^,}]+', b'"e2e":' + e2e.encode(), lines[6])
        (tmp_path / str(number)).write_bytes(b"".join(lines))
        output = tmp_path / "learned.safetensors"
        assert main([str(tmp_path / str(number)), "--output", str(output), "--force"]) == 2 and not output.exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert "line 7: " in line


def test_estimates_that_are_no_numbers_are_refused(log: Path, poor: Path) -> None:
    checkpoint = Checkpoint.load(poor)
    experience = read_experience([log], checkpoint.max_queue_requests, 10.0)
    broken = dataclasses.replace(experience, interference=np.full_like(experience.interference, np.nan))
    with pytest.raises(InputError, match="not finite"):
        learn(checkpoint, broken, LearnConfig(force=True, model_epochs=1, policy_epochs=1))


def test_without_torch_it_says_what_to_install(log: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from rl.vllm.learn.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(log)], capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stderr) == (
        2, f"rl.vllm.learn: error: training needs torch: {install_command('train')}\n"
    )  # fmt: skip
