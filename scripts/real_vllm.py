"""Run real vLLM on a CPU for tests and measurements: its environment with this project installed, and its processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "tiny"
KV_BLOCKS, BLOCK_SIZE = 256, 32
MAX_SEQUENCES, MAX_BATCHED_TOKENS = 64, 2048
STARTS_WITHIN = 240.0

# Flags of the replica; a test may add to them, and the last of repeated flags counts.
SERVE_FLAGS = (
    *("--served-model-name", MODEL, "--host", "127.0.0.1", "--load-format", "dummy", "--enforce-eager"),
    *("--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", str(MAX_SEQUENCES)),
    *("--max-num-batched-tokens", str(MAX_BATCHED_TOKENS), "--block-size", str(BLOCK_SIZE)),
    *("--num-gpu-blocks-override", str(KV_BLOCKS)),
)


class VllmMissing(Exception):
    """vLLM is not available here; the message says why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class VllmEnvironment:
    """vLLM's virtual environment, a folder with this project installed, and a folder with a tiny model."""

    venv: Path
    site: Path
    model: Path

    @staticmethod
    def prepare(folder: Path) -> VllmEnvironment:
        """Prepare vLLM's environment, creating it if missing, and the rest in `folder`. Raises VllmMissing."""
        made = subprocess.run(
            ["bash", str(ROOT / "scripts/vllm_environment.sh")],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise VllmMissing(f"scripts/vllm_environment.sh failed: {made.stderr.strip()[-500:]}")
        environment = VllmEnvironment(Path(made.stdout.strip()), folder / "site", folder / "model")
        environment._install(folder / "source")
        maker = [str(environment.python), str(ROOT / "scripts/make_tiny_model.py"), str(environment.model)]
        subprocess.run(maker, check=True)
        return environment

    @property
    def python(self) -> Path:
        return self.venv / "bin/python"

    @property
    def variables(self) -> dict[str, str]:
        """Return environment variables of a vLLM process: one thread, offline, this project on its path."""
        return os.environ | {
            "PYTHONPATH": str(self.site),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }

    def serve(
        self,
        port: int,
        log: Path,
        variables: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        core: int | None = None,
    ) -> Process:
        """Start `vllm serve`, on one core if given; wait for `Process.healthy`."""
        command = [str(self.venv / "bin/vllm"), "serve", str(self.model), "--port", str(port), *SERVE_FLAGS, *flags]
        if core is not None:
            command = ["taskset", "--cpu-list", str(core), *command]
        return Process.start(command, port, log, self.variables | dict(variables or {}))

    def bench(self, url: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run `vllm bench serve` against `url` to its end; `folder` gets bench.json."""
        command = [
            *(str(self.venv / "bin/vllm"), "bench", "serve", "--backend", "openai", "--base-url", url),
            *("--endpoint", "/v1/completions", "--model", MODEL, "--tokenizer", str(self.model), "--ignore-eos"),
            *("--dataset-name", "random", "--disable-tqdm", "--save-result", "--result-dir", str(folder)),
            *("--result-filename", "bench.json", *flags),
        ]
        return subprocess.run(command, env=self.variables, capture_output=True, text=True, timeout=300)

    def _install(self, source: Path) -> None:
        """Install this project without its dependencies, as a user of vLLM would."""
        for name in ("rl", "vidur", "data"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "setup.py", "README.md"):
            shutil.copy(ROOT / name, source)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        offline = ["--no-build-isolation", "--no-compile", "--target", str(self.site)]
        installed = subprocess.run([*pip, *offline, str(source)], capture_output=True, text=True)
        if installed.returncode:
            raise VllmMissing(f"this project cannot be installed beside vLLM: {installed.stderr.strip()[-500:]}")


@dataclass
class Process:
    """A server and its children, in their own process group."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    @staticmethod
    def start(command: Sequence[str], port: int, log: Path, variables: Mapping[str, str]) -> Process:
        with log.open("ab") as file:
            popen = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=dict(variables), start_new_session=True
            )
        return Process(popen, port, log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, timeout: float = 5.0) -> str:
        """Return the body of a GET request. Raises OSError."""
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            text: str = answer.read().decode()
        return text

    def healthy(self, path: str = "/health") -> Process:
        """Wait until the server answers. Raises RuntimeError with the end of its log if it does not."""
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline and self.popen.poll() is None:
            try:
                self.get(path)
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.2)
            else:
                return self
        self.stop()
        raise RuntimeError(f"{self.popen.args} did not come up:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill the whole process group at once."""
        self._signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self, within: float = 15.0) -> None:
        """Terminate the process group; kill what is left after `within` seconds."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(within)
        self._signal(signal.SIGKILL)
        self.popen.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)


def start_router(log: Path, replicas: Iterable[tuple[str, Process]], *flags: str) -> Process:
    """Start the router in front of named replicas; wait for `healthy`."""
    port = free_port()
    command = [sys.executable, "-m", "rl.vllm.router", "--port", str(port), *flags]
    for name, replica in replicas:
        command += ["--replica", f"url={replica.url},name={name}"]
    return Process.start(command, port, log, os.environ | {"PYTHONPATH": str(ROOT)})
