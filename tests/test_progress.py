"""How far long work is: lines of a real process without a terminal, a bar on one."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vidur.progress import Progress, clock

WORK = """
import time
from vidur.progress import Progress
with Progress("things done", 8, every=0.4) as progress:
    for index in range(8):
        time.sleep(0.2)
        progress.update(index + 1, f"thing {index}")
for _ in Progress("more", 3, every=0.4).over(range(3)):
    time.sleep(0.2)
"""


def test_lines_come_now_and_then_where_there_is_no_terminal() -> None:
    root = Path(__file__).resolve().parent.parent
    ran = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, cwd=root)
    lines = ran.stderr.splitlines()
    assert ran.returncode == 0 and ran.stdout == "" and 3 <= len(lines) <= 6, lines
    done = [
        int(match.group(1)) for line in lines if (match := re.match(r"(\d) of 8 things done, \d+ s left, thing", line))
    ]
    assert done == sorted(set(done)) and done[0] >= 2
    # Work that follows at once keeps the clock: it is told of before its own first interval is over.
    assert re.match(r"[12] of 3 more, \d+ s left$", lines[-1])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("vidur.progress._BAR_AFTER", 0.0)
    monkeypatch.setattr("vidur.progress._DRAW_EVERY", 0.0)
    file = Terminal()
    with Progress("outer", 4, file=file) as outer:
        outer.update(2)
        for _ in Progress("inner", 2, file=file).over(range(2)):
            pass
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert "2 of 4 outer" in shown and "inner" not in shown


def test_times_as_people_read_them() -> None:
    assert [clock(seconds) for seconds in (0.2, 45, 200, 7500)] == ["0 s", "45 s", "3 min 20 s", "2 h 5 min"]
