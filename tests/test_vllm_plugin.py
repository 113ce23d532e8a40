"""What runs inside vLLM, as far as it can be tested without it; tests/test_real_vllm.py has the rest."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rl.vllm.plugin.pusher as pusher_module
from rl.vllm.calibrate.steps import Step, format_step, read_steps
from rl.vllm.plugin.data_parallel import DataParallelRouting
from rl.vllm.plugin.pusher import Pusher, parse_address
from vidur.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
COUNTS = st.integers(0, 10**6)
SECONDS = st.none() | st.integers(0, 10**9).map(lambda micros: micros / 1e6)
STEPS = st.builds(
    Step,
    at=st.integers(0, 2 * 10**9).map(float),
    replica=st.text(),
    **dict.fromkeys(("engine", "prompt_tokens", "prompts", "decodes", "kv_tokens", "running", "waiting"), COUNTS),
    seconds=SECONDS,
    model_seconds=SECONDS,
)


@given(st.lists(STEPS, max_size=5))
def test_steps_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    path = tmp_path_factory.mktemp("log") / "steps.jsonl"
    path.write_text("".join(map(format_step, steps)), encoding="utf-8")
    assert read_steps([path]) == sorted(steps, key=lambda step: step.at)


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    line = format_step(Step(1.0, "a", 0, 1, 1, 0, 1, 1, 0, None, None))
    (tmp_path / "log").write_text(line + line[:-9], encoding="utf-8")
    assert len(read_steps([tmp_path / "log"])) == 1


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"replica": 1}', '{"at": NaN'])
def test_what_is_no_step_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1: not a step of an engine"):
        read_steps([tmp_path / "log"])


@pytest.mark.parametrize(
    ("text", "address"), [("a:1", ("a", 1)), ("[::1]:9100", ("::1", 9100)), ("router.svc:65535", ("router.svc", 65535))]
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "a", ":1", "a:", "a:0", "a:65536", "a:b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        parse_address(text)


def wait_for_socket(pusher: Pusher) -> None:
    deadline = time.monotonic() + 10
    while pusher._socket is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_pusher_sends_and_never_raises() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        port = listener.getsockname()[1]
        pusher = Pusher("127.0.0.1", port)
        wait_for_socket(pusher)
        pusher.send(b"one")
        assert listener.recv(100) == b"one"
        assert pusher.lost == 0
    # Nobody listens any more: the kernel says so at a later send.
    for _ in range(5):
        pusher.send(b"lost")
    assert pusher.lost > 0
    pusher.close()


def test_a_pusher_repeats_what_it_sent_last() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        pusher = Pusher("127.0.0.1", listener.getsockname()[1])
        pusher.send(b"one")  # before the address is known, maybe
        assert listener.recv(100) == b"one"
        pusher.send(b"two")
        assert [listener.recv(100) for _ in range(3)][-2:] == [b"two"] * 2
        pusher.close()


class Names:
    """The network's names: their addresses change; `known` is cleared while the server of names does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        self.known = threading.Event()
        self.known.set()
        self.asked = 0
        self._look_up = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)
        monkeypatch.setattr(pusher_module, "RESOLVE_AGAIN_SECONDS", 0.02)
        monkeypatch.setattr(pusher_module, "REPEAT_SECONDS", 0.05)

    def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        assert host == "router.example"
        self.asked += 1
        self.known.wait()
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [each for address in self.addresses for each in self._look_up(address, port, **options)]

    def wait(self) -> None:
        """Until the name has been looked up twice from now: what is known now has been acted on."""
        asked, deadline = self.asked, time.monotonic() + 10
        while self.asked < asked + 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def listeners(port: int = 0) -> tuple[socket.socket, socket.socket]:
    first, second = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    first.bind(("127.0.0.1", port))
    second.bind(("127.0.0.2", first.getsockname()[1]))
    for listener in (first, second):
        listener.settimeout(10)
    return first, second


def test_a_pusher_follows_its_router_to_another_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names(monkeypatch)
    first, second = listeners()
    with first, second:
        pusher = Pusher("router.example", first.getsockname()[1])
        names.wait()
        assert [record.message.partition(" until")[0] for record in caplog.records] == ["vidur: no gauges are pushed"]
        names.addresses = ["127.0.0.1"]
        wait_for_socket(pusher)
        pusher.send(b"one")
        assert first.recv(100) == b"one"
        # Of several addresses it keeps the one that it has, in whichever order they come.
        names.addresses = ["127.0.0.2", "127.0.0.1"]
        names.wait()
        pusher.send(b"two")
        while first.recv(100) != b"two":
            pass
        names.addresses = ["127.0.0.2"]
        names.wait()
        pusher.send(b"three")
        assert second.recv(100) == b"three"
        # While the name is not known it goes on, and says so once.
        names.addresses = []
        names.wait()
        pusher.send(b"four")
        while second.recv(100) != b"four":
            pass
        names.wait()
        assert [record.message.partition(" until")[0] for record in caplog.records[1:]] == [
            "vidur: gauges go to 127.0.0.2"
        ]
        first.setblocking(False)
        left = []
        with contextlib.suppress(BlockingIOError):
            while True:
                left.append(first.recv(100))
        assert b"three" not in left and b"four" not in left
        pusher.close()


