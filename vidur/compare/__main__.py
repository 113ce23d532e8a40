"""python -m vidur.compare: which router, on which cluster, at which load, and how sure is it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vidur.atomic import write_text
from vidur.compare.config import CompareConfig
from vidur.config.tool import parse_tool
from vidur.errors import InputError

_DESCRIPTION = """Compare schedulers on the same requests. A sweep file, if there is one, comes first:
python -m vidur.compare [SWEEP.yaml] [--FLAG VALUE ...]"""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the flags say. Returns 0; 1 where a simulation failed; 2 for bad input; 130 on Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return compare(words)
    except InputError as error:
        print(f"vidur.compare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vidur.compare: interrupted; the same command goes on from the finished simulations", file=sys.stderr)
        return 130


def compare(words: list[str]) -> int:
    """Simulate what is missing, print, and write the files. Returns 0, or 1 where a simulation failed."""
    source = words.pop(0) if words and not words[0].startswith("-") else None
    if source is None:
        config = parse_tool("python -m vidur.compare", _DESCRIPTION, (CompareConfig,), words)[0]
        file = None
    else:
        from vidur.compare.sweep_file import SweepFile

        file = SweepFile.read(source)
        config = parse_tool("python -m vidur.compare", _DESCRIPTION, (CompareConfig,), words, defaults=file.flags)[0]
    # These bring in numba: after the flags are known to be good.
    from vidur.compare.console import print_results
    from vidur.compare.executor import make_executor
    from vidur.compare.markdown import markdown
    from vidur.compare.parquet import write_parquet
    from vidur.compare.report import write_report
    from vidur.compare.sweep import Sweep
    from vidur.simulator import announce_compilation

    sweep = Sweep(config, file, source)
    announce_compilation()
    with make_executor(config) as executor:
        results = sweep.run(executor)
    print_results(results)
    folder = Path(config.output)
    text = json.dumps({"command": results.command, "date": results.date, "machine": results.machine,
                       "policies": results.policies, "rows": results.rows(),
                       "failures": [vars(failure) for failure in results.failures]},
                      allow_nan=False, indent=1) + "\n"  # fmt: skip
    for path in (folder / "results.json", *([Path(config.json)] if config.json is not None else [])):
        write_text(path, text)
    for path in (folder / "summary.md", *([Path(config.markdown)] if config.markdown is not None else [])):
        write_text(path, markdown(results))
    write_parquet(folder / "results.parquet", results)
    write_report(folder / "report.html", results)
    print(f"Report: {folder / 'report.html'}")
    for failure in results.failures:
        print(f"vidur.compare: failed: {failure.command}: {failure.error}", file=sys.stderr)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
