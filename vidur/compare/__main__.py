"""Run python -m vidur.compare: compare routers over scenarios, loads and seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidur.atomic import check_writable, check_writable_file
from vidur.compare.config import RESUMABLE, CompareConfig
from vidur.config.tool import leading_words, parse_tool
from vidur.tool import prog, run_tool

if TYPE_CHECKING:
    from vidur.compare.sweep_file import SweepFile

_DESCRIPTION = """Compare schedulers on the same requests. A sweep file, if given, comes first:
python -m vidur.compare [SWEEP.yaml] [--FLAG VALUE ...]"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 1 if a simulation failed, else the status of `run_tool`."""
    return run_tool("vidur.compare", parse, compare, argv, advice=RESUMABLE, forks=True)


def parse(argv: Sequence[str] | None) -> tuple[CompareConfig, SweepFile | None, str | None]:
    """Return the flags, which override those of the sweep file, the file, and its name on the command line."""
    words, flags = leading_words(argv)
    source = words.pop(0) if words else None
    file = None
    if source is not None:
        from vidur.compare.sweep_file import SweepFile

        file = SweepFile.read(source)
    given = None if file is None else file.flags
    (config,) = parse_tool(prog("vidur.compare"), _DESCRIPTION, (CompareConfig,), [*words, *flags], defaults=given)
    return config, file, source


def compare(config: CompareConfig, file: SweepFile | None, source: str | None) -> int:
    """Run the missing simulations, print and write the results. Returns 1 if a simulation failed, else 0."""
    # These import numba, so wait until the flags are valid.
    from vidur.compare.console import print_results
    from vidur.compare.sweep import Sweep, make_executor
    from vidur.compare.writer import write_sweep
    from vidur.simulator import announce_compilation

    check_writable(config.output, "--output")
    for flag, path in (("--json", config.json), ("--markdown", config.markdown)):
        if path is not None:
            check_writable_file(path, flag)
    sweep = Sweep(config, file, source)
    announce_compilation()
    with make_executor(config) as executor:
        results = sweep.run(executor)
    print_results(results)
    write_sweep(results, config.output, {"results.json": config.json, "summary.md": config.markdown})
    print(f"Report: {Path(config.output) / 'report.html'}")
    for failure in results.failures:
        print(f"vidur.compare: failed: {failure.command}: {failure.error}", file=sys.stderr)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
