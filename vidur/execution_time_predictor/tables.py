"""Execution times as dense arrays, and the `.npz` file that holds them.

In the file each operation is a pair: `<op>.keys` (int64, one row per prediction) and `<op>.values` (float64, ms).
Keys are (tokens) for linear operations, (KV length, chunk squared) for `attn_prefill`, (batch size, KV length) for
`attn_decode`, (batch size) for CPU operations. Optional: `source` (text), `granularity` (KV, chunk, token rounding).
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vidur.atomic import open_atomic
from vidur.errors import InputError
from vidur.execution_time_predictor.operation import Op, operation

if TYPE_CHECKING:
    from vidur.config import ReplicaConfig

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# The operations of a layer whose time depends only on the number of tokens.
LAYER_OPS = (
    "attn_pre_proj",
    "attn_post_proj",
    "mlp_up_proj",
    "mlp_down_proj",
    "mlp_act",
    "attn_rope",
    "attn_kv_cache_save",
    "input_layernorm",
    "add",
)
POST_NORM_OP = "post_attention_layernorm"
# Operations per iteration, by batch size: upstream's five, the configured overhead, and the model's head.
UPSTREAM_CPU_OPS = ("schedule", "sampler_e2e", "prepare_inputs_e2e", "process_model_outputs", "ray_comm_time")
CPU_OPS = (*UPSTREAM_CPU_OPS, "cpu_overhead", "head")
DEFAULT_KV_GRANULARITY = 64
# Upstream rounds tokens up to a multiple of this before looking linear operations up.
TOKEN_ROUNDING = 8
# Tables for a million tokens and a thousand requests per batch take about half of this.
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class TableBounds:
    """The largest arguments that a simulation can look up."""

    max_batch_tokens: int
    max_batch_size: int
    max_context_tokens: int
    max_prefill_chunk: int
    max_prefill_kv: int


@dataclass(frozen=True, eq=False)
class ExecutionTimeTables:
    """Milliseconds per layer and operation; those of `cpu` are per iteration and pipeline stage.

    `linear[op][tokens]`, index 0 unused; `attn_prefill[i, j]` at KV length i * kv_granularity and chunk
    j * chunk_granularity; `attn_decode[b, i]` at batch size b; `cpu[op][batch size]`.
    vidur.execution_time_predictor.operation says which linear operations are looked up at the tokens rounded up to
    `token_rounding`.
    """

    linear: dict[str, FloatArray]
    attn_prefill: FloatArray
    attn_decode: FloatArray
    kv_granularity: int = DEFAULT_KV_GRANULARITY
    chunk_granularity: int = 1
    cpu: dict[str, FloatArray] = field(default_factory=dict)
    source: str = ""
    token_rounding: int = TOKEN_ROUNDING

    def layer_operations(self) -> list[tuple[Op, FloatArray]]:
        """Return a layer's operations that depend on the number of tokens, and their milliseconds."""
        return [(op, times) for name, times in self.linear.items() if (op := operation(name)).per == "layer"]

    @property
    def transfer(self) -> FloatArray | None:
        """Milliseconds by tokens of a transfer between pipeline stages; None if there is only one stage."""
        return self.linear.get("send_recv")

    @property
    def max_tokens(self) -> int:
        """The largest number of tokens of every linear operation."""
        return min(len(times) for times in self.linear.values()) - 1

    @property
    def max_batch_size(self) -> int:
        """The largest batch size of decode attention and every CPU operation."""
        return min([len(self.attn_decode), *(len(times) for times in self.cpu.values())]) - 1

    def require(self, replica_config: ReplicaConfig) -> None:
        """Raise InputError if an operation of such a replica is missing."""
        missing = sorted(_ops_of(replica_config) - set(self.linear))
        if missing:
            raise InputError(
                f"{self.source or 'the execution-time tables'}: no times for {', '.join(missing)}, which"
                f" {replica_config.model_name} at tensor parallel size {replica_config.tensor_parallel_size} and"
                f" {replica_config.num_pipeline_stages} pipeline stages needs; build tables for that replica"
            )

    def for_replica(self, replica_config: ReplicaConfig) -> ExecutionTimeTables:
        """Return the tables without operations that such a replica does not run. Raises InputError as `require`."""
        self.require(replica_config)
        unused = {"all_reduce", "send_recv", POST_NORM_OP} - _ops_of(replica_config)
        return replace(self, linear={op: times for op, times in self.linear.items() if op not in unused})

    def covers(self, bounds: TableBounds) -> str | None:
        """Return None if the tables cover `bounds`, else one line that says what exceeds them."""
        rounded_tokens = -(-bounds.max_batch_tokens // TOKEN_ROUNDING) * TOKEN_ROUNDING
        kv = self.kv_granularity
        checks = (
            ("tokens in a batch", rounded_tokens, self.max_tokens),
            ("requests in a batch", bounds.max_batch_size, self.max_batch_size),
            ("tokens of decode KV", bounds.max_context_tokens, (self.attn_decode.shape[1] - 1) * kv),
            ("tokens in a prefill chunk", bounds.max_prefill_chunk, self.max_chunk),
            ("tokens of prefill KV", bounds.max_prefill_kv, (self.attn_prefill.shape[0] - 1) * kv),
        )
        beyond = [f"{needed} {kind} (held: {available})" for kind, needed, available in checks if needed > available]
        return f"a run may need {', '.join(beyond)}" if beyond else None

    @property
    def max_chunk(self) -> int:
        return int(self.attn_prefill.shape[1] - 1) * self.chunk_granularity

    def save(self, path: str | Path) -> None:
        """Write the `.npz` atomically. Equal tables give equal bytes."""
        members: dict[str, npt.NDArray[np.generic]] = {}
        for op, times in {**self.linear, **self.cpu}.items():
            members[f"{op}.keys"] = np.arange(1, len(times), dtype=np.int64)[:, None]
            members[f"{op}.values"] = times[1:]
        kv = np.arange(self.attn_prefill.shape[0], dtype=np.int64) * self.kv_granularity
        chunk = np.arange(1, self.attn_prefill.shape[1], dtype=np.int64) * self.chunk_granularity
        members["attn_prefill.keys"] = _product(kv, chunk**2)
        members["attn_prefill.values"] = self.attn_prefill[:, 1:].ravel()
        batch = np.arange(1, self.attn_decode.shape[0], dtype=np.int64)
        kv = np.arange(self.attn_decode.shape[1], dtype=np.int64) * self.kv_granularity
        members["attn_decode.keys"] = _product(batch, kv)
        members["attn_decode.values"] = self.attn_decode[1:].ravel()
        granularity = [self.kv_granularity, self.chunk_granularity, self.token_rounding]
        members["granularity"] = np.array(granularity, dtype=np.int64)
        members["source"] = np.array(self.source)
        with open_atomic(path, "wb") as file:
            np.savez_compressed(file, **members)  # type: ignore[arg-type]  # NumPy 2 has a keyword of its own

    @staticmethod
    def load(path: str | Path) -> ExecutionTimeTables:
        """Read the `.npz`. Raises InputError if it is missing, malformed, has holes, or holds NaN or negative times."""
        members = _read_members(Path(path))
        ops = sorted(name.removesuffix(".keys") for name in members if name.endswith(".keys"))
        needed = [*LAYER_OPS, "attn_prefill", "attn_decode"]
        if missing := [op for op in needed if op not in ops]:
            raise InputError(f"{path}: no times for {', '.join(missing)} (members <op>.keys and <op>.values)")
        reader = _Reader(str(path), members)
        curves = {op: reader.curve(op) for op in ops if op not in ("attn_prefill", "attn_decode")}
        prefill, prefill_kv, chunk = reader.prefill()
        decode, decode_kv = reader.decode()
        if prefill_kv and decode_kv and prefill_kv != decode_kv:
            raise InputError(
                f"{path}: attn_prefill has KV lengths every {prefill_kv} tokens, attn_decode every {decode_kv};"
                " they must be equal"
            )
        return ExecutionTimeTables(
            linear={op: curve for op, curve in curves.items() if op not in CPU_OPS},
            attn_prefill=prefill,
            attn_decode=decode,
            kv_granularity=prefill_kv or decode_kv or reader.granularity(0) or DEFAULT_KV_GRANULARITY,
            chunk_granularity=chunk,
            cpu={op: curve for op, curve in curves.items() if op in CPU_OPS},
            source=str(members["source"]) if "source" in members else f"tables of {path}",
            token_rounding=reader.granularity(2) or TOKEN_ROUNDING,
        )


def _ops_of(replica_config: ReplicaConfig) -> set[str]:
    ops = set(LAYER_OPS)
    if replica_config.model.post_attn_norm:
        ops.add(POST_NORM_OP)
    if replica_config.tensor_parallel_size > 1:
        ops.add("all_reduce")
    if replica_config.num_pipeline_stages > 1:
        ops.add("send_recv")
    return ops


def _product(first: IntArray, second: IntArray) -> IntArray:
    return np.column_stack((np.repeat(first, len(second)), np.tile(second, len(first))))


def _read_members(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file of execution-time tables")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except _UNREADABLE as error:
        raise InputError(f"{path}: not a readable .npz file of execution-time tables ({error})") from error


# zipfile raises RuntimeError for an encrypted file and NotImplementedError for an unknown compression.
_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise InputError for arrays that would exhaust memory, before unpacking any.

    Unpacking stops at a member's stated size, but NumPy allocates the shape in its header, so both are checked.
    """
    members = archive.infolist()
    if (size := sum(member.file_size for member in members)) > _MAX_BYTES:
        raise InputError(
            f"{path}: unpacked it takes {size / 2**30:,.1f} GiB; execution-time tables may take {_MAX_BYTES >> 30} GiB"
        )
    for member in members:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise InputError(f"{path}: {member.filename} is damaged: its shape {shape} is larger than what it holds")


@dataclass(frozen=True)
class _Reader:
    """Converts the pairs of a file to dense arrays. Methods raise InputError naming the file and the operation."""

    path: str
    members: dict[str, npt.NDArray[np.generic]]

    def curve(self, op: str) -> FloatArray:
        """float64[n + 1] over 1..n, index 0 being 0."""
        keys, values = self._pair(op, 1)
        column = keys[:, 0]
        if not (np.diff(column) > 0).all():
            order = np.argsort(column, kind="stable")
            column, values = column[order], values[order]
        expected = np.arange(1, len(column) + 1)
        if not (column == expected).all():
            index = int(np.argmax(column != expected))
            raise InputError(
                f"{self.path}: {op} has key {column[index]} where {expected[index]} should be: keys are 1, 2, ..."
            )
        return np.concatenate(([0.0], values))

    def prefill(self) -> tuple[FloatArray, int, int]:
        """Return the dense array, its KV granularity (0 for a single KV length) and its chunk granularity."""
        kv, squared, values = self._grid("attn_prefill")
        chunk = np.rint(np.sqrt(squared)).astype(np.int64)
        if not (chunk * chunk == squared).all():
            index = int(np.argmax(chunk * chunk != squared))
            raise InputError(f"{self.path}: attn_prefill has the key {squared[index]}, not the square of a chunk size")
        kv_step = self._step("attn_prefill", "KV length", kv, first=0)
        chunk_step = self._step("attn_prefill", "chunk", chunk, first=None)
        return np.hstack((np.zeros((len(kv), 1)), values)), kv_step, chunk_step

    def decode(self) -> tuple[FloatArray, int]:
        """Return the dense array and its KV granularity (0 for a single KV length)."""
        batch, kv, values = self._grid("attn_decode")
        if self._step("attn_decode", "batch size", batch, first=None) != 1:
            raise InputError(f"{self.path}: attn_decode has batch size {batch[0]} first: batch sizes are 1, 2, ...")
        step = self._step("attn_decode", "KV length", kv, first=0)
        return np.vstack((np.zeros((1, len(kv))), values)), step

    def granularity(self, index: int) -> int:
        """Return the granularity that the file states, or 0."""
        stored = self.members.get("granularity")
        if stored is None or stored.shape != (3,) or stored.dtype.kind != "i":
            return 0
        return max(0, int(stored[index]))

    def _pair(self, op: str, columns: int) -> tuple[IntArray, FloatArray]:
        keys, values = self.members[f"{op}.keys"], self.members.get(f"{op}.values")
        if values is None or values.ndim != 1 or values.dtype.kind not in "fiu":
            raise InputError(f"{self.path}: {op}.values is missing or no list of numbers")
        if keys.ndim == 1 and columns == 1:
            keys = keys[:, None]
        if keys.dtype.kind not in "iu" or keys.shape != (len(values), columns) or len(values) == 0:
            raise InputError(
                f"{self.path}: {op}.keys must be {columns} whole number(s) for each of the {len(values)} values,"
                f" found {keys.dtype} of shape {keys.shape}"
            )
        times = values.astype(np.float64, copy=False)
        # A NaN fails the comparison, so both are caught at once.
        bad = ~((times >= 0.0) & (times < np.inf))
        if bad.any():
            index = int(np.argmax(bad))
            key = ", ".join(str(part) for part in keys[index])
            raise InputError(f"{self.path}: {op} at ({key}) is {times[index]} ms; times are finite and not negative")
        return keys.astype(np.int64, copy=False), times

    def _grid(self, op: str) -> tuple[IntArray, IntArray, FloatArray]:
        """Return the two axes and float64[len(first), len(second)] of keys that form a full grid."""
        keys, values = self._pair(op, 2)
        width = _width(keys)
        if width == 0:
            order = np.lexsort((keys[:, 1], keys[:, 0]))
            keys, values = keys[order], values[order]
            width = _width(keys)
        if width == 0:
            raise InputError(f"{self.path}: {op} {_hole(keys)}: its keys must be a full grid")
        cube = keys.reshape(-1, width, 2)
        return cube[:, 0, 0], cube[0, :, 1], values.reshape(-1, width)

    def _step(self, op: str, axis: str, points: IntArray, first: int | None) -> int:
        """Return the spacing of `points`, which start at `first` (None: at the spacing); 0 for a single point at 0."""
        if first == 0 and len(points) == 1 and points[0] == 0:
            return 0
        step = int(points[0] if first is None else points[1] - points[0] if len(points) > 1 else 0)
        start = step if first is None else first
        expected = start + step * np.arange(len(points))
        if step <= 0 or not (points == expected).all():
            index = int(np.argmax(points != expected))
            raise InputError(
                f"{self.path}: {op} has {axis} {points[index]} where {expected[index]} should be: they are equally"
                f" spaced from {'its first' if first is None else first}"
            )
        return step


def _width(keys: IntArray) -> int:
    """Return the length of the second axis if `keys` form a full grid in ascending row-major order, else 0."""
    first = keys[:, 0]
    width = int(np.argmax(first != first[0])) or len(first)
    if len(first) % width:
        return 0
    cube = keys.reshape(-1, width, 2)
    rows, columns = cube[:, 0, 0], cube[0, :, 1]
    full = (cube[:, :, 0] == rows[:, None]).all() and (cube[:, :, 1] == columns).all()
    ascending = (np.diff(rows) > 0).all() and (np.diff(columns) > 0).all()
    return width if full and ascending else 0


def _hole(keys: IntArray) -> str:
    rows, row_of = np.unique(keys[:, 0], return_inverse=True)
    columns, column_of = np.unique(keys[:, 1], return_inverse=True)
    counts = np.bincount(row_of * len(columns) + column_of, minlength=len(rows) * len(columns))
    index = int(np.argmax(counts != 1))
    kind = "lacks" if counts[index] == 0 else "repeats"
    return f"{kind} the key ({rows[index // len(columns)]}, {columns[index % len(columns)]})"
