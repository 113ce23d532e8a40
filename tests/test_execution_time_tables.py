"""The tables and their file."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import ReplicaConfig
from vidur.errors import InputError
from vidur.execution_time_predictor.tables import LAYER_OPS, POST_NORM_OP, ExecutionTimeTables, TableBounds

Members = dict[str, np.ndarray]


def make_tables(
    tokens: int = 16,
    batch: int = 3,
    kv_rows: int = 3,
    chunks: int = 4,
    kv_step: int = 64,
    chunk_step: int = 1,
    seed: int = 0,
) -> ExecutionTimeTables:
    draw = np.random.default_rng(seed)
    curves = {op: np.r_[0.0, draw.random(tokens)] for op in (*LAYER_OPS, POST_NORM_OP)}
    prefill, decode = draw.random((kv_rows, chunks + 1)), draw.random((batch + 1, kv_rows))
    prefill[:, 0] = 0.0
    decode[0] = 0.0
    return ExecutionTimeTables(curves, prefill, decode, kv_step, chunk_step, source="made up")


def members_of(tables: ExecutionTimeTables, folder: Path) -> Members:
    path = folder / "whole.npz"
    tables.save(path)
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def write(members: Members, folder: Path) -> Path:
    path = folder / "edited.npz"
    np.savez(path, **members)  # type: ignore[arg-type]
    return path


def assert_equal(one: ExecutionTimeTables, other: ExecutionTimeTables) -> None:
    assert one.linear.keys() == other.linear.keys()
    assert one.cpu.keys() == other.cpu.keys()
    for op in one.linear:
        np.testing.assert_array_equal(one.linear[op], other.linear[op])
    for op in one.cpu:
        np.testing.assert_array_equal(one.cpu[op], other.cpu[op])
    np.testing.assert_array_equal(one.attn_prefill, other.attn_prefill)
    np.testing.assert_array_equal(one.attn_decode, other.attn_decode)
    assert (one.kv_granularity, one.chunk_granularity, one.token_rounding, one.source) == (
        other.kv_granularity,
        other.chunk_granularity,
        other.token_rounding,
        other.source,
    )


@given(
    tokens=st.integers(1, 40),
    batch=st.integers(1, 5),
    kv_rows=st.integers(1, 4),
    chunks=st.integers(1, 5),
    kv_step=st.integers(1, 100),
    chunk_step=st.integers(1, 8),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    tokens: int,
    batch: int,
    kv_rows: int,
    chunks: int,
    kv_step: int,
    chunk_step: int,
) -> None:
    path = tmp_path_factory.mktemp("tables") / "tables.npz"
    tables = make_tables(tokens, batch, kv_rows, chunks, kv_step, chunk_step)
    tables = replace(tables, cpu={"head": np.arange(batch + 1.0)}, token_rounding=1)
    tables.save(path)
    assert_equal(ExecutionTimeTables.load(path), tables)


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.npz", "other.npz"):
        make_tables().save(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()


def test_keys_in_any_order(tmp_path: Path) -> None:
    tables = make_tables()
    members = members_of(tables, tmp_path)
    order = np.random.default_rng(1).permutation
    for op in ("attn_prefill", "attn_decode", "add"):
        shuffled = order(len(members[f"{op}.values"]))
        members[f"{op}.keys"], members[f"{op}.values"] = (
            members[f"{op}.keys"][shuffled],
            members[f"{op}.values"][shuffled],
        )
    assert_equal(ExecutionTimeTables.load(write(members, tmp_path)), tables)


def test_every_golden_file_loads_as_its_keys_say(shared: Path) -> None:
    for path in sorted((shared / "golden").glob("*/tables.npz")):
        started = time.perf_counter()
        tables = ExecutionTimeTables.load(path)
        assert time.perf_counter() - started < 2.0
        assert tables.kv_granularity == 64
        assert tables.chunk_granularity == 1
        assert tables.token_rounding == 8
        with np.load(path) as archive:
            for op, curve in tables.linear.items():
                np.testing.assert_array_equal(curve[archive[f"{op}.keys"][:, 0]], archive[f"{op}.values"])
            kv, chunk = archive["attn_prefill.keys"].T
            found = tables.attn_prefill[kv // 64, np.sqrt(chunk).astype(int)]
            np.testing.assert_array_equal(found, archive["attn_prefill.values"])
            batch, kv = archive["attn_decode.keys"].T
            np.testing.assert_array_equal(tables.attn_decode[batch, kv // 64], archive["attn_decode.values"])


def drop(op: str) -> object:
    def edit(members: Members) -> None:
        del members[f"{op}.keys"], members[f"{op}.values"]

    return edit


def remove_row(op: str, row: int) -> object:
    def edit(members: Members) -> None:
        for part in ("keys", "values"):
            members[f"{op}.{part}"] = np.delete(members[f"{op}.{part}"], row, axis=0)

    return edit


def put(name: str, row: object, value: float) -> object:
    def edit(members: Members) -> None:
        members[name][row] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (drop("mlp_act"), "no times for mlp_act"),
        (drop("attn_decode"), "no times for attn_decode"),
        (remove_row("add", 4), "add has key 6 where 5 should be"),
        (remove_row("attn_prefill", 5), r"attn_prefill lacks the key \(64, 4\)"),
        (put("attn_decode.keys", 1, 0), r"attn_decode lacks the key \(0, 64\)"),
        (put("attn_prefill.keys", (slice(None), 1), 3), "attn_prefill (repeats|lacks) the key"),
        (put("add.values", 2, np.nan), r"add at \(3\) is nan ms"),
        (put("attn_prefill.values", 0, -1.0), r"attn_prefill at \(0, 1\) is -1.0 ms"),
        (put("attn_decode.values", 0, np.inf), r"attn_decode at \(1, 0\) is inf ms"),
    ],
)
def test_bad_contents_are_one_line_that_names_file_and_operation(tmp_path: Path, edit: object, line: str) -> None:
    members = members_of(make_tables(), tmp_path)
    edit(members)  # type: ignore[operator]
    path = write(members, tmp_path)
    with pytest.raises(InputError, match=line) as caught:
        ExecutionTimeTables.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_chunks_that_are_no_squares(tmp_path: Path) -> None:
    members = members_of(make_tables(), tmp_path)
    keys = members["attn_prefill.keys"]
    keys[keys[:, 1] == 9, 1] = 10
    with pytest.raises(InputError, match="not the square"):
        ExecutionTimeTables.load(write(members, tmp_path))


def test_unequal_kv_steps(tmp_path: Path) -> None:
    members = members_of(make_tables(), tmp_path)
    members["attn_decode.keys"][:, 1] //= 2
    with pytest.raises(InputError, match="every 64 tokens, attn_decode every 32"):
        ExecutionTimeTables.load(write(members, tmp_path))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.arange(3))
    whole = tmp_path / "cut.npz"
    make_tables().save(whole)
    whole.write_bytes(whole.read_bytes()[:-100])
    for name in ("text.npz", "empty.npz", "array.npy", "cut.npz", "missing.npz", "."):
        with pytest.raises(InputError, match="tables"):
            ExecutionTimeTables.load(tmp_path / name)


def test_covers() -> None:
    tables = make_tables(tokens=16, batch=3, kv_rows=3, chunks=4)
    fits = TableBounds(16, 3, 128, 4, 128)
    assert tables.covers(fits) is None
    assert tables.covers(replace(fits, max_batch_tokens=17)) == "a run may need 24 tokens in a batch (held: 16)"
    for name in ("max_batch_size", "max_context_tokens", "max_prefill_chunk", "max_prefill_kv"):
        beyond = tables.covers(replace(fits, **{name: getattr(fits, name) + 1}))
        assert beyond is not None
        assert beyond.count("held") == 1


def test_require_names_what_a_replica_lacks() -> None:
    tables = make_tables()
    tables.require(ReplicaConfig())
    with pytest.raises(InputError, match="no times for all_reduce, send_recv"):
        tables.require(ReplicaConfig(tensor_parallel_size=2, num_pipeline_stages=2))


def test_for_replica_drops_what_does_not_run() -> None:
    tables = make_tables()
    tables = replace(tables, linear={**tables.linear, "all_reduce": tables.linear["add"]})
    assert "all_reduce" not in tables.for_replica(ReplicaConfig()).linear
    assert "all_reduce" in tables.for_replica(ReplicaConfig(tensor_parallel_size=2)).linear
    assert POST_NORM_OP not in tables.for_replica(ReplicaConfig(model_name="microsoft/phi-2")).linear


def hollow_archive(path: Path, shape: tuple[int, ...], held: int) -> Path:
    """A compressed archive of one array of zeros: of that shape by its header, of so many bytes in truth."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("add.values.npy", "w") as member:
        member.write(header.getvalue())
        block = bytes(1 << 20)
        for begin in range(0, held, len(block)):
            member.write(block[: held - begin])
    return path


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    size = (1 << 30) + 8
    path = hollow_archive(tmp_path / "bomb.npz", (size // 8,), size)
    assert path.stat().st_size < 1_500_000
    program = """
import resource, sys
from vidur.errors import InputError
from vidur.execution_time_predictor.tables import ExecutionTimeTables
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    ExecutionTimeTables.load(sys.argv[1])
except InputError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    text, grown = done.stdout.splitlines()
    assert text == f"{path}: unpacked it takes 1.0 GiB; execution-time tables may take 1 GiB"
    assert int(grown) < 64 << 10  # KiB


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    path = hollow_archive(tmp_path / "liar.npz", (1 << 40,), 800)
    with pytest.raises(InputError, match=r"liar.npz: add.values.npy is damaged: its shape \(1099511627776,\)"):
        ExecutionTimeTables.load(path)
