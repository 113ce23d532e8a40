"""Every malformed trace gets one line that names the file, the row and the column."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import TraceRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator import generate_requests

FLAG = "--trace_request_generator_config_trace_file"
HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
TURNS = HEADER.replace("\n", ",request_id,parent,think\n")
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
GOOD = '{"timestamp": 0, "input_length": 5, "output_length": 5}\n'


def refusal(path: Path, content: str | bytes | None, **settings: Any) -> str:
    """The error's text, the folder of the file left out."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        generate_requests(TraceRequestGeneratorConfig(trace_file=str(path), **settings))
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, f"{FLAG}: there is no file t: name a trace file"),
        ("", f"t is empty: {FLAG} needs a trace"),
        ("\n \r\n", f"t is empty: {FLAG} needs a trace"),
        (HEADER, "t has a header and no requests"),
        (HEADER + "\n,,\n", "t has a header and no requests"),
        (b"\xff\xfe\x00a", f"t is not text in UTF-8: {FLAG} needs a CSV or JSON-lines trace"),
        (
            HEADER.replace("num_prefill_tokens", "num_prefil_tokens") + "0,1,1\n",
            "t, row 1: column 'num_prefill_tokens' is missing: is it 'num_prefil_tokens'? "
            "needed: arrived_at, num_prefill_tokens, num_decode_tokens",
        ),
        (
            "num_prefill_tokens,num_decode_tokens\n1,1\n",
            "t, row 1: column 'arrived_at' is missing: needed: arrived_at, num_prefill_tokens, num_decode_tokens",
        ),
        (
            "TIMESTAMP,ContextToken,GeneratedTokens\n",
            "t, row 1: column 'ContextTokens' is missing: is it 'ContextToken'? "
            "needed: TIMESTAMP, ContextTokens, GeneratedTokens",
        ),
        (
            "a,b,c\n1,2,3\n",
            "t, row 1: not the header of a trace; formats and their columns: "
            "vidur: arrived_at, num_prefill_tokens, num_decode_tokens; "
            "azure: TIMESTAMP, ContextTokens, GeneratedTokens; "
            "burstgpt: Timestamp, Request tokens, Response tokens",
        ),
        (HEADER + "0,1,1\n\n0,x,1\n", "t, row 4, column num_prefill_tokens: 'x' is not a number of at least 1"),
        (HEADER + "0,1,\n", "t, row 2, column num_decode_tokens: nothing is not a number of at least 1"),
        (HEADER + "0,-3,1\n", "t, row 2, column num_prefill_tokens: '-3' is not a number of at least 1"),
        (HEADER + "0,1,0\n", "t, row 2, column num_decode_tokens: '0' is not a number of at least 1"),
        (HEADER + "0,0.5,1\n", "t, row 2, column num_prefill_tokens: '0.5' is not a number of at least 1"),
        (HEADER + "0,1,1\n-1,1,1\n", "t, row 3, column arrived_at: '-1' is not a number of at least 0"),
        (HEADER + "nan,1,1\n", "t, row 2, column arrived_at: 'nan' is not a number of at least 0"),
        (HEADER + "inf,1,1\n", "t, row 2, column arrived_at: 'inf' is not a number of at least 0"),
        (HEADER + "1,NaN,1\n", "t, row 2, column num_prefill_tokens: 'NaN' is not a number of at least 1"),
        (HEADER + "1e18,1,1\n", "t, row 2, column arrived_at: '1e18' is not below 1e+12: is its unit right?"),
        (HEADER + "0,1\n", "t, row 2: expected 3 fields, as in its header, not 2"),
        (HEADER + "0,1,1,1\n", "t, row 2: expected 3 fields, as in its header, not 4"),
        (HEADER + '0,1,"1\n', "t, row 2: not CSV: unexpected end of data"),
        (
            AZURE + "2023-11-16 18:15:46,1,1\nyesterday,1,1\n",
            "t, row 3, column TIMESTAMP: 'yesterday' is not a time like 2023-11-16 18:15:46.68",
        ),
        (AZURE + "2023-11-31 18:15:46,1,1\n", "t, row 2, column TIMESTAMP: '2023-11-31 18:15:46' is not a time like "),
        (AZURE + "2023-11-16 18:15:46,0,1\n", "t, row 2, column ContextTokens: '0' is not a number of at least 1"),
        (BURST + "5,m,1,-1,0,x\n", "t, row 2, column Response tokens: '-1' is not a number of at least 0"),
        (GOOD + "{\n", "t, row 2: expected a JSON object on a line of its own"),
        (GOOD + "[1]\n", "t, row 2: expected a JSON object on a line of its own"),
        (GOOD + "\n{}\n", "t, row 3, column timestamp: nothing is not a number of at least 0"),
        (
            '{"timestamp": 0, "input_length": [5], "output_length": 5}\n',
            "t, row 1, column input_length: [5] is not a number of at least 1",
        ),
        (
            GOOD.replace("}", ', "hash_ids": [1, "x"]}'),
            "t, row 1, column hash_ids: [1, 'x'] is not a list of integers",
        ),
        (GOOD.replace("}", ', "hash_ids": [-1]}'), "t, row 1, column hash_ids: [-1] is not a list of"),
        (GOOD.replace("}", ', "hash_ids": 7}'), "t, row 1, column hash_ids: 7 is not a list of integers from 0"),
        (
            GOOD + GOOD.replace("}", ', "hash_ids": [1, 2]}'),
            "t, row 2, column hash_ids: 2 ids do not fit input_length 5: expected 1, one for each 512 tokens",
        ),
        (
            GOOD.replace("5,", "600,").replace("}", ', "hash_ids": [1, 2]}')
            + GOOD
            + GOOD.replace("}", ', "hash_ids": [2]}'),
            "t, row 3, column hash_ids: 2 follows another id than in an earlier row: an id must stand for a block and",
        ),
        (TURNS + "0,1,1,a,b,\n", "t, row 2, column parent: 'b' is not among the 1 requests by request_id"),
        (TURNS + "0,1,1,a,,\n0,1,1,a,a,\n", "t, row 2, column request_id: 'a' is not the name of a single request"),
        (TURNS + "0,1,1,a,,\n0,1,1,b,c,\n0,1,1,c,b,\n", "t, row 3, column parent: 'c' is not possible: these requests"),
        (TURNS + "0,1,1,a,,\n0,1,1,b,a,-1\n", "t, row 3, column think: '-1' is not a number of at least 0"),
        (HEADER.replace("\n", ",parent\n") + "0,1,1,1\n", "t, row 2, column parent: '1' is not from 0 to 0"),
        (
            HEADER.replace("\n", ",priority\n") + "0,1,1,\n0,1,1,high\n",
            "t, row 3, column priority: 'high' is not an integer",
        ),
        (HEADER.replace("\n", ",priority\n") + "0,1,1,1.5\n", "t, row 2, column priority: '1.5' is not an integer"),
        (HEADER.replace("\n", ",priority\n") + "0,1,1,1e30\n", "t, row 2, column priority: '1e30' is not an integer"),
    ],
)
def test_one_line_names_the_culprit(tmp_path: Path, content: str | bytes | None, expected: str) -> None:
    assert refusal(tmp_path / "t", content).startswith(expected)


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    assert refusal(tmp_path / "t", None) == f"{FLAG}: cannot read t: Is a directory"


