"""Our rules against decisions that the originals took (scripts/record_router_decisions.py)."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from observations import observe, router

from vidur.config import SglangCacheAwareGlobalSchedulerConfig
from vidur.observation import MATCHED_TOKENS
from vidur.prefix_index import PrefixIndex
from vidur.scheduler.routers.consistent_hash import ConsistentHashScheduler, choose_consistent_hash, remembered
from vidur.scheduler.routers.sglang_cache_aware import SglangCacheAwareScheduler, choose_sglang_cache_aware

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from record_router_decisions import CHARACTERS, WORKERS, Step, checksum, script

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parent / "router_decisions.json").read_text(encoding="utf-8")
)["recordings"]

# Among up to as many tied workers, each is drawn.
DRAWS = [worker / WORKERS for worker in range(WORKERS)]


def script_of(recording: dict[str, Any]) -> list[Step]:
    steps = script(*recording["script"])
    assert checksum(steps) == recording["checksum"], "Python's random numbers have changed: record anew"
    return steps


def test_consistent_hash_decides_as_vllm_router() -> None:
    recording = RECORDED["vllm-router consistent_hash"]
    memory = remembered(recording["urls"], "header:x-session-id:", 160)
    sent = [step for step in script_of(recording) if step.send >= 0]
    chosen = [
        choose_consistent_hash(observe(WORKERS, identity=(step.session, 0)).view, memory, np.zeros(2)) for step in sent
    ]
    assert chosen == recording["workers"] and len(set(chosen)) == WORKERS


def possible(recording: dict[str, Any], order: Sequence[int]) -> Iterator[set[int]]:
    """Yield what sglang_cache_aware can choose at each step, if the router keeps its workers in that order. The index
    and the loads are those after the recorded decisions."""
    config = SglangCacheAwareGlobalSchedulerConfig(**recording["settings"])
    options = SglangCacheAwareScheduler.index_options(config)
    assert options is not None
    memory = router("sglang_cache_aware", WORKERS, config).memory
    index = PrefixIndex([options.capacity_blocks(0, 1)] * WORKERS, 1, options)
    numbers: dict[str, int] = {}
    replica_of: dict[int, int] = {}
    outstanding, workers = [0] * WORKERS, iter(recording["workers"])
    for now, step in enumerate(script_of(recording)):
        if step.send < 0:
            outstanding[replica_of[step.release]] -= 1
            continue
        ends = range(CHARACTERS, len(step.text) + 1, CHARACTERS)
        keys = [numbers.setdefault(step.text[:end], len(numbers)) for end in ends]
        matched = index.match(keys, float(now))
        seen = observe(WORKERS, prompt=len(keys), outstanding=outstanding, prefix={MATCHED_TOKENS: matched})
        yield {order[choose_sglang_cache_aware(seen.view, memory, np.array([draw, 0.0]))] for draw in DRAWS}
        replica = replica_of[step.send] = order.index(next(workers))
        index.place(replica, step.send, keys, 0, float(now))
        outstanding[replica] += 1


@pytest.mark.parametrize("name", [name for name in RECORDED if "cache_aware" in name])
def test_sglang_cache_aware_decides_as_the_originals(name: str) -> None:
    """The routers keep their workers in an order of their own, by which the first of those with equal loads is meant.
    Among workers with equal matches the original's choice is one of ours."""
    recording = RECORDED[name]
    workers = recording["workers"]

    def agreeing(order: Sequence[int]) -> bool:
        return all(worker in choice for worker, choice in zip(workers, possible(recording, order), strict=True))

    orders = [order for order in itertools.permutations(range(WORKERS)) if agreeing(order)]
    assert len(orders) == 1
    choices = list(possible(recording, orders[0]))
    assert sum(len(choice) == 1 for choice in choices) > 0.8 * len(choices)


def test_the_class_remembers_the_same_ring() -> None:
    scheduler = router("consistent_hash", 3, url="http://w{replica}:80", key="k", virtual_nodes=7)
    assert isinstance(scheduler, ConsistentHashScheduler)
    urls = [f"http://w{number}:80" for number in range(3)]
    np.testing.assert_array_equal(scheduler.memory, remembered(urls, "k", 7))
    assert len(scheduler.memory) == 3 + 3 * 21
