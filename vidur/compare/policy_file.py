"""Keep copies of the learned router's checkpoints as they were when a sweep began."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vidur.atomic import write_bytes
from vidur.learned import checkpoint_path


@dataclass(frozen=True)
class PolicyFile:
    """A kept checkpoint. path: of the unchanging copy. digest: SHA-256 of its bytes."""

    path: str
    digest: str


def keep_policy(checkpoint: str | None, folder: Path) -> PolicyFile:
    """Copy a checkpoint into `folder`, where later training cannot change it. Raises InputError if it is unusable.

    checkpoint: as for --ppo_global_scheduler_config_checkpoint."""
    data = checkpoint_path(checkpoint).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    copy = folder / "policies" / f"{digest[:16]}.safetensors"
    if not copy.is_file():
        write_bytes(copy, data)
    return PolicyFile(str(copy), digest)
