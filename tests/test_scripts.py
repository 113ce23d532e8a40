"""Every script says what it does when it is asked to, and does nothing then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Read by the others.
NOT_RUN = {"help.sh", "golden.py", "real_vllm.py"}
SCRIPTS = [*sorted(path for path in (ROOT / "scripts").glob("*.*") if path.suffix in (".py", ".sh")), ROOT / ".ci/run"]


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.name not in NOT_RUN], ids=lambda path: path.name)
def test_a_script_helps(script: Path, tmp_path: Path) -> None:
    program = sys.executable if script.suffix == ".py" else "bash"
    # Where the environment of the shell scripts is not there, they would begin to make one.
    environment = {
        "PATH": "/usr/bin:/bin",
        "VENV": "nowhere",
        "VIDUR_CACHE_DIR": str(tmp_path.parent),
        "PYTHONPATH": str(ROOT),
    }
    ran = subprocess.run(
        [program, str(script), "--help"], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert ran.returncode == 0 and ran.stderr == ""
    assert len(ran.stdout) > 80 and "Traceback" not in ran.stdout
    assert list(tmp_path.iterdir()) == []
