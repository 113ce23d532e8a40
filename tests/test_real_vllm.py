"""The router and the plug-ins with real vLLM: `bash scripts/test_vllm.sh`. The tests share servers and run in order."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openai
import pytest
from real_conversations import Talk
from real_vllm import MODEL, ROOT, Process, VllmEnvironment, VllmMissing, free_port, start_router
from scheduling import random_case

from rl.vllm.calibrate.steps import read_steps
from rl.vllm.decide.gauges import parse_metrics

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

PROMPT = list(range(10, 74))
SUCCESS = re.compile(r'^vllm:request_success_total\{engine="(\d+)",.*\} (\S+)$', re.MULTILINE)

FALLBACKS = re.compile(r"^vidur_router_fallbacks_total\{.*\} (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> VllmEnvironment:
    try:
        return VllmEnvironment.prepare(tmp_path_factory.mktemp("vllm"))
    except VllmMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


class Cluster(NamedTuple):
    replicas: dict[str, Process]
    router: Process
    steps: Path

    def states(self) -> list[dict[str, Any]]:
        states: list[dict[str, Any]] = json.loads(self.router.get("/replicas"))["replicas"]
        return states

    def total(self, key: str) -> int:
        return sum(state[key] for state in self.states())


def test_vllms_own_scheduler_does_the_same(vllm: VllmEnvironment, tmp_path: Path) -> None:
    """Random operations on small caches: after each, what is scheduled, which of its blocks were cached, who is
    preempted, who waits, and which keys are evicted next, in order."""
    cases = [random_case(seed, 500) for seed in range(200)]
    (tmp_path / "cases.json").write_text(json.dumps([vars(case) for case in cases]))
    command = [vllm.python, ROOT / "tests/vllm_scheduler.py", vllm.model, tmp_path / "cases.json", tmp_path / "traces"]
    done = subprocess.run(command, env=vllm.variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    traces = np.load(tmp_path / "traces.npz")
    differ = [seed for seed, case in enumerate(cases) if not np.array_equal(traces[f"arr_{seed}"], case.replay())]
    assert differ == []


@pytest.fixture(scope="module")
def cluster(vllm: VllmEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas that push their gauges, and a router that never scrapes them after its start."""
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        pushes = str(probe.getsockname()[1])
    replicas = {}
    for name in ("a", "b"):
        variables = {"VIDUR_ROUTER_GAUGES": f"127.0.0.1:{pushes}", "VIDUR_REPLICA_NAME": name}
        variables["VIDUR_STEP_LOG"] = str(folder / "steps.jsonl")
        flags = ["--enable-logging-iteration-details", "--enable-prompt-tokens-details"]
        replicas[name] = vllm.serve(free_port(), folder / f"{name}.log", variables, flags)
    router = None
    try:
        for replica in replicas.values():
            replica.healthy()
        router = start_router(
            folder / "router.log", replicas.items(), "--push_port", pushes, "--scrape_interval", "3600",
            "--gauge_age_limit", "3600", "--health_interval", "0.5", "--access_log", str(folder / "access.jsonl"),
            "--groups", "name=cpu,prefill_seconds=2.5e-5,decode_seconds=0.01,max_batch_size=64",
        )  # fmt: skip
        yield Cluster(replicas, router.healthy("/ready"), folder / "steps.jsonl")
    finally:
        for process in (*replicas.values(), *([router] if router else [])):
            process.stop()


def client_of(process: Process) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0, timeout=120.0)


