"""Decisions in front of real replicas: configuration, guard rails, shadow, exploration, fleets that change."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rl.router.checkpoint import Checkpoint, policy_path
from rl.vllm.decide.config import RouterConfig, parse_router
from rl.vllm.decide.decision_log import read_log
from rl.vllm.decide.fleet import VllmReplicaConfig
from rl.vllm.decide.gauges import EngineGauges, Push, Scrape
from rl.vllm.decide.guard import FAILED, NOT_FINITE, OUT_OF_RANGE, RESTING, STALE_GAUGES, TOO_LATE, UNAVAILABLE
from rl.vllm.decide.routing import Arrival, Decision, NoReplicaError, Router, session_number
from rl.vllm.http.upstream import Address
from vidur.config import PPOGlobalSchedulerConfig, SizeSplitGlobalSchedulerConfig
from vidur.errors import InputError
from vidur.observation import AWAITING, KV_TOKENS, OUTSTANDING, SPEED, ClusterObservation
from vidur.scheduler.routers import GlobalScheduler, RouterContext

IDLE = Scrape({0: EngineGauges(0, 0, 0, 0)}, 16384)


def configured(*words: str, replicas: int = 3) -> RouterConfig:
    flags = [word for number in range(replicas) for word in ("--replica", f"http://127.0.0.1:{8000 + number}")]
    config, _ = parse_router("vidur-router", "", (), [*flags, *words])
    return config


def begun(*words: str, replicas: int = 3, clock: Callable[[], float] = lambda: 0.0) -> Router:
    """A router whose gauges are fresh at 0. Its decisions take no time, for this machine may be busy."""
    router = Router(configured(*words, replicas=replicas), clock=clock)
    for replica in router.fleet.replicas:
        router.scraped(replica, IDLE, 0.0)
    return router


def everyone(router: Router) -> np.ndarray:
    return np.ones(len(router.fleet.replicas), np.bool_)


def route(router: Router, now: float, prompt: int = 500) -> tuple[int, str | None]:
    arrival = Arrival(prompt, now)
    decision = router.decide(arrival, everyone(router), now)
    router.stream(router.place(decision, arrival, now), 1, now)
    return decision.replica, decision.fallback


def test_flags_and_a_file_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(
        "replicas:\n- http://127.0.0.1:1\n- {url: 'http://127.0.0.1:2/base/', name: b, group: slow}\n"
        "groups:\n- name: fast\n- {name: slow, speed: 0.5}\n"
        "scheduler: {type: ppo, beta: 40}\nshadow: least_tokens\nseed: 3\n"
    )
    by_file, _ = parse_router("vidur-router", "", (), ["--config", str(file)])
    by_flag, _ = parse_router("vidur-router", "", (), [
        "--replica", "http://127.0.0.1:1", "url=http://127.0.0.1:2/base/,name=b,group=slow", "--groups", "name=fast",
        "name=slow,speed=0.5", "--scheduler", "ppo", "--ppo_global_scheduler_config_beta", "40", "--shadow",
        "least_tokens", "--seed", "3",
    ])  # fmt: skip
    assert by_file == by_flag and by_file.replicas[1].url == "http://127.0.0.1:2/base"
    over, _ = parse_router("x", "", (), ["--config", str(file), "--ppo_global_scheduler_config_beta", "7"])
    assert isinstance(over.scheduler, PPOGlobalSchedulerConfig) and over.scheduler.beta == 7
    other, _ = parse_router("x", "", (), ["--config", str(file), "--scheduler", "lor"])
    assert other.scheduler.get_type() == "lor"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scheduler", "pbo"], "unknown --scheduler 'pbo': did you mean ppo"),
        (["--replica", "ftp://a"], "expected http://host:port, not 'ftp://a'"),
        (["--replica", "http://u:p@a:1"], "a user: drop it"),
        (["--replica", "http://a:1", "http://a:1"], "the name a:1 is given twice"),
        (["--replica", "url=http://a:1,group=x"], "unknown group of replica a:1: 'x'"),
        (["--scheduler", "size_split"], "give --size_split_global_scheduler_config_thresholds"),
        (["--scheduler", "lor", "--lor_global_scheduler_config_count", "waiting"], "use outstanding"),
        (["--scheduler", "llm_d"], "llm_d needs an index of prefixes, which this router does not keep yet"),
        (["--shadow", "lookahead"], "--shadow lookahead simulates the replicas: give --simulation"),
        (["--scheduler", "lor", "--explore", "sample"], "use --explore epsilon"),
        (["--shcheduler", "lor"], "did you mean --scheduler"),
        (["--replcia", "http://a:1"], r"did you mean --replica\?"),
        (["--replica", "url=ftp://a"], "^--replica: url: expected http"),
        (["--gauge_age_limit", "0"], "--gauge_age_limit must be above 0"),
        (["--ppo_global_scheduler_config_beta", "-1"], "must be at least 0"),
    ],
)
def test_bad_configurations_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        configured(*words, replicas=0)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    for text, message in (
        ("replica: [http://a:1]", "did you mean replicas"),
        ("scheduler: {type: ppo, betta: 4}", "did you mean beta"),
        (
            "scheduler: {type: ppo, bta: 4}",
            "'bta': did you mean beta.? valid: beta, checkpoint, max_queue_requests, sample$",
        ),
        ("scheduler: [ppo]", "expected the name of a scheduler"),
        ("seed: x", "seed: expected an integer"),
        ("- a", "expected a mapping"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            parse_router("vidur-router", "", (), ["--config", str(file)])


def test_a_checkpoint_of_another_encoder_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(policy_path(None).read_bytes().replace(b"token_gap", b"token_gab"))
    with pytest.raises(InputError, match="features unknown here: token_gab; it lacks replica features: token_gap"):
        Router(configured("--ppo_global_scheduler_config_checkpoint", str(path)))


def test_serving_imports_neither_torch_nor_numba() -> None:
    program = (
        "import sys; import rl.vllm.decide.prompt_length; "
        "from rl.vllm.decide.config import *; from rl.vllm.decide.routing import *; "
        "c, _ = parse_router('x', '', (), ['--replica', 'http://a:1', 'http://b:1', '--shadow', 'power_of_two']); "
        "import numpy as np; Router(c).decide(Arrival(5, 0.0), np.ones(2, bool), 0.0); "
        "assert not {'torch', 'numba', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize("prompt", [20, 64, 4_000])
def test_prompts_unlike_those_of_training_are_routed_all_the_same(prompt: int) -> None:
    """By the policy, to all replicas in turns: it weighs a prompt against the mean."""
    router = begun()
    routed = [route(router, 0.5, prompt) for _ in range(30)]
    assert all(fallback is None for _, fallback in routed)
    assert np.bincount([replica for replica, _ in routed], minlength=3).tolist() == [10, 10, 10]


def test_stale_gauges_and_strange_input_fall_back_for_the_request() -> None:
    router = begun("--gauge_age_limit", "5")
    assert route(router, 1.0)[1] is None
    arrival = Arrival(500, 7.0)
    decision = router.decide(arrival, everyone(router), 7.0)
    assert decision.fallback == STALE_GAUGES and decision.scheduler == "least_tokens"
    assert decision.explanation == "the gauges of 127.0.0.1:8000 are 7.0 s old (limit 5)"
    for replica in router.fleet.replicas[:2]:
        router.scraped(replica, IDLE, 7.0)
    away = everyone(router)
    away[2] = False
    assert router.decide(arrival, away, 7.0).fallback is None
    router.scraped(router.fleet.replicas[2], IDLE, 7.0)
    strange = router.decide(Arrival(10**10, 7.0), everyone(router), 7.0)
    assert strange.fallback == OUT_OF_RANGE and "all_prompts' is +" in str(strange.explanation)
    router.gauges.observe(7.0)[1, 1] = np.nan
    assert router.decide(arrival, everyone(router), 7.0).fallback == NOT_FINITE
    assert {reason: router.guard.counts[reason] for reason in (STALE_GAUGES, OUT_OF_RANGE, NOT_FINITE)} == {
        STALE_GAUGES: 1, OUT_OF_RANGE: 1, NOT_FINITE: 1,
    }  # fmt: skip


def test_hardware_unlike_any_in_training_is_told_of_at_once(caplog: pytest.LogCaptureFixture) -> None:
    begun("--groups", "name=gpu,prefill_seconds=5e-5,decode_seconds=0.01")
    assert not caplog.records
    router = begun("--groups", "name=cpu,prefill_seconds=2e-3,decode_seconds=0.01")
    (record,) = caplog.records
    assert "'prefill_cost' is +" in record.getMessage() and "train a policy" in record.getMessage()
    assert route(router, 1.0)[1] == OUT_OF_RANGE
    begun("--groups", "name=cpu,prefill_seconds=2e-3,decode_seconds=0.01", "--feature_limit", "100")
    begun("--groups", "name=cpu,prefill_seconds=2e-3,decode_seconds=0.01", "--scheduler", "lor")
    assert len(caplog.records) == 1


def test_a_request_that_has_waited_is_routed_as_any_other() -> None:
    """Its age did not vary in training, so the policy does not look at it."""
    fresh, late = (begun().decide(Arrival(500, at), np.ones(3, np.bool_), 3.0) for at in (3.0, -3000.0))
    assert fresh.scores is not None and late.scores is not None and late.fallback is None
    assert np.array_equal(fresh.scores, late.scores)


def test_schedulers_that_look_at_no_gauges_need_none() -> None:
    router = Router(configured("--scheduler", "least_tokens"), clock=lambda: 0.0)
    assert router.decide(Arrival(5, 1e6), everyone(router), 1e6).fallback is None


def test_late_decisions_are_discarded_and_the_scheduler_rests() -> None:
    times = iter(np.arange(1000) * 0.006)
    router = begun(clock=lambda: float(next(times)))
    found = [route(router, now)[1] for now in (1.0, 1.1, 1.2, 1.3, 2.1, 2.3)]
    assert found == [TOO_LATE, TOO_LATE, TOO_LATE, RESTING, RESTING, TOO_LATE]


class Wrong(GlobalScheduler):
    def __init__(self, options: object, context: object) -> None:
        pass

    def schedule(self, observation: ClusterObservation) -> int:
        return 7


def test_a_choice_that_is_not_there_falls_back(tmp_path: Path) -> None:
    router = begun("--scheduler", f"{__file__}:Wrong", "--custom_global_scheduler_config_options", "{}")
    assert route(router, 0.0) == (0, UNAVAILABLE)


class Raising(GlobalScheduler):
    """Decides twice."""

    def __init__(self, options: object, context: object) -> None:
        self._left = 2

    def schedule(self, observation: ClusterObservation) -> int:
        self._left -= 1
        if self._left < 0:
            raise KeyError("oops")
        return 2


def test_a_scheduler_that_raises_falls_back_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    router = begun("--scheduler", f"{__file__}:Raising", "--custom_global_scheduler_config_options", "{}")
    assert [route(router, 0.0) for _ in range(5)] == [(2, None), (2, None), (0, FAILED), (1, FAILED), (0, FAILED)]
    (record,) = caplog.records
    assert record.exc_info is not None and "--scheduler custom failed" in record.getMessage()
    assert router.guard.counts[FAILED] == 3


@pytest.mark.parametrize("name", ["Raising", "Wrong"])
def test_a_shadow_that_fails_is_asked_no_more(name: str, caplog: pytest.LogCaptureFixture) -> None:
    router = begun("--scheduler", "round_robin", "--shadow", f"{__file__}:{name}",
                   "--custom_global_scheduler_config_options", "{}")  # fmt: skip
    assert [route(router, 0.0) for _ in range(5)] == [(0, None), (1, None), (2, None), (0, None), (1, None)]
    router.scraped(router.fleet.replicas[0], IDLE._replace(kv_tokens=32768), 0.0)
    assert route(router, 0.0)[1] is None
    (record,) = caplog.records
    assert record.exc_info is not None and "--shadow failed" in record.getMessage()
    assert router.shadowed.decisions == (2 if name == "Raising" else 0)


def test_no_replica() -> None:
    router = begun("--scheduler", "lor")
    with pytest.raises(NoReplicaError):
        router.decide(Arrival(5, 0.0), ~everyone(router), 0.0)


def test_a_shadow_decides_on_the_same_state_and_changes_nothing() -> None:
    alone, shadowed = begun("--scheduler", "lor"), begun("--scheduler", "lor", "--shadow", "round_robin")
    same = 0
    for step in range(30):
        now = 0.1 * step
        arrival = Arrival(500, now)
        decision = shadowed.decide(arrival, everyone(shadowed), now)
        assert route(alone, now)[0] == decision.replica and decision.shadow == step % 3
        same += decision.shadow == decision.replica
        shadowed.place(decision, arrival, now)
    assert (shadowed.shadowed.decisions, shadowed.shadowed.agreements) == (30, same)


def test_a_shadow_agrees_with_the_scheduler_not_with_chance_or_a_fallback() -> None:
    itself = begun("--scheduler", "lor", "--shadow", "lor", "--explore", "epsilon", "--explore_fraction", "1")
    for step in range(30):
        route(itself, 0.1 * step)
    assert (itself.shadowed.decisions, itself.shadowed.agreements) == (30, 30)
    stale = begun("--scheduler", "ppo", "--shadow", "round_robin", "--gauge_age_limit", "5")
    decisions = [stale.decide(Arrival(500, now), everyone(stale), now) for now in (1.0, 7.0)]
    assert [decision.fallback for decision in decisions] == [None, STALE_GAUGES]
    assert [decision.shadow for decision in decisions] == [0, 1] and decisions[1].shadow_agrees is None
    assert stale.shadowed.decisions == 1


def test_draining_and_removal_and_joining() -> None:
    router = begun("--scheduler", "ppo")
    router.drain("127.0.0.1:8001")
    assert {route(router, 0.01 * step)[0] for step in range(40)} == {0, 2}
    router.resume("127.0.0.1:8001")
    assert 1 in {route(router, 0.4 + 0.01 * step)[0] for step in range(40)}
    gone = router.remove("127.0.0.1:8000")
    assert gone.name == "127.0.0.1:8000" and [r.name[-1] for r in router.fleet.replicas] == ["1", "2"]
    joined = router.fleet.make(VllmReplicaConfig("http://127.0.0.1:9000", "new"))
    router.add(joined, 1.0)
    assert not router.pushed(Push("old", 0, EngineGauges(0, 0, 0, 0), 0, 1), 1.0)
    assert router.pushed(Push("new", 0, EngineGauges(0, 0, 0, 0), 0, 1), 1.0)
    assert router.fleet.replicas[2] is joined
    assert route(router, 1.0) == (2, None)
    for name, message in (("x", "there is no replica 'x'"), ("127.0.0.1:8000", "there is no replica")):
        with pytest.raises(InputError, match=message):
            router.drain(name)
    with pytest.raises(InputError, match="already has this name"):
        router.fleet.make(VllmReplicaConfig("http://a:1", "new"))


class OfThree(GlobalScheduler):
    def __init__(self, options: object, context: RouterContext) -> None:
        if context.num_replicas != 3:
            raise InputError("only three")

    def schedule(self, observation: ClusterObservation) -> int:
        return 2


@pytest.mark.parametrize("role", ["--scheduler", "--shadow"])
def test_a_change_that_cannot_be_made_changes_nothing(role: str) -> None:
    words = [] if role == "--scheduler" else ["--scheduler", "lor"]
    router = begun(*words, role, f"{__file__}:OfThree", "--custom_global_scheduler_config_options", "{}")
    with pytest.raises(InputError, match="only three"):
        router.add(router.fleet.make(VllmReplicaConfig("http://127.0.0.1:9000")), 1.0)
    with pytest.raises(InputError, match="only three"):
        router.remove("127.0.0.1:8000")
    assert [replica.name[-1] for replica in router.fleet.replicas] == ["0", "1", "2"]
    assert len(router.gauges.observe(1.0)) == router.ledger.num_replicas == 3
    assert route(router, 1.0)[1] is None


def test_schedulers_are_read_from_disk_once(tmp_path: Path) -> None:
    """What is there later is not what was started, whether it can be read or not."""
    checkpoint, file = tmp_path / "policy.safetensors", tmp_path / "mine.py"
    checkpoint.write_bytes(policy_path(None).read_bytes())
    file.write_text(
        "from vidur.scheduler.routers import GlobalScheduler\n"
        "class Mine(GlobalScheduler):\n    def __init__(self, options, context): pass\n"
        "    def schedule(self, observation): return 1\n"
    )
    router = begun("--ppo_global_scheduler_config_checkpoint", str(checkpoint), "--shadow", f"{file}:Mine",
                   "--custom_global_scheduler_config_options", "{}")  # fmt: skip
    checkpoint.write_text("garbage")
    file.write_text("class")
    router.scraped(router.fleet.replicas[0], IDLE._replace(kv_tokens=32768), 0.0)
    router.add(router.fleet.make(VllmReplicaConfig("http://127.0.0.1:9000")), 0.0)
    decision = router.decide(Arrival(500, 0.1), everyone(router), 0.1)
    assert router.observe(Arrival(1, 0.1), everyone(router), 0.1).hardware[0, KV_TOKENS] == 32768
    assert decision.scores is not None and len(decision.scores) == 4
    assert (decision.fallback, decision.shadow) == (None, 1)


def test_a_replica_s_address_names_its_host_as_it_goes_over_the_wire() -> None:
    name = "a" * 63
    assert Address.of(f"http://{name}:8000") == (name, 8000, False, f"{name}:8000".encode(), b"")
    assert Address.of("https://[::1]/base") == ("::1", 443, True, b"[::1]", b"/base")
    assert Address.of("http://b\xfccher.de:1/\xe9%20") == (
        "b\xfccher.de", 1, False, b"xn--bcher-kva.de:1", b"/%C3%A9%20",
    )  # fmt: skip


def test_hardware_is_what_is_configured_or_reported() -> None:
    router = begun("--groups", "name=a,prefill_seconds=1e-4,decode_seconds=0.01", replicas=2)
    assert router.fleet.hardware()[:, [SPEED, KV_TOKENS]].tolist() == [[1, 16384], [1, 16384]]
    slow = "name=b,prefill_seconds=2e-4,decode_seconds=0.02"
    config = configured("--groups", "name=a,prefill_seconds=1e-4,decode_seconds=0.01", slow, "--replica",
                        "url=http://b:1,group=b", "url=http://a:1,group=a", replicas=0)  # fmt: skip
    assert Router(config).fleet.hardware()[:, SPEED].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("mode", ["epsilon", "sample"])
def test_exploration_chooses_with_the_probabilities_it_reports(mode: str) -> None:
    router = begun("--explore", mode, "--explore_fraction", "0.3", "--scheduler", "ppo", replicas=4)
    for step in range(9):
        route(router, 0.01 * step, 100 * (step + 1))
    drawn, expected = np.zeros(4), np.zeros(4)
    for _ in range(4000):
        # Nothing is placed, but the last choice of equals is remembered.
        decision = router.decide(Arrival(500, 0.1), everyone(router), 0.1)
        drawn[decision.replica] += 1
        assert decision.probabilities is not None
        expected += decision.probabilities
    assert (np.abs(drawn - expected) < 5 * np.sqrt(expected) + 1e-6).all() and (expected > 0).all()


def test_decisions_are_logged_when_requests_have_ended(tmp_path: Path) -> None:
    file = tmp_path / "logs/decisions.jsonl"
    router = begun("--decision_log", str(file), "--explore", "epsilon", "--decision_log_bytes", "4096",
                   "--decision_log_files", "3", "--shadow", "lor")  # fmt: skip
    observations, decisions = [], []
    for step in range(40):
        arrival = Arrival(100 + step, 0.1 * step)
        decisions.append(router.decide(arrival, everyone(router), 0.1 * step))
        seen = router.observe(arrival, everyone(router), 0.1 * step)
        observations.append((seen.ledger.copy(), seen.gauges.copy(), seen.hardware))
        ticket = router.place(decisions[-1], arrival, 0.1 * step)
        router.stream(ticket, 1, 0.1 * step + 0.05)
        if step == 3:
            router.drop(ticket, 0.1 * step + 0.06, "cancelled")
        else:
            router.finish(ticket, 0.1 * step + 0.07)
    router.close()
    files = sorted(path.name for path in file.parent.iterdir())
    assert files == ["decisions.jsonl", *(f"decisions.jsonl.{n}" for n in (1, 2, 3))]
    assert all(path.stat().st_size <= 4096 for path in file.parent.iterdir())
    lines = list(read_log([*(f"{file}.{number}" for number in (3, 2, 1)), file]))
    first = 40 - len(lines)
    assert 0 < len(lines) < 40
    for line, decision, (ledger, gauges, hardware) in zip(lines, decisions[first:], observations[first:], strict=True):
        np.testing.assert_array_equal(line.observation.ledger, ledger)
        np.testing.assert_array_equal(line.observation.gauges, gauges)
        np.testing.assert_array_equal(line.observation.hardware, hardware)
        np.testing.assert_array_equal(line.probabilities, decision.probabilities)
        assert (line.replica, line.shadow, line.fallback) == (decision.replica, decision.shadow, None)
        assert line.served.ttft == pytest.approx(0.05) and line.beta == 10


def test_a_log_that_cannot_be_rotated_or_written_ends_and_requests_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "decisions.jsonl"
    router = begun("--scheduler", "lor", "--decision_log", str(file), "--decision_log_bytes", "4096")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # no file can be opened
    try:
        for step in range(40):
            arrival = Arrival(100, 0.1 * step)
            router.finish(router.place(router.decide(arrival, everyone(router), 0.1 * step), arrival, 0.0), 0.1 * step)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    router.close()
    (record,) = caplog.records
    assert record.getMessage() == f"the decision log ends here: {file}: Too many open files"
    assert 0 < len(list(read_log([f"{file}.1"]))) < 40


def test_a_log_on_a_full_disk_ends_when_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    router = begun("--scheduler", "lor", "--decision_log", "/dev/full")
    router.finish(router.place(router.decide(Arrival(1, 0.0), everyone(router), 0.0), Arrival(1, 0.0), 0.0), 0.1)
    router.close()
    (record,) = caplog.records
    assert record.getMessage() == "the decision log ends here: /dev/full: No space left on device"


def test_a_damaged_log_is_refused_and_an_unfinished_line_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b'{"version":1}\n')
    with pytest.raises(InputError, match="line 1: not a line of a decision log: KeyError"):
        list(read_log([file]))
    file.write_bytes(b'{"version":2}\n')
    with pytest.raises(InputError, match="version 2"):
        list(read_log([file]))
    file.write_bytes(b'{"version":1')
    assert list(read_log([file])) == []


def test_sessions_have_a_number_everywhere_the_same() -> None:
    assert session_number("abc") == 891568578


def test_a_sampling_policy_reports_its_probabilities() -> None:
    router = begun("--ppo_global_scheduler_config_sample")
    decision = router.decide(Arrival(500, 0.1), everyone(router), 0.1)
    assert decision.probabilities == pytest.approx(np.full(3, 1 / 3)) and decision.entropy == pytest.approx(np.log(3))


def test_size_split_divides_by_its_thresholds() -> None:
    config = configured("--scheduler", "size_split", "--size_split_global_scheduler_config_thresholds", "1000",
                        replicas=4)  # fmt: skip
    assert config.scheduler == SizeSplitGlobalSchedulerConfig(thresholds=(1000.0,))
    router = Router(config, clock=lambda: 0.0)
    short = {route(router, 0.0, 10)[0] for _ in range(20)}
    long = {route(router, 0.0, 5000)[0] for _ in range(20)}
    assert short == {0, 1} and long == {2, 3}


def test_the_shipped_checkpoint_has_the_statistics_that_the_guard_needs() -> None:
    assert Checkpoint.load(policy_path(None)).normaliser is not None


def test_pushed_gauges_say_which_prompts_are_read() -> None:
    router = begun("--scheduler", "lor")
    for placed_at in (0.0, 0.5, 0.95):
        arrival = Arrival(100, placed_at)
        router.place(Decision(1, "lor"), arrival, placed_at, streams=False)
    # Of those sent well before, one still waits; the last may not have been there yet.
    assert router.pushed(Push(router.fleet.replicas[1].name, 0, EngineGauges(1, 1, 0, 0), 0, 1), 1.0)
    assert router.ledger.observe(1.0)[1, [OUTSTANDING, AWAITING]].tolist() == [3, 2]
