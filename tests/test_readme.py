"""The README's first command prints what it shows; tests/test_documented_commands.py has the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"[\d,]*\d(?:\.\d+)?")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like a checkout that was set up: its .venv is the environment of this test."""
    if not (Path(sys.prefix) / "bin" / "python").exists():
        pytest.skip("this Python has no bin/python that a .venv could stand for")
    for name in ("docs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def run(command: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "VENV"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lasting(text: str) -> list[str]:
    """The lines that do not depend on the clock."""
    return [line.rstrip() for line in text.strip().splitlines() if not line.startswith(("Simulated", "Results"))]


def test_the_example_prints_the_table_shown(checkout: Path) -> None:
    shown = re.search(r"^```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert shown is not None
    expected, printed = (
        lasting(shown[1]),
        lasting(run("bash scripts/run.sh --config docs/examples/azure_conv.yaml", checkout)),
    )
    for ours, theirs in zip(expected, printed, strict=True):
        assert NUMBER.sub("#", ours).split() == NUMBER.sub("#", theirs).split()
        numbers = [[float(number.replace(",", "")) for number in NUMBER.findall(line)] for line in (ours, theirs)]
        # Another processor may round otherwise.
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02)


def test_it_is_short() -> None:
    assert len(README.split()) <= 1200


def test_the_python_works(checkout: Path) -> None:
    block = re.search(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert block is not None
    (checkout / "readme.py").write_text(block[1])
    assert float(run(".venv/bin/python readme.py", checkout)) > 0


def test_the_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
