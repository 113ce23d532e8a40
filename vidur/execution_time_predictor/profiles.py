"""Read profiles in upstream's CSV schema: select a replica's rows and each operation's training data.

Features, targets and filters are microsoft/vidur's (execution_time_predictor/sklearn_execution_time_predictor.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidur.config import BaseProfiledExecutionTimePredictorConfig
from vidur.config.replica import ReplicaConfig
from vidur.errors import InputError
from vidur.execution_time_predictor.registry import fill_placeholders
from vidur.execution_time_predictor.tables import POST_NORM_OP, UPSTREAM_CPU_OPS, FloatArray

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

COMPUTE_OPS = (
    "attn_pre_proj",
    "attn_post_proj",
    "mlp_up_proj",
    "mlp_down_proj",
    "mlp_act",
    "attn_rope",
    "input_layernorm",
    POST_NORM_OP,
    "add",
)
# These may be missing or have gaps: the operation was not run and takes no time.
OPTIONAL_OPS = ("input_layernorm", POST_NORM_OP, "add", "attn_kv_cache_save")


@dataclass(frozen=True)
class TrainingData:
    """The training data of one operation: features float64[n, k], times float64[n] (ms), and their file."""

    op: str
    features: FloatArray
    times: FloatArray
    path: str


@dataclass(frozen=True)
class Profile:
    """Rows of one CSV file. Every method raises InputError naming the file."""

    path: str
    frame: pd.DataFrame

    @staticmethod
    def read(path: str, flag: str) -> Profile:
        import pandas as pd

        if not Path(path).is_file():
            raise InputError(
                f"{flag}: no profile at {path}; name one in upstream's CSV schema, or use another predictor"
            )
        try:
            frame = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not a readable CSV profile ({str(error).splitlines()[0]})") from error
        return Profile(path, frame.drop_duplicates())

    def column(self, name: str) -> pd.Series[Any]:
        if name not in self.frame.columns:
            raise InputError(f"{self.path}: no column '{name}', which a profile of this kind has")
        return self.frame[name]

    def where(self, **wanted: object) -> Profile:
        """Return the rows whose columns have these values."""
        profile = self
        for name, value in wanted.items():
            chosen = profile.column(name) == value
            if not chosen.any():
                raise InputError(f"{self.path}: no rows with {name} {value}; it has {_values(profile.column(name))}")
            profile = Profile(self.path, profile.frame[chosen])
        return profile

    def numbers(self, name: str, optional: bool = False) -> FloatArray:
        """Return a column as finite, non-negative numbers; gaps are 0 if it is `optional`."""
        import pandas as pd

        if optional and name not in self.frame.columns:
            return np.zeros(len(self.frame))
        column = pd.to_numeric(self.column(name), errors="coerce")
        values = column.to_numpy(dtype=np.float64)
        if optional:
            values = np.where(column.isna(), 0.0, values)
        bad = ~((values >= 0.0) & (values < np.inf))
        if bad.any():
            index = int(np.argmax(bad))
            raise InputError(
                f"{self.path}, row {self.frame.index[index] + 2}: {name} is '{self.column(name).iloc[index]}';"
                " expected a finite number, not negative"
            )
        return values

    def train(self, op: str, features: FloatArray, target: str | None = None, optional: bool = False) -> TrainingData:
        return TrainingData(op, features, self.numbers(target or f"time_stats.{op}.median", optional), self.path)


class ProfileReader:
    """Reads the profiles that a predictor's configuration names for one replica. Methods raise InputError."""

    def __init__(
        self, config: BaseProfiledExecutionTimePredictorConfig, replica: ReplicaConfig, block_size: int
    ) -> None:
        self._config = config
        self._replica = replica
        self._block_size = block_size
        self.notes: list[str] = []

    def all(self) -> list[TrainingData]:
        """Return the data of every operation of the replica: linear ones, CPU, prefill and decode attention."""
        data = [*self._compute(), *self._attention()]
        if self._replica.tensor_parallel_size > 1:
            data.append(self._all_reduce())
        if self._replica.num_pipeline_stages > 1:
            data.append(self._send_recv())
        if not self._config.skip_cpu_overhead_modeling:
            data.extend(self._cpu_overhead())
        return data

    def _read(self, field: str) -> Profile:
        path = fill_placeholders(getattr(self._config, field), self._replica)
        return Profile.read(path, self._config.flag(field))

    def _compute(self) -> list[TrainingData]:
        model = self._replica.model
        profile = self._read("compute_input_file").where(
            n_head=model.num_q_heads,
            n_kv_head=model.num_kv_heads,
            n_embd=model.embedding_dim,
            n_expanded_embd=model.mlp_hidden_dim,
            use_gated_mlp=model.use_gated_mlp,
            vocab_size=model.vocab_size,
            num_tensor_parallel_workers=self._replica.tensor_parallel_size,
        )
        tokens = profile.numbers("num_tokens")[:, None]
        ops = [op for op in COMPUTE_OPS if op != POST_NORM_OP or model.post_attn_norm]
        return [profile.train(op, tokens, optional=op in OPTIONAL_OPS) for op in ops]

    def _attention(self) -> list[TrainingData]:
        model = self._replica.model
        profile = self._read("attention_input_file").where(
            n_embd=model.embedding_dim,
            n_q_head=model.num_q_heads,
            n_kv_head=model.num_kv_heads,
            num_tensor_parallel_workers=self._replica.tensor_parallel_size,
        )
        profile = self._at_block_size(profile)
        chunk = profile.numbers("prefill_chunk_size")
        batch, kv = profile.numbers("batch_size"), profile.numbers("kv_cache_size")
        tokens = np.maximum(chunk, batch)[:, None]
        decodes = chunk == 0
        for rows, kind in ((decodes, "decode (prefill_chunk_size 0)"), (~decodes, "prefill (prefill_chunk_size > 0)")):
            if not rows.any():
                raise InputError(f"{profile.path}: no rows of {kind} for this model and tensor parallel size")
        prefill, decode = (Profile(profile.path, profile.frame[rows]) for rows in (~decodes, decodes))
        return [
            profile.train("attn_kv_cache_save", tokens, optional=True),
            prefill.train("attn_prefill", np.column_stack((kv, chunk**2))[~decodes]),
            decode.train("attn_decode", np.column_stack((batch, kv))[decodes]),
        ]

    def _at_block_size(self, profile: Profile) -> Profile:
        """Return the rows taken at the KV block size, or all rows with a note if there are none."""
        sizes = profile.column("block_size")
        if (sizes == self._block_size).any():
            return profile.where(block_size=self._block_size)
        note = f"no attention profile at block size {self._block_size}: those at {_values(sizes)} used"
        logger.warning("%s: %s", profile.path, note)
        self.notes.append(note)
        return profile

    def _all_reduce(self) -> TrainingData:
        size = self._replica.tensor_parallel_size
        profile = self._read("all_reduce_input_file").where(
            collective="all_reduce", num_workers=size, devices_per_node=size
        )
        return profile.train("all_reduce", self._message_tokens(profile))

    def _send_recv(self) -> TrainingData:
        spans_nodes = self._replica.world_size > self._replica.node_sku.num_devices_per_node
        profile = self._read("send_recv_input_file").where(
            collective="send_recv", devices_per_node=1 if spans_nodes else 2
        )
        return profile.train("send_recv", self._message_tokens(profile))

    def _message_tokens(self, profile: Profile) -> FloatArray:
        """Return the tokens whose hidden state, at two bytes per value, makes a message of that size."""
        return profile.numbers("size")[:, None] / self._replica.model.embedding_dim / 2.0

    def _cpu_overhead(self) -> list[TrainingData]:
        profile = self._read("cpu_overhead_input_file").where(
            model_name=self._replica.model_name, tensor_parallel_degree=self._replica.tensor_parallel_size
        )
        batch = profile.numbers("batch_size")[:, None]
        targets = {op: f"{op}_median" for op in UPSTREAM_CPU_OPS} | {"ray_comm_time": "ray_comm_time_mean"}
        return [profile.train(op, batch, target) for op, target in targets.items()]


def _values(column: pd.Series[Any]) -> str:
    values = sorted(column.dropna().unique().tolist(), key=str)
    if all(isinstance(value, (int, float)) for value in values):
        values = sorted(values)
    shown = ", ".join(str(value) for value in values[:12])
    return shown + (", ..." if len(values) > 12 else "")