def test_a_damaged_archive(tmp_path: Path) -> None:
    assert refusal(tmp_path / "t.gz", HEADER).startswith(f"{FLAG}: cannot read t.gz: Not a gzipped file")
    whole = gzip.compress((HEADER + "0,1,1\n" * 1000).encode())
    assert refusal(tmp_path / "t.gz", whole[:-20]).startswith(f"{FLAG}: cannot read t.gz: Compressed file ended")
    assert refusal(tmp_path / "t.gz", whole[:30] + bytes(10) + whole[40:]).startswith(f"{FLAG}: cannot read t.gz: ")


def test_a_format_that_is_not_the_file_s(tmp_path: Path) -> None:
    assert refusal(tmp_path / "t", HEADER + "0,1,1\n", trace_format="azure").startswith(
        "t, row 1: column 'TIMESTAMP' is missing: needed: TIMESTAMP, ContextTokens, GeneratedTokens"
    )
    assert refusal(tmp_path / "t", HEADER, trace_format="mooncake").startswith("t, row 1: expected a JSON object")
    assert refusal(tmp_path / "t", GOOD, trace_format="vidur").startswith("t, row 1: column 'arrived_at' is missing")


@given(st.binary(max_size=200), st.sampled_from(["", HEADER, AZURE, BURST, GOOD]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, start: str) -> None:
    path = tmp_path_factory.mktemp("trace") / "t"
    path.write_bytes(start.encode() + content)
    try:
        generate_requests(TraceRequestGeneratorConfig(trace_file=str(path))).validate()
    except InputError as error:
        assert "\n" not in str(error)


@given(st.text("0123456789.-,:eE\n\"' aNif{}[]T", max_size=60), st.sampled_from([HEADER, AZURE, BURST, GOOD]))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: str, start: str) -> None:
    test_any_bytes_are_read_or_refused.hypothesis.inner_test(tmp_path_factory, content.encode(), start)  # type: ignore[attr-defined]
