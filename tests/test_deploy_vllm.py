"""docs/deploy-vllm.md and its manifest say what is so."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl.vllm.decide.config import parse_router
from rl.vllm.http.limits import LimitsConfig
from rl.vllm.http.server import LINGER_SECONDS
from rl.vllm.process.router import CLASSES, main

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/deploy-vllm.md").read_text(encoding="utf-8")
MANIFEST = ROOT / "docs/examples/kubernetes.yaml"


def documents() -> dict[tuple[str, str], Any]:
    found = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def mebibytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]


def test_the_manifests_configuration_is_one_of_the_router(tmp_path: Path) -> None:
    manifest = documents()
    config = tmp_path / "router.yaml"
    config.write_text(manifest["ConfigMap", "vidur-router"]["data"]["router.yaml"], encoding="utf-8")
    (container,) = manifest["Deployment", "vidur-router"]["spec"]["template"]["spec"]["containers"]
    arguments = [str(config) if each == "/etc/vidur/router.yaml" else each for each in container["args"]]
    routing, (serve, *rest) = parse_router("vidur-router", "", CLASSES, arguments)
    gauges = rest[-1]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": serve.port, "gauges": gauges.push_port}
    deployment = manifest["Deployment", "vidur-router"]["spec"]
    pod = deployment["template"]["spec"]
    # No request is refused by an update: the new router is ready before the old one leaves, and is not asked any more
    # when it closes its port.
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    _, sleep = container["lifecycle"]["preStop"]["exec"]["command"]
    assert int(sleep) >= 10
    assert pod["terminationGracePeriodSeconds"] > int(sleep) + serve.grace + LINGER_SECONDS
    limits = rest[0]
    assert isinstance(limits, LimitsConfig)
    most = 1.2 * limits.max_buffered_bytes + limits.max_connections * limits.max_header_bytes + 128 * 2**20
    assert mebibytes(container["resources"]["limits"]["memory"]) * 2**20 > most
    # A replica's name is its pod's, by which it pushes; its URL is what the headless service makes of that.
    vllm = manifest["StatefulSet", "vllm"]["spec"]
    assert manifest["Service", vllm["serviceName"]]["spec"]["clusterIP"] == "None"
    names = [f"vllm-{number}" for number in range(vllm["replicas"])]
    assert [replica.label for replica in routing.replicas] == names
    assert [replica.url for replica in routing.replicas] == [f"http://{name}.vllm:8000" for name in names]


def test_the_pages_yaml_is_read() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        assert yaml.safe_load(block)


def test_the_pages_flags_and_variables_are_there() -> None:
    routing, _ = parse_router(
        "vidur-router", "", CLASSES,
        re.search(r"vidur-router (--replica http.*)", PAGE).group(1).split(),  # type: ignore[union-attr]
    )  # fmt: skip
    assert len(routing.replicas) == 2
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rl/vllm").rglob("*.py"))
    variables = set(re.findall(r"VIDUR_[A-Z_]+", PAGE))
    assert len(variables) >= 5
    assert all(f'"{variable}"' in code for variable in variables)


def test_the_entry_points_are_what_the_page_calls_them() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for group, name in (("stat_logger_plugins", "vidur"), ("general_plugins", "vidur_data_parallel")):
        assert re.search(rf'\[project.entry-points."vllm.{group}"\]\n{name} = "rl\.vllm\.plugin\.', text)
    assert "`vidur_data_parallel`" in PAGE


def test_the_router_may_do_no_more_than_it_needs() -> None:
    pod = documents()["Deployment", "vidur-router"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert re.search(r"USER (\d+)", PAGE).group(1) == str(pod["securityContext"]["runAsUser"])  # type: ignore[union-attr]
    (container,) = pod["containers"]
    own = container["securityContext"]
    assert own == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip


def test_the_token_of_the_manifest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = documents()["Secret", "vidur-router-admin"]["stringData"]["token"]
    path = tmp_path / "token"
    path.write_text(token + "\n", encoding="utf-8")
    flags = ["--replica", "http://127.0.0.1:1", "--port", "0"]
    assert main([*flags, "--admin_token_file", str(path)]) == 2
    monkeypatch.setenv("VIDUR_ROUTER_ADMIN_TOKEN", token)
    assert main(flags) == 2
    first, second = capsys.readouterr().err.splitlines()
    for line, where in ((first, f"--admin_token_file {path}"), (second, "VIDUR_ROUTER_ADMIN_TOKEN")):
        assert line.startswith(f"vidur-router: error: {where}: replace {token} by your own token")


def test_the_router_imports_the_packages_that_the_page_lists_and_no_others(tmp_path: Path) -> None:
    """With a configuration from a file, a policy, a shadow and exploration. Compared are distributions, by where each
    module comes from."""
    page = (ROOT / "docs/vllm-router.md").read_text(encoding="utf-8")
    listed = re.search(r"pip install (numpy .*)\n +pip install --no-deps \.\n", page)
    assert listed is not None
    config = tmp_path / "router.yaml"
    config.write_text(
        "replicas: ['http://127.0.0.1:1']\nport: 0\nscheduler: ppo\nshadow: least_tokens\nexplore: epsilon\n"
        f"decision_log: {tmp_path / 'log'}\n"
    )
    program = (
        "import asyncio, os, signal, sys, threading\n"
        "from rl.vllm.router import main\n"
        "threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "status = main(['--config', sys.argv[1]])\n"
        "print(*{name.partition('.')[0] for name, module in sys.modules.items() if module is not None})\n"
        "sys.exit(status)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(config)], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    owners = packages_distributions()
    found = {owner.lower() for name in ran.stdout.split() for owner in owners.get(name, [])} - {
        "vidur-router",
        "vidur",
        "setuptools",
    }
    assert {name.replace("_", "-") for name in found} == {name.lower() for name in listed.group(1).split()}
