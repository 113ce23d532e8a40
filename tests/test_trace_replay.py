"""Replaying a trace file: every form, what is done to its rows, and that it says so."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import TraceRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator import RequestTable, generate_requests

VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n4.25,396,109\n"
AZURE_2023 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 00:00:00.009930+00:00,2162,5\n"
    "2024-05-10 00:00:01+00:00,2399,6\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "7,GPT-4,900,0,900,API log\n"
    "45,ChatGPT,1087,230,1317,Conversation log\n"
)
BURSTGPT_SESSIONS = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "19440110.0,1722ac82-0a46,43,GPT-4,906,446,1352,Conversation log\n"
    "19440161.0,,2,ChatGPT,36,29,65,API log\n"
    "19440192.5,d5983bf9-4b48,2,ChatGPT,36,29,65,Conversation log\n"
    "19440193.5,1722ac82-0a46,2,ChatGPT,40,29,69,Conversation log\n"
)
MOONCAKE = (
    '{"timestamp": 27482, "input_length": 6955, "output_length": 52, '
    '"hash_ids": [46, 47, 2366, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 5]}\n'
    '{"timestamp": 30535, "input_length": 1472, "output_length": 26, "hash_ids": [46, 47, 99]}\n'
    '{"timestamp": 30536, "input_length": 100, "output_length": 1, "hash_ids": []}\n'
)


def replay(path: Path, text: str | bytes, **settings: Any) -> RequestTable:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return generate_requests(TraceRequestGeneratorConfig(trace_file=str(path), **{"max_tokens": 100_000, **settings}))


def pairs(table: RequestTable) -> list[tuple[int, int]]:
    return list(zip(table.num_prefill_tokens.tolist(), table.num_decode_tokens.tolist(), strict=True))


def prefixes(table: RequestTable, block_size: int) -> list[int]:
    """How many full blocks of each request have known content."""
    assert table.content is not None
    blocks = table.content.blocks(block_size)
    return [len(blocks.chain(request)) for request in range(len(table))]


@pytest.mark.parametrize(
    ("text", "form", "arrived_at", "lengths"),
    [
        (VIDUR, "vidur", [0.5, 4.25], [(374, 44), (396, 109)]),
        (AZURE_2023, "azure", [0.0, 4.314579], [(374, 44), (396, 109)]),
        (AZURE_2024, "azure", [0.0, 0.99007], [(2162, 5), (2399, 6)]),
        (BURSTGPT, "burstgpt", [0.0, 40.0], [(472, 18), (1087, 230)]),
        (BURSTGPT_SESSIONS, "burstgpt", [0.0, 51.0, 82.5, 83.5], [(906, 446), (36, 29), (36, 29), (40, 29)]),
        (MOONCAKE, "mooncake", [0.0, 3.053, 3.054], [(6955, 52), (1472, 26), (100, 1)]),
    ],
)
def test_every_form_is_recognised(
    tmp_path: Path, text: str, form: str, arrived_at: list[float], lengths: list[tuple[int, int]]
) -> None:
    for table in (replay(tmp_path / "trace", text), replay(tmp_path / "trace", text, trace_format=form)):
        assert f"({form} form): {len(lengths)} requests" in table.source
        assert table.arrived_at.tolist() == pytest.approx(arrived_at, abs=1e-9)
        assert pairs(table) == lengths


def test_what_only_some_forms_have(tmp_path: Path) -> None:
    assert prefixes(replay(tmp_path / "t", MOONCAKE), 512) == [13, 2, 0]
    assert replay(tmp_path / "t", VIDUR).content is None
    assert replay(tmp_path / "t", BURSTGPT_SESSIONS).session_id.tolist() == [0, -1, 1, 0]
    header, *rows = VIDUR.splitlines()
    table = replay(tmp_path / "t", f"{header},session_id,priority\n{rows[0]},7,2\n{rows[1]},,\n")
    assert table.session_id.tolist() == [7, -1]
    assert table.priority.tolist() == [2, 0]
    lines = [json.loads(line) | {"conversation_id": f"c{i}"} for i, line in enumerate(MOONCAKE.splitlines())]
    table = replay(tmp_path / "t", "".join(json.dumps(line) + "\n" for line in lines))
    assert table.session_id.tolist() == [0, 1, 2]


def test_failed_requests_are_left_out_and_counted(tmp_path: Path) -> None:
    table = replay(tmp_path / "t", BURSTGPT)
    assert "1 failed requests left out" in table.source
    assert "left out" not in replay(tmp_path / "t", BURSTGPT, num_requests=1).source
    assert pairs(replay(tmp_path / "t", BURSTGPT, num_requests=2)) == pairs(table)
    only_failed = BURSTGPT.replace("18,490", "0,490").replace("230,1317", "0,1317")
    with pytest.raises(InputError, match="has no request that succeeded: all 3 lack"):
        replay(tmp_path / "t", only_failed)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text + "\n  \n\n",
        lambda text: "\n\n" + text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n".join(",".join(f'"{field}"' for field in row.split(",")) for row in text.splitlines()),
        lambda text: text.replace(",", " , "),
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.upper(),
    ],
)
@pytest.mark.parametrize("text", [VIDUR, AZURE_2023, BURSTGPT])
def test_harmless_variations(tmp_path: Path, text: str, change: Any) -> None:
    expected, changed = replay(tmp_path / "t", text), replay(tmp_path / "t", change(text))
    assert changed.arrived_at.tolist() == expected.arrived_at.tolist()
    assert pairs(changed) == pairs(expected)


def test_harmless_variations_of_json_lines(tmp_path: Path) -> None:
    expected = replay(tmp_path / "t", MOONCAKE)
    changed = replay(tmp_path / "t", "\ufeff\r\n" + MOONCAKE.replace("\n", "\r\n\r\n"))
    assert (pairs(changed), prefixes(changed, 512)) == (pairs(expected), prefixes(expected, 512))


@pytest.mark.parametrize("text", [VIDUR, MOONCAKE])
def test_compressed(tmp_path: Path, text: str) -> None:
    expected = replay(tmp_path / "plain", text)
    assert pairs(replay(tmp_path / "trace.gz", gzip.compress(text.encode()))) == pairs(expected)


def test_the_first_requests_only(tmp_path: Path) -> None:
    table = replay(tmp_path / "t", VIDUR + "not,even,numbers\n", num_requests=2)
    assert len(table) == 2
    assert len(replay(tmp_path / "t", VIDUR, num_requests=1)) == 1
    assert len(replay(tmp_path / "t", VIDUR, num_requests=99)) == 2


def test_rows_out_of_order_are_sorted_and_it_is_said(tmp_path: Path) -> None:
    header, first, second = VIDUR.splitlines()
    table = replay(tmp_path / "t", "\n".join([header, second, first]))
    assert pairs(table) == [(374, 44), (396, 109)]
    assert table.source.endswith("; sorted by arrival")
    assert "sorted" not in replay(tmp_path / "t", VIDUR).source
    late_first = "\n".join(reversed(MOONCAKE.splitlines()))
    assert prefixes(replay(tmp_path / "t", late_first), 512) == [13, 2, 0]


def test_scaling_and_cutting_are_upstream_s(tmp_path: Path) -> None:
    scale = {"prefill_scale_factor": 0.5, "decode_scale_factor": 1.5, "time_scale_factor": 2.0}
    table = replay(tmp_path / "t", VIDUR, **scale)
    assert pairs(table) == [(187, 66), (198, 163)]
    assert table.arrived_at.tolist() == [1.0, 8.5]
    cut = replay(tmp_path / "t", VIDUR, max_tokens=418)
    assert pairs(cut) == [(374, 44), (309, 109)]
    assert cut.source.endswith("; 1 cut to 418 tokens")
    assert pairs(replay(tmp_path / "t", VIDUR, max_tokens=100)) == [(56, 44), (1, 99)]
    assert pairs(replay(tmp_path / "t", VIDUR, prefill_scale_factor=1e-6)) == [(1, 44), (1, 109)]


def test_hash_ids_identify_blocks_of_any_size_that_divides_theirs(tmp_path: Path) -> None:
    table = replay(tmp_path / "t", MOONCAKE)
    assert table.content is not None and table.content.granularity == 512
    for block_size, shared, counts in ((512, 2, [13, 2, 0]), (128, 8, [54, 11, 0]), (16, 64, [434, 92, 0])):
        blocks = table.content.blocks(block_size)
        first, second = blocks.chain(0).tolist(), blocks.chain(1).tolist()
        assert [len(first), len(second), len(blocks.chain(2))] == counts
        assert first[:shared] == second[:shared] and not set(first[shared:]) & set(second[shared:])
    coarse = replay(tmp_path / "t", '{"timestamp": 0, "input_length": 17, "output_length": 1, "hash_ids": [4, 9]}',
                    hash_block_size=16)  # fmt: skip
    assert coarse.content is not None and coarse.content.granularity == 16 and prefixes(coarse, 16) == [1]


def test_content_ends_with_a_cut_prompt_and_is_left_out_of_a_scaled_one(tmp_path: Path) -> None:
    cut = replay(tmp_path / "t", MOONCAKE, max_tokens=1600)
    assert pairs(cut) == [(1548, 52), (1472, 26), (100, 1)]
    assert prefixes(cut, 512) == [3, 2, 0]
    assert cut.content is not None and cut.content.tokens().tolist() == [1548, 1472, 0]
    scaled = replay(tmp_path / "t", MOONCAKE, prefill_scale_factor=0.5)
    assert scaled.content is None
    assert scaled.source.endswith("; hash_ids do not fit scaled prompts and are left out")


TURNS = "arrived_at,num_prefill_tokens,num_decode_tokens,request_id,parent,think\n"


def test_turns_of_one_s_own(tmp_path: Path) -> None:
    rows = "0,9,1,a,,\n3,9,2,b,a,2.5\n1,9,3,c,a,0\n2,9,4,d, b c ,1\n"
    table = replay(tmp_path / "t", TURNS + rows)
    assert table.turns is not None
    assert table.num_decode_tokens.tolist() == [1, 3, 2, 4], "d follows b, whose estimate is later"
    assert table.arrived_at.tolist() == [0.0, 1.0, 3.0, 3.0]
    assert (table.turns.offsets.tolist(), table.turns.children.tolist()) == ([0, 2, 3, 4, 4], [2, 1, 3, 3])
    assert table.turns.think.tolist() == [0.0, 0.0, 2.5, 1.0]
    assert table.turns.num_parents().tolist() == [0, 1, 1, 2]
    numbered = replay(tmp_path / "t", TURNS.replace("request_id,", "") + "0,9,1,,\n0,9,2,0,\n0,9,3,1,4\n")
    assert numbered.turns is not None and numbered.turns.children.tolist() == [1, 2]
    assert replay(tmp_path / "t", TURNS + "0,9,1,a,,\n").turns is None


def test_a_time_beyond_reason_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"time_scale_factor puts an arrival at 4\.25e"):
        replay(tmp_path / "t", VIDUR, time_scale_factor=1e20)
    with pytest.raises(InputError, match="max_tokens must be at least 2"):
        replay(tmp_path / "t", VIDUR, max_tokens=1)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(1, 10_000), st.integers(1, 10_000)),
        min_size=1,
        max_size=30,
    ),
    st.floats(0.01, 100),
    st.integers(2, 5000),
)
def test_any_trace_becomes_a_valid_table(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int, int]], factor: float, max_tokens: int
) -> None:
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{a!r},{p},{d}\n" for a, p, d in rows)
    table = replay(tmp_path_factory.mktemp("trace") / "t", text, prefill_scale_factor=factor, max_tokens=max_tokens)
    table.validate()
    expected = []
    for arrived_at, prefill, decode in sorted(rows, key=lambda row: row[0]):
        scaled = max(math.floor(prefill * factor), 1)
        p = min(scaled, max(max_tokens - decode, 1))
        expected.append((arrived_at, p, min(decode, max_tokens - p)))
    assert list(zip(table.arrived_at.tolist(), *zip(*pairs(table), strict=True), strict=True)) == expected


def test_the_shared_traces_replay_whole(shared: Path) -> None:
    for name, count in (("splitwise_conv.csv", 19366), ("splitwise_code.csv", 8819)):
        config = TraceRequestGeneratorConfig(trace_file=str(shared / "traces" / name))
        table = generate_requests(config)
        assert len(table) == count
        assert (table.num_prefill_tokens + table.num_decode_tokens <= 4096).all()
        assert np.all(np.diff(table.arrived_at) >= 0)
