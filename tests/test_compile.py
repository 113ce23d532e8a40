"""Compiling kernels: in threads, and where what was compiled goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

KERNELS = "\n".join(f"def kernel_{index}(number):\n    return number + {index}\n" for index in range(6))

PROGRAM = """
from concurrent.futures import ThreadPoolExecutor

import numba
import kernels
from numba import types
from vidur.engine.callback import Callback

functions = [getattr(kernels, f"kernel_{index}") for index in range(6)]
callback = Callback(types.int64, types.int64)
with ThreadPoolExecutor(12) as pool:
    handles = list(pool.map(callback.handle, functions * 4))
assert len(set(handles)) == 6 and handles == handles[:6] * 4, handles
assert numba.config.CACHE_DIR == "", numba.config.CACHE_DIR
"""


def test_kernels_made_in_threads_lie_in_the_cache_folder_and_other_users_of_numba_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    cache = tmp_path / "cache"
    environment = {**os.environ, "VIDUR_CACHE_DIR": str(cache), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    indices = list(tmp_path.rglob("*.nbi"))
    assert len(indices) == 6 and all(cache in file.parents for file in indices)