def until(reached: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_benchmark_of_vllm_is_served(vllm: VllmEnvironment, cluster: Cluster, tmp_path: Path) -> None:
    ran = vllm.bench(
        cluster.router.url, tmp_path, "--random-input-len", "64", "--random-output-len", "32", "--num-prompts", "80",
        "--request-rate", "20",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["completed"] == 80
    assert result["total_output_tokens"] == 80 * 32
    decisions = [state["decisions"] for state in cluster.states()]
    # The benchmark sends one more, to see whether all is well.
    assert sum(decisions) in (80, 81)
    assert min(decisions) >= 5
    # On a busy machine some may come too late, or find a state unlike any in training.
    fallbacks = sum(float(value) for value in FALLBACKS.findall(cluster.router.get("/metrics")))
    assert fallbacks < 40
    assert cluster.total("outstanding") == 0


def test_gauges_are_pushed_at_each_step(cluster: Cluster) -> None:
    def is_seen() -> bool:
        return any(
            state["running"] == 1 and 0.0 < state["kv_usage"] < 0.5 and state["gauge_age"] < 1.0
            for state in cluster.states()
        )

    with client_of(cluster.router) as client:
        stream = client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        until(is_seen)
        for _ in stream:
            pass
    until(lambda: cluster.total("running") == 0)


def test_steps_are_logged_as_vllm_counts_them(cluster: Cluster) -> None:
    steps = read_steps([cluster.steps])
    assert {step.replica for step in steps} == set(cluster.replicas)
    for name, replica in cluster.replicas.items():
        text = replica.get("/metrics")
        own = [step for step in steps if step.replica == name]
        names = ("prompt_tokens", "generation_tokens", "prefix_cache_hits")
        counted = {name: _counter(text, f"vllm:{name}_total") for name in names}
        assert sum(step.prompt_tokens for step in own) == counted["prompt_tokens"] - counted["prefix_cache_hits"]
        # The step that ends a prompt gives its first token.
        prompts = sum(float(count) for _, count in SUCCESS.findall(text))
        assert sum(step.decodes for step in own) == counted["generation_tokens"] - prompts
        known = [step for step in own if step.seconds is not None and step.model_seconds is not None]
        assert len(known) > 20
        assert all(step.model_seconds <= step.seconds for step in known)  # type: ignore[operator]


def _counter(text: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name}{{"))


def test_answers_are_those_of_vllm(cluster: Cluster) -> None:
    replica = next(iter(cluster.replicas.values()))
    with client_of(cluster.router) as routed, client_of(replica) as direct:
        texts = [
            client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, temperature=0).choices[0].text
            for client in (routed, direct)
        ]
        assert texts[0] == texts[1]
        messages: Any = [{"role": "user", "content": "which replica?"}]
        stream = routed.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=8, stream=True, stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        chunks = list(stream)
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 8
        assert [model.id for model in routed.models.list()] == [MODEL]
        with pytest.raises(openai.BadRequestError):
            routed.completions.create(model=MODEL, prompt=PROMPT * 100, max_tokens=8)


def test_one_at_a_time_as_many_tokens_are_cached_as_in_the_simulator(cluster: Cluster) -> None:
    """More conversations than the replicas can hold, taken up again in any order. What earlier tests left in the caches
    is evicted first."""
    talk, rng = Talk(seed=1), np.random.default_rng(1)
    clients = [client_of(replica) for replica in cluster.replicas.values()]
    conversations = [talk.begin(clients) for _ in range(32)]
    for _ in range(110):
        i = int(rng.integers(len(conversations)))
        conversations[i].ask(longest=250)
        if len(conversations[i].tokens) > 1500:
            conversations[i] = talk.begin(clients)
    simulated, real = talk.simulated()
    assert np.array_equal(simulated, real)
    # Some found nothing of what they had said.
    assert 0.3 * talk.prompt_tokens < real.sum() < 0.9 * talk.prompt_tokens


def test_under_load_the_hit_rate_is_that_of_the_simulator(cluster: Cluster) -> None:
    talk = Talk(seed=2)

    def hits() -> Any:
        names = "prefix_cache_hits", "prefix_cache_queries"
        texts = [replica.get("/metrics") for replica in cluster.replicas.values()]
        return np.array([sum(_counter(text, f"vllm:{name}_total") for text in texts) for name in names])

    clients = [client_of(replica) for replica in cluster.replicas.values()]
    idle = [talk.begin(clients) for _ in range(48)]

    def converse(worker: int) -> None:
        rng = np.random.default_rng(worker)
        for _ in range(20):
            conversation = idle.pop(int(rng.integers(len(idle))))
            conversation.ask(longest=200)
            idle.append(conversation if len(conversation.tokens) < 1500 else talk.begin(clients))

    before = hits()
    with ThreadPoolExecutor(10) as pool:
        for future in [pool.submit(converse, worker) for worker in range(10)]:
            future.result()
    cached, queried = hits() - before
    simulated, real = talk.simulated()
    assert queried == talk.prompt_tokens and cached == real.sum()
    print(f"hit rate under load: simulator {simulated.sum() / queried:.4f}, vLLM {cached / queried:.4f}")
    assert abs(simulated.sum() - cached) < 0.01 * queried
    assert 0.2 * queried < cached < 0.8 * queried


def test_a_client_that_leaves_frees_its_replica(cluster: Cluster) -> None:
    def generated() -> float:
        name = "vllm:generation_tokens_total"
        return sum(_counter(replica.get("/metrics"), name) for replica in cluster.replicas.values())

    before = generated()
    with ThreadPoolExecutor(6) as pool:
        began = threading.Barrier(6)

        def leave() -> None:
            with client_of(cluster.router) as client:
                stream = client.completions.create(
                    model=MODEL, prompt=PROMPT, max_tokens=1900, stream=True, extra_body={"ignore_eos": True}
                )
                next(iter(stream))
                began.wait(60)
                stream.close()

        for future in [pool.submit(leave) for _ in range(6)]:
            future.result()
    until(lambda: cluster.total("outstanding") == 0)
    until(lambda: all(_running(replica) == 0 for replica in cluster.replicas.values()))
    assert 6 <= generated() - before < 5 * 1900


def _running(replica: Process) -> float:
    return sum(engine.running + engine.waiting for engine in parse_metrics(replica.get("/metrics")).engines.values())


def test_no_request_is_lost_with_a_replica(cluster: Cluster) -> None:
    """One of two replicas is killed in the middle of a load: each request is answered, or its stream, which had begun,
    ends with an error."""
    killed = threading.Event()
    answered = threading.Semaphore(0)
    ends: list[str] = []

    def ask(number: int) -> str:
        body = {"ignore_eos": True}
        with client_of(cluster.router) as client:
            if number % 2:
                answer = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=64, extra_body=body)
                answered.release()
                return str(answer.choices[0].finish_reason)
            finish = "cut"
            try:
                for chunk in client.completions.create(
                    model=MODEL, prompt=PROMPT, max_tokens=64, stream=True, extra_body=body
                ):
                    finish = chunk.choices[0].finish_reason or finish
            except (openai.APIError, openai.APIConnectionError):
                assert killed.is_set()
                finish = "error"
            answered.release()
            return finish

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(ask, number) for number in range(120)]
        for _ in range(40):
            answered.acquire(timeout=60)
        killed.set()
        cluster.replicas["b"].kill()
        ends = [future.result() for future in futures]
    assert set(ends[1::2]) == {"length"}
    assert set(ends) <= {"length", "error"}
    assert ends.count("error") <= 16
    # And the other replica has it all from here on.
    until(lambda: {state["name"]: state["state"] for state in cluster.states()}["b"] == "open")
    with client_of(cluster.router) as client:
        for _ in range(5):
            client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=4)
    cluster.replicas["a"].stop()


