"""Checkpoints of the learned router, kept as they were when a sweep began."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vidur.atomic import write_bytes
from vidur.learned import checkpoint_path


@dataclass(frozen=True)
class PolicyFile:
    """A checkpoint. path: of the copy to read, which nothing changes; digest: of its bytes."""

    path: str
    digest: str


def keep_policy(checkpoint: str | None, folder: Path) -> PolicyFile:
    """A copy, below `folder`, of what --ppo_global_scheduler_config_checkpoint names: training leaves it alone.

    Raises InputError where there is none that can be used."""
    data = checkpoint_path(checkpoint).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    copy = folder / "policies" / f"{digest[:16]}.safetensors"
    if not copy.is_file():
        write_bytes(copy, data)
    return PolicyFile(str(copy), digest)
