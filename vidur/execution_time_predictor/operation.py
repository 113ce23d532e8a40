"""The operations of an iteration whose time depends on the number of tokens alone."""

from __future__ import annotations

from typing import NamedTuple


class Op(NamedTuple):
    """How an operation counts. Source: microsoft/vidur, entities/execution_time.py and batch.py.

    times_per_layer: how often a layer runs it. rounded: it is looked up at the tokens rounded up (to 8, by upstream's
    predictors), else at the exact number. per: "layer", or "transfer": once, from one pipeline stage to the next.
    is_collective: each call takes the launch overhead of a collective.
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
    """The operation of this name; one that is not listed runs once a layer, at the tokens rounded up."""
    return _SPECIAL.get(name, Op(name))
