"""Count the tokens of a prompt, or estimate them from its text by a learned ratio."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vidur.errors import InputError

# The fields of requests of the OpenAI API, and of vLLM's additions, that the model reads.
_TEXTS = (
    "prompt", "messages", "input", "token_ids", "instructions", "tools", "query", "documents", "text_1", "text_2",
    "suffix",
)  # fmt: skip
# Fields that do not hold text, and whose length says nothing.
_NOT_TEXT = frozenset({"image_url", "input_audio", "audio_url", "video_url", "image_embeds", "file"})

# The prior: tokens per byte, tokens of a chat template, and the number of requests that it counts for.
TOKENS_OF_A_BYTE, _TEMPLATE_TOKENS, _PRIOR_COUNT = 0.25, 8.0, 5.0
# Each observation multiplies the weight of all before it by this factor.
_MEMORY = 0.995
# Observations are clipped to the estimate times or over this factor.
_OUTLIER = 3.0
# Bytes added to a prompt's size in the weight of its error, which is relative to the size.
_SCALE = 64.0
# The characters of a request that the tokenizer counts, in about 100 ms.
MOST_CHARACTERS = 200_000


class PromptCount(NamedTuple):
    """The tokens of a prompt, at least 1. exact: counted, not estimated. kind: prompts with a common ratio; size: the
    quantity that the ratio multiplies."""

    tokens: int
    exact: bool
    kind: str
    size: int


class _Ratio:
    """Fit tokens = offset + slope * size, offset >= 0, by weighted least squares with fading memory."""

    def __init__(self, slope: float, offset: float) -> None:
        self._sums = [0.0] * 5
        for size in (100.0, 4000.0):
            self._add(size, offset + slope * size, _PRIOR_COUNT / 2)
        self._line = offset, slope

    def predict(self, size: float) -> float:
        offset, slope = self._line
        return offset + slope * size

    def learn(self, size: float, tokens: float) -> None:
        expected = max(self.predict(size), 1.0)
        tokens = min(max(tokens, expected / _OUTLIER), expected * _OUTLIER)
        self._sums = [_MEMORY * value for value in self._sums]
        self._add(size, tokens, 1.0)
        self._line = self._fit()

    def _add(self, size: float, tokens: float, count: float) -> None:
        weight = count / (size + _SCALE) ** 2
        for index, value in enumerate((1.0, size, tokens, size * size, size * tokens)):
            self._sums[index] += weight * value

    def _fit(self) -> tuple[float, float]:
        weight, size, tokens, square, product = self._sums
        spread = weight * square - size * size
        through_zero = 0.0, product / square if square > 0.0 else TOKENS_OF_A_BYTE
        if spread <= 1e-9 * weight * square:
            return through_zero
        slope = (weight * product - size * tokens) / spread
        offset = (tokens - slope * size) / weight
        if slope <= 0.0:
            return self._line
        return (offset, slope) if offset >= 0.0 else through_zero


class PromptLength:
    """Count or estimate prompts, and learn from the counts of replicas.

    Non-ASCII text has its own ratio. tokenizer: a tokenizer.json, which needs the package `tokenizers`. Raises
    InputError if it cannot be used.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self._tokenizer = None if tokenizer is None else _load(tokenizer)
        self._ratios: dict[str, _Ratio] = {}

    def count(self, route: str, body: Mapping[str, Any]) -> PromptCount:
        """Count the prompt of a request's JSON body. route: such as `/v1/chat/completions`; each has its own ratios."""
        ids, texts = _read(body)
        chat = "messages" in body
        if not texts:
            return PromptCount(max(ids, 1), ids > 0, route, ids)
        if self._tokenizer is not None:
            counted, whole = self._tokens(texts)
            counted += ids
            if not chat:
                return PromptCount(max(counted, 1), whole, route, counted)
            kind, size = f"{route} tokens", counted
        else:
            plain = all(text.isascii() for text in texts)
            kind = f"{route} {'ascii' if plain else 'unicode'}"
            size = sum(len(text) if plain else len(text.encode("utf-8", "replace")) for text in texts)
        if kind not in self._ratios:
            slope = 1.0 if self._tokenizer is not None else TOKENS_OF_A_BYTE
            self._ratios[kind] = _Ratio(slope, _TEMPLATE_TOKENS if chat else 0.0)
        extra = 0 if self._tokenizer is not None else ids
        return PromptCount(max(round(self._ratios[kind].predict(size)) + extra, 1), False, kind, size)

    def _tokens(self, texts: list[str]) -> tuple[int, bool]:
        """Return the tokens of all texts, and whether they are exact: long texts are extrapolated from their start."""
        assert self._tokenizer is not None
        length = sum(map(len, texts))
        if length <= MOST_CHARACTERS:
            return sum(len(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)), True
        share = MOST_CHARACTERS / length
        parts = [text[: math.ceil(len(text) * share)] for text in texts]
        return round(sum(len(encoding.ids) for encoding in self._tokenizer.encode_batch(parts)) / share), False

    def learn(self, count: PromptCount, prompt_tokens: int) -> None:
        """Learn from a replica's count (`usage.prompt_tokens`) of the prompt that `count` estimates."""
        ratio = self._ratios.get(count.kind)
        if not count.exact and ratio is not None and prompt_tokens > 0:
            ratio.learn(count.size, prompt_tokens)


def _read(body: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return the number of token ids, and the texts, at any depth of a body."""
    ids, texts = 0, []
    left = [body[key] for key in _TEXTS if key in body]
    while left:
        value = left.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            if value and isinstance(value[0], int):
                ids += len(value)
            else:
                left.extend(value)
        elif isinstance(value, dict):
            left.extend(part for key, part in value.items() if key not in _NOT_TEXT)
    return ids, texts


def _load(path: str) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise InputError("--tokenizer needs the package tokenizers: pip install tokenizers") from None
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--tokenizer {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--tokenizer {path}: not a tokenizer.json: {error}") from None
    if not isinstance(document, dict) or "model" not in document:
        raise InputError(f"--tokenizer {path}: not a tokenizer.json: it describes no model")
    return tokenizers.Tokenizer.from_file(path)
