"""Every command of the documentation works: run with less to do where that takes long, else its flags are parsed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "data").rglob("*.md")]
CONSOLE = {
    "vidur": "vidur.main", "vidur-compare": "vidur.compare", "vidur-train": "rl.train", "vidur-evaluate": "rl.evaluate",
    "vidur-explain": "rl.explain", "vidur-router": "rl.vllm.router",
}  # fmt: skip
# Programs that are not ours: nothing but a real machine, cluster or vLLM can run them.
OTHERS = re.compile(r"(export |for |done|curl |kubectl |pip |\S*python\S* -m pip |[A-Z_]+=\S+ |\"?\$|venv=|git )")
# Minutes of work, real replicas or files that a user has; other tests run these tools.
PARSED = (
    "-m rl.train", "-m rl.warm_start", "-m rl.reward_report", "-m rl.explain", "-m rl.vllm.", "-m vidur.compare suite",
    "--scenario a93", "-m vidur.execution_time_predictor.fidelity", "scripts/", "sb3_ppo.py", "config_mode train",
)  # fmt: skip
# What is put in place of sizes, for commands that run.
SMALLER = (
    (r"num_requests \d+", "num_requests 50"),
    (r"config_duration \d+", "config_duration 10"),
    (r"--requests \d+", "--requests 60"),
    (r"--load [\d.,]+", "--qps 4"),
    (r"FILE\b", "trace.csv"),
)


def lines_of(page: Path) -> list[str]:
    """The lines of the page's shell blocks, fenced and indented, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^ {4}\S.*\n(?: {4}.*\n)*)", rest, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+", " ", line) for line in lines if line]


def arguments_of(line: str) -> str | None:
    """What follows `python` in a command of ours; None for another program's."""
    found = re.match(r"(?:PYTHONPATH=\. )?(?:\.venv/bin/)?(?:(python) |(vidur(?:-\w+)?)(?= ))(.*)", line)
    if found is None or found[3].startswith("-m pip "):
        return None
    return found[3] if found[1] else f"-m {CONSOLE[found[2]]}{found[3]}"


COMMANDS = sorted({words for page in PAGES for line in lines_of(page) if (words := arguments_of(line)) is not None})


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder from which the paths of the commands lead to the project's files."""
    for name in ("docs", "scripts", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "trace.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,5\n0.5,200,7\n")
    return tmp_path


def is_parsed(command: str) -> bool:
    return any(part in command for part in PARSED)


def test_the_documentation_has_commands() -> None:
    assert len(COMMANDS) > 30
    assert all(any(part in command for command in COMMANDS) for part in PARSED), "PARSED names what no page has"


@pytest.mark.parametrize("command", [command for command in COMMANDS if not is_parsed(command)])
def test_a_command_runs(command: str, folder: Path) -> None:
    for pattern, smaller in SMALLER:
        command = re.sub(pattern, smaller, command)
    if "-m vidur.compare" in command:
        command += " --seeds 2" + ("" if "--requests" in command else " --requests 60")
    elif "num_requests" not in command and "_duration" not in command and "trace.csv" not in command:
        command += " --synthetic_request_generator_config_num_requests 50"
    ran = run(shlex.split(command), folder)
    assert ran.returncode == 0, ran.stderr
    assert re.search("^(Results|Report): simulator_output/", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if is_parsed(command)])
def test_the_flags_of_a_command_are_there(command: str, folder: Path) -> None:
    """With a flag that no tool has: it alone is refused."""
    ran = run([*shlex.split(command), "--no_such_flag"], folder)
    assert ran.returncode == 2, ran.stderr
    assert "no_such_flag" in ran.stderr.splitlines()[-1]


def test_every_line_of_a_shell_block_is_a_command_of_ours_or_known_to_be_anothers() -> None:
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                known = not line.strip() or arguments_of(line) is not None or OTHERS.match(line)
                assert known or line.startswith(("bash scripts/run.sh", "bash scripts/test", "#")), (
                    f"{page.name}: {line}"
                )
