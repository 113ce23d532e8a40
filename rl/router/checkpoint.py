"""A policy in one file: safetensors, with what it needs to be used rightly as metadata.

Tensors `policy.*` are the weights for inference on raw features (rl.router.policy): the normaliser, `normaliser.*`, is
folded into them.
`train.*` are what training resumes from: rl.train.trainer writes and reads these.
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
# As of --ppo_global_scheduler_config_max_queue_requests.
_MOST_QUEUE_REQUESTS = 64
_POLICY, _NORMALISER, _TRAIN = "policy.", "normaliser.", "train."

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """weights: for raw features. max_queue_requests: of the encoder. facts: JSON values on how it was made (seeds,
    configuration, versions, whether it saw what no router can know). training: arrays to resume from, or empty.
    normaliser: the statistics that are folded into the weights, which training needs to go on."""

    weights: PolicyWeights
    max_queue_requests: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    training: Arrays = field(default_factory=dict)
    normaliser: Normaliser | None = None

    @property
    def beta_range(self) -> tuple[float, float] | None:
        """The betas of its training: as it says, or as the shipped suite that it names; None where neither is known."""
        beta = self.facts.get("beta_range")
        suite = data_path("training") / f"{self.facts.get('training', {}).get('suite')}.yaml"
        if beta is None and suite.is_file():
            beta = load_document(suite)["beta"]
        return None if beta is None else (float(beta[0]), float(beta[1]))

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all."""
        arrays = {_POLICY + f.name: np.ascontiguousarray(getattr(self.weights, f.name)) for f in fields(PolicyWeights)}
        if self.normaliser is not None:
            arrays |= {_NORMALISER + name: array for name, array in vars(self.normaliser).items()}
        # ascontiguousarray would make a vector of a number.
        arrays |= {_TRAIN + name: np.array(array, order="C") for name, array in self.training.items()}
        description = {
            "max_queue_requests": self.max_queue_requests,
            "spec": EncoderSpec.of(self.max_queue_requests).names(),
            "facts": self.facts,
        }
        # One entry, because the order of several is not the same in every process.
        write_bytes(path, save(arrays, {FORMAT: json.dumps(description, sort_keys=True)}))

    @classmethod
    def load(cls, path: str | Path, training: bool = False) -> Checkpoint:
        """Read a checkpoint, with what training resumes from if asked.

        Raises InputError, in one line, for a file that is missing, damaged, from elsewhere, or of another encoder.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if FORMAT not in metadata:
                    raise InputError(f"{path} is a safetensors file, but no checkpoint of this router ({FORMAT})")
                names = list(file.keys())
                arrays = {name: file.get_tensor(name) for name in names if training or not name.startswith(_TRAIN)}
        except FileNotFoundError:
            raise InputError(f"checkpoint {path}: no such file; python -m rl.train makes one") from None
        # The last two: a type of numbers that NumPy does not have, as BF16.
        except (SafetensorError, OSError, TypeError, AttributeError) as error:
            raise InputError(
                f"checkpoint {path} cannot be read, it is damaged or no safetensors file: {error}"
            ) from None
        depth, facts = _described(metadata[FORMAT], path)
        weights = _weights(arrays, path)
        spec = EncoderSpec.of(depth)
        found = len(weights.replica) + len(weights.products), len(weights.context)
        if found != (len(spec.replica), len(spec.context)):
            raise InputError(f"checkpoint {path}: its weights do not fit its own encoder spec: it is damaged")
        if not all(np.isfinite(getattr(weights, f.name)).all() for f in fields(PolicyWeights)):
            raise InputError(f"checkpoint {path}: its weights are not finite: take an earlier one")
        kept = {name.removeprefix(_TRAIN): array for name, array in arrays.items() if name.startswith(_TRAIN)}
        return cls(weights, depth, facts, kept, _statistics(arrays, weights, path))


def _described(description: str, path: str | Path) -> tuple[int, dict[str, Any]]:
    """max_queue_requests and facts of the metadata, after a look at the encoder's spec."""
    damaged = InputError(f"checkpoint {path}: its metadata is damaged: take another copy")
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
        raise InputError(f"checkpoint {path} was trained with another encoder: {difference}; train anew (rl.train)")
    return depth, facts


def _weights(arrays: Arrays, path: str | Path) -> PolicyWeights:
    try:
        return PolicyWeights(**{f.name: arrays[_POLICY + f.name].astype(np.float64) for f in fields(PolicyWeights)})
    except (KeyError, ValueError) as error:
        raise InputError(f"checkpoint {path}: its weights are incomplete: {error}") from None


def _statistics(arrays: Arrays, weights: PolicyWeights, path: str | Path) -> Normaliser | None:
    found = {name.removeprefix(_NORMALISER): array for name, array in arrays.items() if name.startswith(_NORMALISER)}
    if not found:
        return None
    features, context = len(weights.replica), len(weights.context)
    expected = dict.fromkeys(("replica_mean", "replica_std"), features)
    expected |= dict.fromkeys(("context_mean", "context_std"), context)
    if {name: array.shape for name, array in found.items()} != {name: (size,) for name, size in expected.items()}:
        raise InputError(f"checkpoint {path}: the statistics of its features do not fit its weights: it is damaged")
    if not all(np.isfinite(array).all() for array in found.values()):
        raise InputError(f"checkpoint {path}: the statistics of its features are not finite: take an earlier one")
    return Normaliser(**found)


def policy_path(name: str | None) -> Path:
    """The file of a checkpoint: the shipped one for None, a name in data/policies, or a path."""
    wanted = SHIPPED if name is None else name
    if "/" in wanted or wanted.endswith(".safetensors"):
        return Path(wanted)
    path = data_path("policies") / f"{wanted}.safetensors"
    if not path.is_file():
        shipped = sorted(file.stem for file in data_path("policies").glob("*.safetensors"))
        raise InputError(f"no policy '{wanted}' is shipped: give a file, or one of {', '.join(shipped) or '(none)'}")
    return path


def check_queue_requests(checkpoint: Checkpoint, asked: int | None, path: str | Path) -> None:
    """Raise InputError if the cluster's configuration asks for another queue depth than the checkpoint's."""
    if asked is not None and asked != checkpoint.max_queue_requests:
        raise InputError(
            f"checkpoint {path} sees {checkpoint.max_queue_requests} waiting requests of each replica, "
            f"--ppo_global_scheduler_config_max_queue_requests asks for {asked}: leave the flag out, or train anew"
        )