def test_a_lookup_that_takes_long_holds_up_no_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    names.addresses = ["127.0.0.1"]
    first, second = listeners()
    with first, second:
        pusher = Pusher("router.example", first.getsockname()[1])
        wait_for_socket(pusher)
        names.known.clear()
        pusher.send(b"one")
        assert [first.recv(100) for _ in range(3)] == [b"one"] * 3
        pusher.send(b"two")
        while first.recv(100) != b"two":
            pass
        pusher.close()
        names.known.set()


class Engines:
    """The part of vLLM's data-parallel client that the plug-in uses; its own choice is always the last engine."""

    def __init__(self, count: int = 2) -> None:
        self.core_engines = [bytes([number]) for number in range(count)]
        self.lb_engines: Any = [[0, 0, 0.0] for _ in range(count)]
        self.reqs_in_flight: dict[str, bytes] = {}
        self.inflight: Counter[bytes] = Counter()
        cache = SimpleNamespace(num_gpu_blocks=256, block_size=32)
        self.vllm_config = SimpleNamespace(cache_config=cache, scheduler_config=SimpleNamespace(max_num_seqs=64))

    def own_choice(self, request: Any) -> bytes:
        rank = len(self.core_engines) - 1 if request.data_parallel_rank is None else request.data_parallel_rank
        self.reqs_in_flight[request.request_id] = self.core_engines[rank]
        self.inflight[self.core_engines[rank]] += 1
        return self.core_engines[rank]


def request(name: str, tokens: int = 100, rank: int | None = None) -> Any:
    return SimpleNamespace(
        request_id=name, prompt_token_ids=[1] * tokens, prompt_embeds=None, data_parallel_rank=rank, priority=0,
        pooling_params=None,
    )  # fmt: skip


def outputs(name: str, tokens: int, reason: str | None) -> Any:
    one = SimpleNamespace(request_id=name, new_token_ids=[7] * tokens, finish_reason=reason)
    return SimpleNamespace(outputs=[one], finished_requests={name} if reason else None)


def route(routing: DataParallelRouting, engines: Engines, *requests: Any) -> list[int]:
    return [engines.core_engines.index(routing.choose(engines, each, Engines.own_choice)) for each in requests]


@pytest.mark.parametrize("scheduler", ["ppo", "least_tokens"])
def test_a_load_is_shared_and_forgotten(monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    monkeypatch.setenv("VIDUR_DATA_PARALLEL_SCHEDULER", scheduler)
    engines = Engines(3)
    routing = DataParallelRouting(engines)
    requests = [request(str(number)) for number in range(9)]
    chosen = Counter(route(routing, engines, *requests))
    # A learned policy may keep short prompts together.
    assert scheduler == "ppo" or chosen == {0: 3, 1: 3, 2: 3}
    assert routing._fallbacks == 0
    assert all(each.data_parallel_rank is None for each in requests)
    router = routing._router
    assert router is not None
    assert router.ledger.outstanding == 9
    for number in range(9):
        routing.note_outputs(outputs(str(number), 1, None))
        routing.note_outputs(outputs(str(number), 1, "abort" if number == 0 else "length"))
    assert router.ledger.outstanding == 0
    assert router.ledger.completions[0] == 8


def test_what_is_pinned_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDUR_DATA_PARALLEL_SCHEDULER", "least_tokens")
    engines = Engines()
    routing = DataParallelRouting(engines)
    assert route(routing, engines, *(request(str(number), rank=0) for number in range(4))) == [0, 0, 0, 0]
    # And it counts: the next ones go to the other engine.
    assert route(routing, engines, request("a"), request("b")) == [1, 1]
    assert routing._router is not None
    assert routing._router.ledger.outstanding == 6


def test_the_choice_is_vllms_again_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VIDUR_DATA_PARALLEL_SCHEDULER", "round_robin")
    engines = Engines()
    routing = DataParallelRouting(engines)
    assert route(routing, engines, request("a"), request("b")) == [0, 1]
    engines.lb_engines = [None, None]
    with caplog.at_level(logging.WARNING):
        assert route(routing, engines, *(request(str(number)) for number in range(3))) == [1, 1, 1]
    assert [record.getMessage()[:32] for record in caplog.records] == ["vidur: vLLM chooses among data-p"]


def test_a_scheduler_that_is_not_there_leaves_the_choice_to_vllm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VIDUR_DATA_PARALLEL_SCHEDULER", "lorr")
    engines = Engines()
    with caplog.at_level(logging.WARNING):
        routing = DataParallelRouting(engines)
    assert route(routing, engines, request("a"), request("b")) == [1, 1]
    assert len(caplog.records) == 1
    assert "lor" in caplog.records[0].getMessage()


def test_another_version_of_vllm_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").write_text('__version__ = "0.99.1+cpu"\n', encoding="utf-8")
    code = "from rl.vllm.plugin.data_parallel import register; register()"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    assert ran.returncode == 0
    assert "tested on vLLM 0.32.0, not 0.99.1" in ran.stderr


def test_what_vllm_loads_is_light() -> None:
    code = (
        "import sys, rl.vllm.plugin.data_parallel, rl.vllm.plugin.pusher, rl.vllm.calibrate.steps;"
        "import rl.vllm.decide.config;"
        "print(sorted({'torch', 'numba', 'pandas', 'plotly', 'rich', 'aiohttp'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert ran.stdout == "[]\n", ran.stderr
