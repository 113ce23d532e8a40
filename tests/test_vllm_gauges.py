"""What replicas report: a real scrape, damaged ones, datagrams, and the newest of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.vllm.decide.gauges import (
    LARGEST_DATAGRAM,
    EngineGauges,
    Gauges,
    MetricsError,
    Push,
    Scrape,
    format_push,
    parse_metrics,
    parse_push,
)


def metrics(**lines: str) -> str:
    """Two engines, as vLLM writes them; `lines` replaces or drops a metric's samples."""
    text = {
        "vllm:num_requests_running": '{engine="0",model_name="a{\\"}b"} 3.0\n{engine="1",model_name="m"} 4.0',
        "vllm:num_requests_waiting": '{engine="0"} 1.0\n{engine="1"} 0.0',
        "vllm:kv_cache_usage_perc": '{engine="0"} 0.5\n{engine="1"} 0.1',
        "vllm:num_preemptions_total": '{engine="0"} 2.0\n{engine="1"} 5.0',
        "vllm:cache_config_info": '{block_size="16",engine="0",num_gpu_blocks="100"} 1.0\n'
        '{block_size="16",engine="1",num_gpu_blocks="100"} 1.0',
    }
    text |= {f"vllm:{name}": value for name, value in lines.items()}
    head = "# HELP vllm:num_requests_running of\n# TYPE vllm:num_requests_running gauge\n"
    head += 'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0\n'
    return head + "\n".join(f"{name}{line}" for name, value in text.items() for line in value.splitlines())


def test_a_real_scrape(shared: Path) -> None:
    scrape = parse_metrics((shared / "vllm/metrics_sample.txt").read_text())
    assert scrape == Scrape({0: EngineGauges(0.0, 0.0, 0.0, 0.0)}, 16384)


def test_engines_are_summed_and_their_kv_usage_averaged() -> None:
    scrape = parse_metrics(metrics())
    assert scrape.kv_tokens == 3200 and scrape.engines[1] == EngineGauges(4.0, 0.0, 0.1, 5.0)
    gauges = Gauges(2, 10.0)
    gauges.update(1, scrape, 12.0)
    np.testing.assert_allclose(gauges.observe(13.0), [[0, 0, 0, 0, 3], [7, 1, 0.3, 7, 1]])
    assert gauges.known(1) and not gauges.known(0)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("kv_cache_usage_perc", "", "no vllm:kv_cache_usage_perc"),
        ("num_requests_running", '{engine="0"} many', "'many' is not a number"),
        ("num_requests_running", '{engine="x"} 1', "'x' is not the number of an engine"),
        ("num_requests_waiting", '{engine="0"} 1.0', "has other engines"),
        ("kv_cache_usage_perc", '{engine="0"} NaN\n{engine="1"} 0', "kv_usage is nan"),
        ("kv_cache_usage_perc", '{engine="0"} 7\n{engine="1"} 0', "more than 1"),
        ("num_preemptions_total", '{engine="0"} -1\n{engine="1"} 0', "preemptions is -1"),
    ],
)
def test_damaged_metrics_say_what_is_wrong(name: str, lines: str, message: str) -> None:
    with pytest.raises(MetricsError, match=message):
        parse_metrics(metrics(**{name: lines}))


@given(st.text(max_size=300))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with pytest.raises(MetricsError):
        parse_metrics(text)


PUSH = Push("a", 0, EngineGauges(1, 2, 0.5, 3), 12345, 64)


def test_a_datagram_reads_back() -> None:
    assert parse_push(format_push(PUSH)) == PUSH and len(format_push(PUSH)) < LARGEST_DATAGRAM


@given(st.binary(max_size=100) | st.sampled_from(list(json.loads(format_push(PUSH)))).flatmap(
    lambda key: st.sampled_from([None, "x", -1, 1e400, True, [], 10**400]).map(
        lambda value: json.dumps({**json.loads(format_push(PUSH)), key: value}).encode())))  # fmt: skip
def test_any_datagram_is_parsed_or_refused(datagram: bytes) -> None:
    try:
        push = parse_push(datagram)
    except MetricsError:
        return
    assert isinstance(push.replica, str) and np.isfinite(push.gauges).all() and min(push.gauges) >= 0


def test_the_newest_report_wins_whatever_its_source() -> None:
    gauges = Gauges(1)
    assert gauges.push(0, PUSH, 5.0)
    gauges.update(0, Scrape({0: EngineGauges(9, 9, 0.9, 9)}, None), 4.0)
    assert gauges.observe(6.0)[0].tolist() == [1, 2, 0.5, 3, 1]
    late = PUSH._replace(number=PUSH.number - 1, gauges=EngineGauges(7, 7, 0.7, 7))
    assert not gauges.push(0, late, 6.0)
    assert gauges.push(0, PUSH, 6.5) and gauges.observe(7.0)[0].tolist() == [1, 2, 0.5, 3, 0.5]  # a repetition
    # After a new start numbers begin anew.
    assert gauges.push(0, late._replace(run=PUSH.run + 1), 6.5)
    assert gauges.observe(7.0)[0].tolist() == [7, 7, 0.7, 7, 0.5]
    gauges.update(0, Scrape({0: EngineGauges(9, 9, 0.9, 9)}, None), 7.0)
    assert gauges.observe(7.5)[0].tolist() == [9, 9, 0.9, 9, 0.5]


def test_replicas_come_and_go() -> None:
    gauges = Gauges(2)
    gauges.update(1, Scrape({0: EngineGauges(1, 2, 0.5, 3)}, None), 5.0)
    gauges.remove_replica(0)
    assert gauges.add_replica(6.0) == 1
    assert gauges.observe(8.0).tolist() == [[1, 2, 0.5, 3, 3], [0, 0, 0, 0, 2]]
