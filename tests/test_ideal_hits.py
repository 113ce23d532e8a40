"""The ideal hit rate: against a set of whole prefixes, and on public traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import TraceRequestGeneratorConfig
from vidur.request_generator import RequestTable, generate_requests
from vidur.request_generator.content import ID_GAP, Content
from vidur.request_generator.ideal_hits import ideal_hit_rate, ideal_hits

# Paths in a small tree of prefixes: at each step a word of 1 to 40 tokens, the same word wherever the path so far is
# the same. The prompt ends somewhere, the answer is known up to the end of the path.
paths = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=0, max_size=5), st.floats(0, 1), st.integers(1, 30)),
    min_size=1,
    max_size=25,
)


def word_length(path: tuple[int, ...]) -> int:
    return 1 + (31 * len(path) + 7 * sum(path)) % 40


def table_of(drawn: list[tuple[list[int], float, int]]) -> tuple[RequestTable, list[list[tuple[tuple[int, ...], int]]]]:
    """The table, and each request's tokens, named by the path to their word and their place in it."""
    numbers: dict[tuple[int, ...], int] = {}
    runs: list[list[tuple[int, int]]] = []
    tokens: list[list[tuple[tuple[int, ...], int]]] = []
    for path, _, _ in drawn:
        prefixes = [tuple(path[:depth]) for depth in range(1, len(path) + 1)]
        runs.append([(numbers.setdefault(p, len(numbers)) * 2 * ID_GAP, word_length(p)) for p in prefixes])
        tokens.append([(p, place) for p in prefixes for place in range(word_length(p))])
    prompts = [max(1, round(share * len(known))) for (_, share, _), known in zip(drawn, tokens, strict=True)]
    answers = [max(1, len(known) - prompt + extra - 15) for (_, _, extra), known, prompt
               in zip(drawn, tokens, prompts, strict=True)]  # fmt: skip
    flat = [run for row in runs for run in row]
    content = Content(
        np.cumsum([0, *map(len, runs)]),
        np.array([f for f, _ in flat], np.int64),
        np.array([n for _, n in flat], np.int64),
    )
    most = np.array(prompts) + np.array(answers)
    content = content.cut(most)
    tokens = [known[: most[i]] for i, known in enumerate(tokens)]
    table = RequestTable.of(
        np.arange(len(drawn), dtype=float), np.array(prompts), np.array(answers), "", content=content
    )
    return table, tokens


@given(paths, st.sampled_from([1, 2, 8, 16, 64]))
def test_it_is_what_a_set_of_all_earlier_prefixes_finds(
    drawn: list[tuple[list[int], float, int]], block_size: int
) -> None:
    table, tokens = table_of(drawn)
    cached: set[tuple[object, ...]] = set()
    expected = []
    for prompt, known in zip(table.num_prefill_tokens.tolist(), tokens, strict=True):
        blocks = 0
        while (blocks + 1) * block_size < min(prompt, len(known) + 1) and tuple(
            known[: (blocks + 1) * block_size]
        ) in cached:
            blocks += 1
        expected.append(blocks * block_size)
        cached.update(tuple(known[:end]) for end in range(block_size, len(known) + 1, block_size))
    assert ideal_hits(table, block_size).tolist() == expected
    assert ideal_hit_rate(table, block_size) == sum(expected) / table.num_prefill_tokens.sum()


@given(paths, st.sampled_from([1, 4, 16]))
def test_chains_agree_exactly_as_far_as_the_tokens_do(
    drawn: list[tuple[list[int], float, int]], block_size: int
) -> None:
    table, tokens = table_of(drawn)
    assert table.content is not None
    table.content.validate(len(table), table.num_prefill_tokens + table.num_decode_tokens)
    blocks = table.content.merged().blocks(block_size)
    chains = [blocks.chain(request).tolist() for request in range(len(table))]
    prefixes = [[tuple(known[: end + block_size]) for end in range(0, len(known) - block_size + 1, block_size)]
                for known in tokens]  # fmt: skip
    names: dict[tuple[object, ...], int] = {}
    for chain, own in zip(chains, prefixes, strict=True):
        assert len(chain) == len(own)
        assert all(names.setdefault(prefix, key) == key for key, prefix in zip(chain, own, strict=True))
    assert len(set(names.values())) == len(names)


def test_without_content_nothing_is_found() -> None:
    ones = np.ones(3, np.int64)
    assert ideal_hit_rate(RequestTable.of(np.zeros(3), ones, ones, ""), 16) == 0.0


@pytest.mark.parametrize(("block_size", "expected"), [(512, 0.3734), (16, 0.3736)])
def test_mooncake_s_conversations(shared: Path, block_size: int, expected: float) -> None:
    trace = shared / "traces" / "mooncake_conversation_trace.jsonl.gz"
    table = generate_requests(TraceRequestGeneratorConfig(trace_file=str(trace), max_tokens=1_000_000))
    assert len(table) == 12_031 and "cut" not in table.source
    assert ideal_hit_rate(table, block_size) == pytest.approx(expected, abs=0.0005)
