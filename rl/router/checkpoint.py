"""A checkpoint keeps a policy in one safetensors file, with its encoder's spec as metadata.

Tensors `policy.*` are the weights for inference on raw features (rl.router.policy), into which the normaliser,
`normaliser.*`, is folded. rl.train.trainer writes and reads `train.*`, from which training resumes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rl.router.encoder import EncoderSpec, spec_difference
from rl.router.policy import Normaliser, PolicyWeights
from vidur.atomic import write_bytes
from vidur.data_files import data_path
from vidur.documents import load_document
from vidur.errors import InputError

FORMAT = "vidur-policy-1"
SHIPPED = "default"
# The maximum of --ppo_global_scheduler_config_max_queue_requests.
_MOST_QUEUE_REQUESTS = 64
_POLICY, _NORMALISER, _TRAIN = "policy.", "normaliser.", "train."

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A policy and how it was made.

    weights: for raw features. max_queue_requests: the encoder's. facts: JSON values (seeds, configuration, versions,
    whether training used privileged information). training: arrays to resume from, or empty. normaliser: the
    statistics that are folded into the weights; training unfolds them.
    """

    weights: PolicyWeights
    max_queue_requests: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    training: Arrays = field(default_factory=dict)
    normaliser: Normaliser | None = None

    @property
    def beta_range(self) -> tuple[float, float] | None:
        """The range of beta in training, from the facts or from the shipped suite that they name; None if unknown."""
        beta = self.facts.get("beta_range")
        suite = data_path("training") / f"{self.facts.get('training', {}).get('suite')}.yaml"
        if beta is None and suite.is_file():
            beta = load_document(suite)["beta"]
        return None if beta is None else (float(beta[0]), float(beta[1]))

    def save(self, path: str | Path) -> None:
        """Write the file atomically."""
        arrays = {_POLICY + f.name: np.ascontiguousarray(getattr(self.weights, f.name)) for f in fields(PolicyWeights)}
        if self.normaliser is not None:
            arrays |= {_NORMALISER + name: array for name, array in vars(self.normaliser).items()}
        # ascontiguousarray would turn a scalar into a vector.
        arrays |= {_TRAIN + name: np.array(array, order="C") for name, array in self.training.items()}
        description = {
            "max_queue_requests": self.max_queue_requests,
            "spec": EncoderSpec.of(self.max_queue_requests).names(),
            "facts": self.facts,
        }
        # A single entry: safetensors writes several in an order that varies between processes.
        write_bytes(path, save(arrays, {FORMAT: json.dumps(description, sort_keys=True)}))

    @classmethod
    def load(cls, path: str | Path, training: bool = False) -> Checkpoint:
        """Read a checkpoint; `training` reads the arrays to resume from as well.

        Raises InputError for a file that is missing, damaged, no checkpoint, or made for another encoder.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if FORMAT not in metadata:
                    raise InputError(f"{path} is a safetensors file, but not a checkpoint of this router ({FORMAT})")
                names = list(file.keys())
                arrays = {name: file.get_tensor(name) for name in names if training or not name.startswith(_TRAIN)}
        except FileNotFoundError:
            raise InputError(f"checkpoint {path}: no such file; python -m rl.train makes one") from None
        # TypeError and AttributeError come from number types that NumPy lacks, such as BF16.
        except (SafetensorError, OSError, TypeError, AttributeError) as error:
            raise InputError(
                f"checkpoint {path} cannot be read: it is damaged, or not a safetensors file: {error}"
            ) from None
        depth, facts = _read_description(metadata[FORMAT], path)
        weights = _weights(arrays, path)
        spec = EncoderSpec.of(depth)
        sizes = len(weights.replica) + len(weights.products), len(weights.context)
        if sizes != (len(spec.replica), len(spec.context)):
            raise InputError(f"checkpoint {path} is damaged: its weights do not fit its own encoder spec")
        if not all(np.isfinite(getattr(weights, f.name)).all() for f in fields(PolicyWeights)):
            raise InputError(f"checkpoint {path} has weights that are not finite: use an earlier one")
        return cls(weights, depth, facts, _group(arrays, _TRAIN), _normaliser(arrays, weights, path))


def _group(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _read_description(description: str, path: str | Path) -> tuple[int, dict[str, Any]]:
    """Return max_queue_requests and the facts. Raises InputError if the encoder's spec is not this version's."""
    damaged = InputError(f"checkpoint {path} has damaged metadata: use another copy")
    try:
        parts = json.loads(description)
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(parts, dict):
        raise damaged
    depth, theirs, facts = (parts.get(key) for key in ("max_queue_requests", "spec", "facts"))
    if not isinstance(depth, int) or not 0 <= depth <= _MOST_QUEUE_REQUESTS or not isinstance(facts, dict):
        raise damaged
    if not isinstance(theirs, dict) or not all(isinstance(theirs.get(kind), list) for kind in ("replica", "context")):
        raise damaged
    difference = spec_difference(EncoderSpec.of(depth).names(), theirs)
    if difference:
        raise InputError(f"checkpoint {path} was trained with another encoder: {difference}; retrain it (rl.train)")
    return depth, facts


def _weights(arrays: Arrays, path: str | Path) -> PolicyWeights:
    try:
        return PolicyWeights(**{f.name: arrays[_POLICY + f.name].astype(np.float64) for f in fields(PolicyWeights)})
    except (KeyError, ValueError) as error:
        raise InputError(f"checkpoint {path} lacks weights: {error}") from None


def _normaliser(arrays: Arrays, weights: PolicyWeights, path: str | Path) -> Normaliser | None:
    statistics = _group(arrays, _NORMALISER)
    if not statistics:
        return None
    features, context = len(weights.replica), len(weights.context)
    expected = dict.fromkeys(("replica_mean", "replica_std"), features)
    expected |= dict.fromkeys(("context_mean", "context_std"), context)
    if {name: array.shape for name, array in statistics.items()} != {name: (size,) for name, size in expected.items()}:
        raise InputError(f"checkpoint {path} is damaged: its feature statistics do not fit its weights")
    if not all(np.isfinite(array).all() for array in statistics.values()):
        raise InputError(f"checkpoint {path} has feature statistics that are not finite: use an earlier one")
    return Normaliser(**statistics)


def policy_path(name: str | None) -> Path:
    """Return the file of a checkpoint given as a path or as a name in data/policies; None means the default one."""
    name = SHIPPED if name is None else name
    if "/" in name or name.endswith(".safetensors"):
        return Path(name)
    path = data_path("policies") / f"{name}.safetensors"
    if not path.is_file():
        shipped = sorted(file.stem for file in data_path("policies").glob("*.safetensors"))
        raise InputError(f"no policy '{name}' is shipped: give a file, or one of {', '.join(shipped) or '(none)'}")
    return path


def check_queue_requests(checkpoint: Checkpoint, configured: int | None, path: str | Path) -> None:
    """Raise InputError if the configured queue depth differs from the checkpoint's."""
    if configured is not None and configured != checkpoint.max_queue_requests:
        raise InputError(
            f"checkpoint {path} observes {checkpoint.max_queue_requests} waiting requests per replica, but "
            f"--ppo_global_scheduler_config_max_queue_requests is {configured}: drop the flag, or retrain"
        )
