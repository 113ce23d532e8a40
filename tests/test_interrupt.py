"""Signals end commands: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidur.engine.compile import COMPILED

ROOT = Path(__file__).resolve().parent.parent
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]

# A tool that says when it begins; `{body}` is what it does then.
TOOL = """
import ctypes, os, signal, sys, time
from vidur.tool import run_tool

def work():
    print("begun", flush=True)
    {body}
    print("went on")

sys.exit(run_tool("tool", lambda argv: (), work))
"""


def start(body: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "tool.py").write_text(TOOL.format(body=body.replace("\n", "\n    ")))
    process = subprocess.Popen(
        [sys.executable, "tool.py"], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    return process


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_ends_a_tool_in_one_line(number: signal.Signals, status: int, tmp_path: Path) -> None:
    process = start("time.sleep(60)", tmp_path)
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("", "tool: interrupted\n")
    assert process.returncode == status


def test_an_interrupt_that_a_callback_of_native_code_swallows_is_raised_again(tmp_path: Path) -> None:
    """As in LLVM's callbacks: ctypes prints what a callback raises and goes on."""
    body = """
callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(left, right):
    os.kill(os.getpid(), signal.SIGINT)
    return 0
array = (ctypes.c_int * 2)(1, 2)
ctypes.CDLL(None).qsort(array, 2, 4, callback(compare))
time.sleep(60)"""
    process = start(body.strip(), tmp_path)
    assert process.communicate(timeout=10) == ("", "tool: interrupted\n")
    assert process.returncode == 130


def test_native_code_that_never_comes_back_does_not_keep_a_process(tmp_path: Path) -> None:
    # A thread that locks a mutex again waits for itself, and no signal wakes it.
    body = """
mutex = ctypes.create_string_buffer(128)
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
lock(mutex)"""
    process = start(body.strip(), tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "tool: interrupted\n")
    assert process.returncode == 130


def test_a_second_signal_ends_a_tool_that_does_not_stop(tmp_path: Path) -> None:
    body = """
try:
    time.sleep(60)
finally:
    print("cleaning", flush=True)
    time.sleep(60)"""
    process = start(body.strip(), tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and process.stdout.readline() == "cleaning\n"
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "tool: interrupted\n")
    assert process.returncode == 130


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(TOOL.format(body="for i in range(100_000): print(i)"))
    script = f"{sys.executable} tool.py | head -1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("begun\n141\n", "")


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_ctrl_c_ends_the_first_compile(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vidur.main", "--metrics_config_output_dir", str(tmp_path / "output")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "VIDUR_CACHE_DIR": str(tmp_path / "cache")},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None and process.stderr.readline().startswith("Compiling")
    time.sleep(3.0)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5.0
    assert (process.returncode, out) == (130, "") and err.startswith("vidur: interrupted") and err.count("\n") == 1
    assert not (tmp_path / "output").exists()
