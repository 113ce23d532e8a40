"""Run a command: parse its flags, report errors and signals, return an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vidur.config.base import Config
from vidur.config.tool import parse_tool
from vidur.errors import InputError, OutputError
from vidur.extras import EXTRAS, missing_package
from vidur.interrupt import Interrupts

Parse = Callable[[Sequence[str] | None], Sequence[Any]]


def run_tool(
    name: str,
    classes: Sequence[type[Config]] | Parse,
    function: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    *,
    description: str = "",
    advice: str = "",
    forks: bool = False,
) -> int:
    """Call `function` with the configurations of `argv` (default: sys.argv). Returns the exit status.

    The status is what `function` returns (0 for None); 2 for bad input or a missing package, 1 for results that cannot
    be written, 130 for Ctrl-C, 143 for SIGTERM, each with one line on stderr; 141 for a closed output pipe.

    name: what follows `python -m`. classes: whose fields are flags, or a function of `argv` to use in place of
    `parse_tool`. advice: added to the message of an interrupted run; the text of a KeyboardInterrupt replaces it.
    forks: whether the command starts processes; then no thread watches for signals.
    """
    with Interrupts(f"{name}: interrupted") as interrupts:
        try:
            with nullcontext() if forks else interrupts.watched():
                try:
                    parsed = classes(argv) if callable(classes) else parse_tool(prog(name), description, classes, argv)
                    return function(*parsed) or 0
                finally:
                    sys.stdout.flush()
        except InputError as error:
            return _fail(name, error)
        except OutputError as error:
            _fail(name, error)
            return 1
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            return _fail(name, missing_package(error.name))
        except BrokenPipeError:
            # The reader has gone, as with `| head`; discard what is still in the buffer.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt as interrupt:
            more = str(interrupt) or advice
            print(f"{name}: interrupted{'; ' if more else ''}{more}", file=sys.stderr)
            return interrupts.status or 130


def prog(name: str) -> str:
    """Return how the command was called, for its help: `vidur-train`, or `python -m rl.train`."""
    command = Path(sys.argv[0]).name.removesuffix(".exe")
    return command if command.startswith("vidur-") else f"python -m {name}"


def _fail(name: str, error: InputError | OutputError) -> int:
    print(f"{name}: error: {error}", file=sys.stderr)
    return 2
