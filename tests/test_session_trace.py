"""Replaying the sessions of a trace: its turns, sub-agents and content, and what malformed ones get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidur.config import PoissonRequestIntervalGeneratorConfig, SessionTraceRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator import RequestTable, generate_requests
from vidur.request_generator.ideal_hits import ideal_hit_rate

FLAG = "--session_trace_request_generator_config_trace_file"


def request(t: float, prompt: int, runs: list[list[int]], **more: Any) -> dict[str, Any]:
    return {"t": t, "in": prompt, "out": 5, "h": runs, "api": 1.0, "think": 0.0} | more


def session(*requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "s", "block_size": 64, "tool_tokens": 100, "system_tokens": 60, "requests": list(requests)} | more


# Two turns; two agents, of which the trace's third turn saw the first end, the fourth the second.
AGENTS = session(
    request(0, 200, [[1, 3]]),
    request(4, 300, [[1, 4]], think=3.0),
    {"t": 6, "sub": [request(0, 100, [[50, 1]]), request(2, 150, [[50, 2]], think=1.0)]},
    {"t": 7, "sub": [request(0, 70, [[90, 1]], api=5.0)]},
    request(10, 400, [[1, 3], [7, 3]], think=5.0),
    request(15, 500, [[1, 3], [7, 4]], think=None),
)


def replay(path: Path, *entries: dict[str, Any], **settings: Any) -> RequestTable:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    values = {"num_sessions": len(entries), "mid_life": False, **settings}
    return generate_requests(SessionTraceRequestGeneratorConfig(trace_file=str(path), **values))


def edges(table: RequestTable) -> list[tuple[int, int]]:
    assert table.turns is not None
    parents = np.repeat(np.arange(len(table)), np.diff(table.turns.offsets))
    return list(zip(parents.tolist(), table.turns.children.tolist(), strict=True))


def chains(table: RequestTable, block_size: int = 64) -> list[list[int]]:
    assert table.content is not None
    blocks = table.content.blocks(block_size)
    return [blocks.chain(number).tolist() for number in range(len(table))]


def test_turns_and_sub_agents_by_hand(tmp_path: Path) -> None:
    table = replay(tmp_path / "t", AGENTS)
    assert table.num_prefill_tokens.tolist() == [200, 300, 100, 70, 150, 400, 500]
    assert table.arrived_at - table.arrived_at[0] == pytest.approx([0, 4, 6, 7, 8, 10, 15])
    assert edges(table) == [(0, 1), (1, 2), (1, 3), (1, 5), (2, 4), (3, 6), (4, 5), (5, 6)]
    # The agents start 1 and 2 s after an answer ended at 5 s; the third turn 1 s after its agent at 9 s; the last one,
    # 3 s after its agent's end at 12 s.
    assert table.turns is not None and table.turns.think == pytest.approx([0, 3, 1, 2, 1, 1, 3])
    assert set(table.session_id) == {0}
    opened = replay(tmp_path / "t", AGENTS, mode="open_loop")
    assert opened.turns is None and (opened.arrived_at == table.arrived_at).all()


def test_content_is_the_trace_s(tmp_path: Path) -> None:
    first, second, agent, other, agent_2, third, fourth = chains(replay(tmp_path / "t", AGENTS))
    assert [len(chain) for chain in (first, second, agent, other, agent_2, third, fourth)] == [3, 4, 1, 1, 2, 6, 7]
    assert second[:3] == first and agent_2[:1] == agent and fourth[:6] == third and third[:3] == first
    assert len({*second, *third, *agent_2, *other, *fourth}) == 4 + 4 + 2 + 1
    sub = chains(replay(tmp_path / "t", AGENTS), 16)
    assert sub[1][:12] == sub[0] and len(sub[1]) == 16


def test_sessions_share_nothing_but_their_system_prompt_if_told_so(tmp_path: Path) -> None:
    other = session(request(0, 200, [[1, 3]]), request(2, 200, [[8, 3]]), system_tokens=61)
    for shared_system, common in ((False, 0), (True, 2)):
        table = replay(tmp_path / "t", AGENTS, AGENTS, other, shared_system=shared_system)
        whole = list(enumerate(chains(table)))
        firsts = [next(chain for row, chain in whole if table.session_id[row] == number) for number in range(3)]
        sizes = [len(set(firsts[a]) & set(firsts[b])) for a, b in ((0, 1), (0, 2), (1, 2))]
        assert sorted(sizes) == [0, 0, common], "160 tokens are 2 whole blocks of sessions with equal lengths"
        assert all(len(set(chain)) == len(chain) for _, chain in whole)


def test_the_form_of_kv_cache_tester_is_read_too(tmp_path: Path) -> None:
    def raw(entry: dict[str, Any]) -> dict[str, Any]:
        if "sub" in entry:
            return {"t": entry["t"], "type": "subagent", "requests": [raw(inner) for inner in entry["sub"]]}
        ids = [id_ for first, count in entry["h"] for id_ in range(first, first + count)]
        moved = {"hash_ids": ids, "api_time": entry["api"], "think_time": entry["think"], "type": "n"}
        return {name: entry[name] for name in ("t", "in", "out")} | moved

    expected = replay(tmp_path / "t", AGENTS)
    table = replay(tmp_path / "t", AGENTS | {"requests": [raw(entry) for entry in AGENTS["requests"]]})
    assert chains(table) == chains(expected) and edges(table) == edges(expected)
    assert table.turns is not None and expected.turns is not None
    assert table.turns.think.tolist() == expected.turns.think.tolist()
    unknown = session(request(0, 200, [[1, 3]]), request(2, 300, [[1, 4]]))
    del unknown["requests"][1]["h"]
    assert [len(chain) for chain in chains(replay(tmp_path / "t", unknown))] == [3, 0]


def test_a_session_ends_before_a_request_that_is_too_long(tmp_path: Path) -> None:
    table = replay(tmp_path / "t", AGENTS, max_tokens=350)
    assert table.num_prefill_tokens.tolist() == [200, 300, 100, 70, 150]
    assert "2 requests beyond 350 tokens left out" in table.source
    agent = replay(tmp_path / "t", session(request(0, 90, [[1, 1]]), {"t": 2, "sub": [request(0, 400, [[9, 6]])]},
                                           request(9, 95, [[1, 1]], think=8.0)), max_tokens=200)  # fmt: skip
    assert agent.num_prefill_tokens.tolist() == [90, 95] and edges(agent) == [(0, 1)]
    assert agent.turns is not None and agent.turns.think.tolist() == [0.0, 8.0]
    with pytest.raises(InputError, match="no session begins with a request of at most 100 tokens"):
        replay(tmp_path / "t", AGENTS, max_tokens=100)


def test_sessions_are_dealt_again_with_new_content(tmp_path: Path) -> None:
    table = replay(tmp_path / "t", AGENTS, num_sessions=20)
    assert len(table) == 140 and np.bincount(table.session_id).tolist() == [7] * 20
    keys = [set(chain) for chain in chains(table)]
    for a in range(0, 140, 11):
        assert all(not keys[a] & keys[b] for b in range(140) if table.session_id[a] != table.session_id[b])


def test_mid_life(tmp_path: Path) -> None:
    rate = PoissonRequestIntervalGeneratorConfig(qps=10.0)
    table = replay(
        tmp_path / "t", AGENTS, mid_life=True, num_sessions=None, duration=20.0, interval_generator_config=rate
    )
    old = round(10 / (1 - np.exp(-3)) * 15)
    assert f"{old} of them under way at 0" in table.source
    assert np.bincount(table.session_id, minlength=old)[:old].max() < 7
    assert table.turns is not None
    # Whoever is left waits for those of the others that are still to come.
    waits = table.turns.num_parents()
    assert (waits[table.num_prefill_tokens == 200] == 0).all()
    assert {0, 1, 2} == set(waits[table.num_prefill_tokens == 500].tolist())


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (session(), "t, row 1: expected a list of requests, not []"),
        (session({"t": -1}), "t, row 1, request 1, t: -1 is not a number of at least 0"),
        (
            session(request(0, 200, [[1, 4], [9, 1]])),
            "t, row 1, request 1: 5 block ids do not fit in = 200: expected 3",
        ),
        (session(request(0, 200, [[1, 2]])), "t, row 1, request 1: 2 block ids do not fit in = 200: expected 3"),
        (session(request(0, 200, [[1, -3]])), "t, row 1, request 1: block ids must be runs [first id, blocks] in h"),
        (session(request(0, 200, [[1, 3]], think=-2)), "t, row 1, request 1, think: -2 is not a number of at least 0"),
        (
            session(request(0, 200, [[1, 3]]), {"t": 1, "sub": [{"t": 0, "in": 9, "h": []}]}),
            "t, row 1, request 2, request 1, out: nothing is not a number of at least 0",
        ),
        (session(request(0, 200, [[1, 3]]), {"t": 1, "sub": 3}), "t, row 1, request 2, sub: expected a list of"),
        (session(3), "t, row 1, request 1: expected an object, not 3"),
        (session(request(0, 9, []), block_size=0), "t, row 1, column block_size: 0 is not the same positive number"),
    ],
)
def test_one_line_names_the_culprit(tmp_path: Path, entry: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        replay(tmp_path / "t", entry)
    text = str(caught.value).replace(f"{tmp_path}/", "")
    assert text.startswith(expected) and "\n" not in text


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{FLAG}: there is no file"):
        generate_requests(SessionTraceRequestGeneratorConfig(trace_file=str(tmp_path / "none")))
    (tmp_path / "t").write_text("a,b\n")
    with pytest.raises(InputError, match="row 1: expected a JSON object"):
        generate_requests(SessionTraceRequestGeneratorConfig(trace_file=str(tmp_path / "t")))


def test_the_shipped_excerpt() -> None:
    table = generate_requests(SessionTraceRequestGeneratorConfig(num_sessions=60, mid_life=False))
    assert len(table) == 1741 and "left out" not in table.source
    assert ideal_hit_rate(table, 64) == pytest.approx(0.9443, abs=0.0001)


def test_the_claude_code_trace(shared: Path) -> None:
    trace = str(shared / "traces" / "claude_code_weka.jsonl.gz")
    config = SessionTraceRequestGeneratorConfig(
        trace_file=trace, num_sessions=355, mid_life=False, max_tokens=1_000_000
    )
    table = generate_requests(config)
    assert len(table) == 24_015
    assert ideal_hit_rate(table, 64) == pytest.approx(0.9632, abs=0.001)
