"""Prompt tokens: counted exactly where they can be, else learned from what replicas report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.vllm.decide.prompt_length import PromptLength
from vidur.errors import InputError

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def words_tokenizer(folder: Path) -> str:
    """The file of a tokenizer of which each word is a token."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, "?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    file = str(folder / "tokenizer.json")
    made.save(file)
    return file


def test_token_ids_are_counted() -> None:
    length = PromptLength()
    for prompt, tokens in (([1, 2, 3], 3), ([[1, 2], [3, 4, 5]], 5)):
        assert length.count(COMPLETIONS, {"prompt": prompt})[:2] == (tokens, True)


@pytest.mark.parametrize(
    "body",
    [{}, {"prompt": ""}, {"prompt": None}, {"prompt": {"a": [{}]}}, {"messages": [{"content": None}]},
     {"messages": "x"}, {"prompt": [[]]}, {"prompt": [True]}, {"input": [["a"], "b"]}],
)  # fmt: skip
def test_any_body_has_a_prompt_of_a_token_at_least(body: dict[str, Any]) -> None:
    assert PromptLength().count(COMPLETIONS, body).tokens >= 1


def test_of_a_long_text_a_part_is_counted(tmp_path: Path) -> None:
    counted = PromptLength(words_tokenizer(tmp_path)).count(
        COMPLETIONS, {"prompt": ["a b c d " * 50_000, "a b " * 100_000]}
    )
    assert counted.tokens == pytest.approx(400_000, rel=0.01) and not counted.exact


def test_deep_bodies_are_read() -> None:
    body: Any = "word"
    for _ in range(50_000):
        body = [body]
    assert PromptLength().count(COMPLETIONS, {"prompt": body}).size == 4


def test_pictures_are_no_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10_000}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}
    assert PromptLength().count(CHAT, {"messages": [message]}).size < 50


@pytest.mark.parametrize(("slope", "offset"), [(0.21, 0.0), (0.3, 25.0), (1.0, 4.0)])
def test_the_ratio_is_learned_though_some_reports_are_wrong(slope: float, offset: float) -> None:
    """Tokens are slope x bytes + offset, give or take a tenth; one report in twenty is ten times too large."""
    rng = np.random.default_rng(0)
    length = PromptLength()
    for size in rng.lognormal(6, 1, 600).astype(int) + 1:
        count = length.count(CHAT, {"messages": [{"content": "a" * int(size)}]})
        wrong = 10.0 if rng.random() < 0.05 else 1.0
        length.learn(count, round((slope * count.size + offset) * rng.normal(1, 0.1) * wrong))
    for size in (100, 1000, 10_000):
        found = length.count(CHAT, {"messages": [{"content": "a" * size}]})
        assert found.tokens == pytest.approx(slope * found.size + offset, rel=0.25) and not found.exact


def test_routes_and_scripts_are_learned_apart() -> None:
    length = PromptLength()
    kinds = set()
    for route, text, ratio in (
        (COMPLETIONS, "a" * 300, 0.25),
        (COMPLETIONS, "語" * 100, 0.5),
        ("/v1/x", "a" * 300, 1.0),
    ):
        for _ in range(100):
            count = length.count(route, {"prompt": text})
            length.learn(count, round(ratio * 300))
        kinds.add(count.kind)
        assert length.count(route, {"prompt": text}).tokens == pytest.approx(ratio * 300, rel=0.05)
    assert len(kinds) == 3


def test_what_was_counted_teaches_nothing() -> None:
    length = PromptLength()
    before = length.count(COMPLETIONS, {"prompt": "a" * 400})
    length.learn(length.count(COMPLETIONS, {"prompt": [1] * 400}), 9000)
    assert length.count(COMPLETIONS, {"prompt": "a" * 400}) == before


def test_a_tokenizer_counts_text(tmp_path: Path) -> None:
    length = PromptLength(words_tokenizer(tmp_path))
    assert length.count(COMPLETIONS, {"prompt": ["a a b", "a"]})[:2] == (4, True)
    chat = {"messages": [{"content": "a " * 50}]}
    for _ in range(200):
        length.learn(length.count(CHAT, chat), 75)
    found = length.count(CHAT, chat)
    assert found.tokens == pytest.approx(75, abs=3) and not found.exact


def test_no_tokenizer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    file = tmp_path / "x.json"
    for text, message in ((None, "No such file"), ("{", "not a tokenizer.json"), (json.dumps([]), "no model")):
        if text is not None:
            file.write_text(text)
        with pytest.raises(InputError, match=message):
            PromptLength(str(file))
