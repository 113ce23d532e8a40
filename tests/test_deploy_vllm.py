"""docs/deploy-vllm.md and its manifest say what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rl.vllm.config import parse_router
from rl.vllm.router import CLASSES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/deploy-vllm.md").read_text(encoding="utf-8")
MANIFEST = ROOT / "docs/examples/kubernetes.yaml"


def documents() -> dict[tuple[str, str], Any]:
    found = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


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
    pod = manifest["Deployment", "vidur-router"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > serve.grace
    assert len(manifest["Secret", "vidur-router-admin"]["stringData"]["token"]) >= 16
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
