"""Operations of an iteration whose time depends only on the number of tokens."""

from __future__ import annotations

from typing import NamedTuple


class Op(NamedTuple):
    """How an operation contributes to an iteration. Source: microsoft/vidur, entities/execution_time.py and batch.py.

    times_per_layer: calls per layer. rounded: look it up at the tokens rounded up (to 8 in upstream's predictors), else
    at the exact number. per: "layer", or "transfer": once between pipeline stages. is_collective: each call has a
    collective's launch overhead.
    """

    name: str
    times_per_layer: float = 1.0
    rounded: bool = True
    per: str = "layer"
    is_collective: bool = False


_SPECIAL = {
    op.name: op
    for op in (
        Op("all_reduce", times_per_layer=2.0, is_collective=True),
        Op("attn_kv_cache_save", rounded=False),
        Op("send_recv", per="transfer"),
    )
}


def operation(name: str) -> Op:
    """Return the operation of this name; unlisted ones run once per layer at rounded tokens."""
    return _SPECIAL.get(name, Op(name))