def test_data_parallel_engines_are_chosen_by_a_scheduler_of_ours(vllm: VllmEnvironment, tmp_path: Path) -> None:
    """size_split sends short prompts to one engine and long ones to the other, which vLLM would not."""
    config = tmp_path / "router.yaml"
    config.write_text("scheduler:\n  type: size_split\n  thresholds: [100]\n", encoding="utf-8")
    variables = {
        "VIDUR_DATA_PARALLEL_SCHEDULER": "size_split",
        "VIDUR_DATA_PARALLEL_CONFIG": str(config),
        "VIDUR_STEP_LOG": str(tmp_path / "steps.jsonl"),
    }
    flags = ["--data-parallel-size", "2", "--api-server-count", "1"]
    server = vllm.serve(free_port(), tmp_path / "server.log", variables, flags)
    try:
        server.healthy()
        with client_of(server) as client:

            def ask(tokens: int, rank: int | None = None) -> None:
                headers = {} if rank is None else {"X-data-parallel-rank": str(rank)}
                client.completions.create(model=MODEL, prompt=PROMPT[:1] * tokens, max_tokens=4, extra_headers=headers)

            for _ in range(12):
                ask(50)
            for _ in range(4):
                ask(200)
            until(lambda: _served(server) == [12, 4])
            # A rank that the client pins is kept.
            for _ in range(3):
                ask(50, rank=1)
            until(lambda: _served(server) == [12, 7])
    finally:
        server.stop()
    log = server.log.read_text()
    assert "vidur: size_split chooses among 2 data-parallel engines" in log
    assert "vLLM chooses" not in log
    assert {step.engine for step in read_steps([tmp_path / "steps.jsonl"])} == {0, 1}


def _served(server: Process) -> list[int]:
    counts = [0, 0]
    for engine, count in SUCCESS.findall(server.get("/metrics")):
        counts[int(engine)] += int(float(count))
    return counts
