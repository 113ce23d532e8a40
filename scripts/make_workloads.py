"""Write data/workloads/*.json: the lengths and arrivals of public traces as quantiles and a rank correlation.

    python scripts/make_workloads.py [--azure-conv FILE] [--azure-code FILE] [--arxiv FILE] [--output-dir DIR]

The same traces give the same bytes. A quantile is the trace's value of the nearest rank.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vidur.atomic import write_text
from vidur.errors import InputError
from vidur.request_generator.trace import Trace, read_trace

ROOT = Path(__file__).resolve().parent.parent
TRACES = ROOT.parent / "shared" / "traces"
AZURE = "Azure public dataset, LLM inference traces of 2023 ({}), https://github.com/Azure/AzurePublicDataset"
AZURE_LICENCE = "CC-BY 4.0"


class Source(NamedTuple):
    """A trace and its description."""

    name: str  # of the table
    flag: str
    file: Path  # default of the flag
    dataset: str
    licence: str
    arrivals: bool


SOURCES = (
    Source(
        "azure_conv_2023",
        "--azure-conv",
        TRACES / "splitwise_conv.csv",
        AZURE.format("AzureLLMInferenceTrace_conv, in the form of microsoft/vidur's splitwise_conv.csv"),
        AZURE_LICENCE,
        arrivals=True,
    ),
    Source(
        "azure_code_2023",
        "--azure-code",
        TRACES / "splitwise_code.csv",
        AZURE.format("AzureLLMInferenceTrace_code, in the form of microsoft/vidur's splitwise_code.csv"),
        AZURE_LICENCE,
        arrivals=True,
    ),
    Source(
        "arxiv_summarization",
        "--arxiv",
        TRACES / "arxiv_summarization_first2000.csv",
        "the first 2000 rows of microsoft/vidur's arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv "
        "(papers and their abstracts, of at most 4096 tokens of the Llama-2 tokenizer together)",
        "MIT",
        arrivals=False,
    ),
)


def probabilities() -> list[float]:
    """Return 0 to 1 in steps of 0.005, of 0.001 in the outer hundredths, of 0.0001 in the outer thousandths."""
    tail = [i / 10_000 for i in range(10)] + [i / 1000 for i in range(1, 10)]
    return tail + [i / 200 for i in range(2, 199)] + [round(1.0 - p, 4) for p in reversed(tail)]


def quantiles(values: npt.NDArray[Any]) -> list[Any]:
    ranks = np.floor(np.array(probabilities()) * (len(values) - 1) + 0.5).astype(np.int64)
    quantile: list[Any] = np.sort(values)[ranks].tolist()
    return quantile


def rank_correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return Spearman's correlation, of ranks that equal values share."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: npt.NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return means[place]


def describe(source: Source, trace: Trace) -> dict[str, Any]:
    """Return the table of a trace: times in seconds, gaps between successive arrivals."""
    table: dict[str, Any] = {
        "name": source.name,
        "source": source.dataset,
        "licence": source.licence,
        "script": "scripts/make_workloads.py",
        "num_requests": len(trace),
        "rank_correlation": round(rank_correlation(trace.prefill_tokens, trace.decode_tokens), 6),
        "rank_correlation_of": "prompt and output tokens (Spearman)",
        "probabilities": probabilities(),
    }
    for name, tokens in (("prefill_tokens", trace.prefill_tokens), ("decode_tokens", trace.decode_tokens)):
        whole = tokens.astype(np.int64)
        table[name] = {"mean": round(float(whole.mean()), 6), "quantiles": quantiles(whole)}
    if source.arrivals:
        arrived_at = np.sort(trace.arrived_at)
        gaps = np.diff(arrived_at)
        duration = float(arrived_at[-1] - arrived_at[0])
        table["mean_qps"] = round(len(gaps) / duration, 6)
        table["duration"] = round(duration, 6)
        table["interarrival"] = {
            "mean": round(float(gaps.mean()), 6),
            "coefficient_of_variation": round(float(gaps.std() / gaps.mean()), 6),
            "quantiles": [round(gap, 6) for gap in quantiles(gaps)],
        }
    return table


def to_text(table: dict[str, Any]) -> str:
    """Return JSON with an entry per line."""
    entries = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in table.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="write the quantile tables of data/workloads from trace files")
    for source in SOURCES:
        parser.add_argument(source.flag, type=Path, default=source.file, dest=source.name, metavar="FILE")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "data" / "workloads", metavar="DIR")
    options = parser.parse_args(arguments)
    for source in SOURCES:
        file = getattr(options, source.name)
        try:
            trace = read_trace(str(file), source.flag, arrivals=source.arrivals)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        write_text(options.output_dir / f"{source.name}.json", to_text(describe(source, trace)))
        print(f"{options.output_dir / source.name}.json: {len(trace)} requests")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
