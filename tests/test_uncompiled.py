"""The same source, compiled and as plain Python, gives the same bits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import Cluster, request_table

PROGRAM = """
import sys
from test_uncompiled import digest
print(digest(sys.argv[1], *map(int, sys.argv[2:])))
"""


def digest(policy: str, stages: int, routers: int) -> str:
    """A hash of everything a small, memory-starved simulation with a failure records."""
    block_size = 1 if policy == "lightllm" else 16
    cluster = Cluster(
        policy=policy,
        stages=stages,
        num_blocks=24 * 16 // block_size,
        block_size=block_size,
        router="power_of_two",
        routers=routers,
        gauge_interval=0.05,
        events=((0.3, 1, 0, 2.0), (0.5, 1, 1, 1.0), (0.7, 1, 2, 1.0)),
    )
    count = 40
    requests = request_table(
        [0.02 * i for i in range(count)],
        [5 + 37 * i % 90 for i in range(count)],
        [3 + 53 * i % 120 for i in range(count)],
    )
    _, recording = cluster.run(requests)
    hashed = hashlib.sha256()
    for columns in (recording.requests, recording.batches, recording.replicas):
        for name in sorted(columns):
            hashed.update(name.encode() + columns[name].tobytes())
    return hashed.hexdigest()


@pytest.mark.parametrize(
    ("policy", "stages", "routers"),
    [("sarathi", 1, 1), ("sarathi", 2, 1), ("vllm", 1, 1), ("vllm_v1", 1, 3), ("vllm_v1", 2, 1), ("orca", 1, 1),
     ("faster_transformer", 2, 2), ("lightllm", 1, 1)],
)  # fmt: skip
def test_uncompiled_gives_the_same_bits(policy: str, stages: int, routers: int) -> None:
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    root = Path(__file__).resolve().parent
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root.parent)])
    command = [sys.executable, "-c", PROGRAM, policy, str(stages), str(routers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(policy, stages, routers)
