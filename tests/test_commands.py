"""Every command and entry point starts, and what the documentation promised to import is still there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = (
    "vidur.main", "vidur.compare", "vidur.execution_time_predictor.fidelity",
    "rl.train", "rl.warm_start", "rl.training_report", "rl.reward_report", "rl.evaluate", "rl.explain", "rl.describe",
    "rl.vllm.router", "rl.vllm.load", "rl.vllm.replay", "rl.vllm.calibrate", "rl.vllm.learn",
)  # fmt: skip

# What users have in their code: modules with the names that they take from them.
PROMISED = {
    "vidur": ("SimulationConfig", "Simulator", "simulate"),
    "rl.environment": ("RoutingEnvironment", "SimulatorEnvironment"),
    "rl.environments": ("RoutingEnvironment", "SimulatorEnvironment"),
    "rl.environments.gym": ("ENVIRONMENT_ID", "RoutingEnv"),
    "rl.environments.vector": ("RoutingVectorEnv",),
    "rl.gym_environment": ("ENVIRONMENT_ID", "RoutingEnv"),
    "rl.router.encoder": ("StateEncoder",),
    "rl.vector_environment": ("RoutingVectorEnv",),
    "vidur.scheduler.routers": ("GlobalScheduler", "KernelScheduler", "RouterContext"),
}

# Users' vLLM names these; they stay where they are.
PLUGINS = {
    "vllm.stat_logger_plugins": {"vidur": "rl.vllm.plugin.stat_logger:VidurStatLogger"},
    "vllm.general_plugins": {"vidur_data_parallel": "rl.vllm.plugin.data_parallel:register"},
}


# What takes long to import: help and bad flags do not wait for it.
HEAVY = {"httptools", "numba", "pandas", "plotly", "prometheus_client", "pyarrow", "rich", "scipy", "torch", "uvloop"}


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_starts_without_what_takes_long_to_import(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage: ")
    lines = ran.stderr.splitlines()
    assert all(line.startswith("import time:") for line in lines)
    assert not HEAVY & {line.rpartition("|")[2].strip() for line in lines}


def test_the_documentation_names_no_other_command() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "data").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"python -m ((?:rl|vidur)[.\w]*)", page.read_text("utf-8"))}
    assert named <= set(COMMANDS)


def test_the_console_commands_are_functions() -> None:
    for target in _project()["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))


def test_the_plug_ins_of_vllm_are_where_vllm_looks() -> None:
    groups = _project()["entry-points"]
    assert groups == PLUGINS
    for entries in groups.values():
        for target in entries.values():
            module, _, name = target.partition(":")
            source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
            defined = [
                node.name for node in ast.parse(source).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))
            ]
            # They import vLLM, which is not installed here.
            assert name in defined


@pytest.mark.parametrize("module", PROMISED)
def test_promised_imports_are_there(module: str) -> None:
    assert all(hasattr(import_module(module), name) for name in PROMISED[module])


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project
