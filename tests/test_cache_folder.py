"""The cache folder: where nothing can be written, or others can write, a run goes on without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vidur.compare.capacity import Capacities
from vidur.data_files import cache_root, warn_once, writable_by_others

ROOT = Path(__file__).resolve().parent.parent

KERNELS = """
from vidur.engine.compile import allocating_kernel

@allocating_kernel
def double(number):
    return 2 * number

def callback(number):
    return 3 * number
"""
PROGRAM = """
import resource, sys
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
import kernels
from numba import types
from vidur.engine.compile import is_cached, mark_cached
from vidur.engine.callback import Callback

assert kernels.double(4) == 8
assert Callback(types.int64, types.int64).handle(kernels.callback) != 0
mark_cached()
print(is_cached(), len(kernels.double.stats.cache_hits))
"""


def run_kernels(
    folder: Path, cache: Path | None, limit: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Compile two kernels in a process of its own. limit: the size in bytes to which a file may grow, 0 for any."""
    (folder / "kernels.py").write_text(KERNELS)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "VIDUR", "XDG"))}
    settings = {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", **environment}
    if cache is not None:
        settings["VIDUR_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-c", PROGRAM, str(limit)]
    done = subprocess.run(command, cwd=folder, env={**inherited, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_kernels_are_kept_for_the_next_process(tmp_path: Path) -> None:
    first, second = (run_kernels(tmp_path, tmp_path / "cache") for _ in range(2))
    assert (first.stdout, second.stdout) == ("True 0\n", "True 1\n")
    assert first.stderr == second.stderr == ""
    assert (tmp_path / "cache" / "kernels").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("name", "limit", "reason"),
    [
        ("file", 0, "file: File exists"),
        ("file/below", 0, "file: File exists"),
        ("/proc/none", 0, "No such file or directory"),
        ("cache", 1, "File too large"),
        # Enough for a probe and for Numba's index of a kernel, not for the kernel.
        ("cache", 6000, "File too large"),
    ],
)
def test_where_nothing_can_be_kept_kernels_are_compiled_each_time(
    tmp_path: Path, name: str, limit: int, reason: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        done = run_kernels(tmp_path, tmp_path / name, limit)
        assert done.stdout.endswith(" 0\n")
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Compiled kernels cannot be kept for the next run" in done.stderr
        assert reason in done.stderr and "VIDUR_CACHE_DIR" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without a home")
def test_a_user_without_a_home(tmp_path: Path) -> None:
    # Packages may lie where only root can read, so they are imported before the user changes.
    program = """
import os
from vidur.data_files import cache_folder, cache_root
os.environ.clear()
os.setuid(54321)
print(cache_root(), cache_folder("kernels", "Compiled kernels"), cache_folder("kernels", "Compiled kernels"))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "None None None\n"), done.stderr
    assert done.stderr.count("\n") == 1 and "there is no home folder" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user who may not write")
def test_a_home_that_does_not_exist(tmp_path: Path) -> None:
    program = """
import os
from vidur.data_files import cache_folder
os.environ.clear()
os.environ["HOME"] = "/nonexistent/home"
os.setuid(54321)
print(cache_folder("kernels", "Compiled kernels"))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr
    assert done.stderr.count("\n") == 1 and "(/nonexistent: Permission denied)" in done.stderr


def test_the_cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDUR_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "vidur"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "vidur"
    monkeypatch.setenv("VIDUR_CACHE_DIR", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


def test_a_cache_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run_kernels(tmp_path, cache)
    cache.chmod(0o777)
    done = run_kernels(tmp_path, cache)
    assert done.stdout == "False 0\n"
    assert done.stderr.count("\n") == 1 and f"other users can write to {cache} and could run code" in done.stderr
    assert "VIDUR_TRUST_CACHE=1" in done.stderr
    trusting = run_kernels(tmp_path, cache, VIDUR_TRUST_CACHE="1")
    assert (trusting.stdout, trusting.stderr) == ("True 1\n", "")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to others")
def test_who_can_write_to_a_folder(tmp_path: Path) -> None:
    middle, inner = tmp_path / "middle", tmp_path / "middle" / "inner"
    inner.mkdir(parents=True)
    assert writable_by_others(inner) is None
    os.chown(inner, 54321, 0)
    assert writable_by_others(inner) == inner
    os.chown(inner, 0, 54321)
    inner.chmod(0o770)
    assert writable_by_others(inner) == inner
    # The group of root has no other member.
    os.chown(inner, 0, 0)
    assert writable_by_others(inner) is None
    middle.chmod(0o777)
    assert writable_by_others(inner) == middle
    # A sticky folder, as /tmp, keeps others from replacing what lies in it, but not from adding to it.
    middle.chmod(0o1777)
    assert writable_by_others(inner) is None
    assert writable_by_others(middle) == middle


def test_capacities_are_measured_where_they_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VIDUR_CACHE_DIR", str(tmp_path / "file"))
    capacities = Capacities()
    assert capacities._keep("a", 2.0) == capacities._load("a") == 2.0
    assert capacities._load("b") is None
    assert [record.message for record in caplog.records] == [
        f"Measured capacities cannot be kept for the next run ({tmp_path}/file: File exists): "
        "set VIDUR_CACHE_DIR to a writable folder"
    ]
