"""The shape of a model on one device under tensor parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from vidur.config.replica import ReplicaConfig

BYTES_PER_VALUE = 2


@dataclass(frozen=True)
class DeviceShape:
    """Widths on one device under tensor parallelism, rounded up (KV heads are replicated)."""

    embedding_dim: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_hidden_dim: int
    mlp_up_width: int
    vocab_size: int
    is_grouped_query: bool

    @property
    def qkv_width(self) -> int:
        return (self.num_q_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def attention_width(self) -> int:
        return self.num_q_heads * self.head_dim

    @staticmethod
    def of(replica: ReplicaConfig) -> DeviceShape:
        model, size = replica.model, replica.tensor_parallel_size
        mlp = -(-model.mlp_hidden_dim // size)
        return DeviceShape(
            embedding_dim=model.embedding_dim,
            num_q_heads=-(-model.num_q_heads // size),
            num_kv_heads=-(-model.num_kv_heads // size),
            head_dim=model.head_dim,
            mlp_hidden_dim=mlp,
            mlp_up_width=2 * mlp if model.use_gated_mlp else mlp,
            vocab_size=-(-model.vocab_size // size),
            is_grouped_query=model.is_grouped_query,
        )
