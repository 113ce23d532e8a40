"""The examples of the documentation run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"
SMALL = ["--config", str(EXAMPLES / "azure_conv.yaml"), "--synthetic_request_generator_config_num_requests", "300"]


def run_python(arguments: list[str], folder: Path) -> str:
    """What `python ARGUMENTS` prints in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_api_does_what_its_page_shows(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    script = tmp_path / "api.py"
    script.write_text("\n".join(blocks))
    run_python([str(script)], tmp_path)
    assert (tmp_path / "my_run" / "report.html").is_file()


def test_the_environments_do_what_their_page_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "environments.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "environments.py").write_text("\n".join(blocks))
    printed = run_python(["environments.py"], tmp_path)
    assert printed.count("mean_e2e") == 2 and "decisions/s" in printed


@pytest.mark.parametrize("name", ["FewestPrompts", "CompiledFewestPrompts"])
def test_a_router_of_ones_own_routes(name: str, tmp_path: Path) -> None:
    router = ["--global_scheduler_config_type", f"{EXAMPLES / 'fewest_prompts.py'}:{name}"]
    # Twice: the second process may take the kernel from the cache of the first.
    for _ in range(2):
        assert "300 of 300 finished" in run_python(["-m", "vidur.main", *SMALL, *router], tmp_path)


def test_a_batching_policy_of_ones_own_batches(tmp_path: Path) -> None:
    policy = ["--replica_scheduler_config_type", "prompt_alone"]
    printed = run_python([str(EXAMPLES / "prompt_alone.py"), *SMALL, *policy], tmp_path)
    assert "ppo over prompt_alone" in printed
    assert "300 of 300 finished" in printed
