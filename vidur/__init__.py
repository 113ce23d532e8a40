"""A simulator of LLM serving clusters, with microsoft/vidur's behaviour and command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidur.compare.capacity import capacity
    from vidur.config import SimulationConfig
    from vidur.metrics.result import SimulationResult
    from vidur.simulator import Simulator, simulate, simulate_many

__version__ = "0.1.0"
__all__ = ["SimulationConfig", "SimulationResult", "Simulator", "capacity", "simulate", "simulate_many"]

_HOMES = {
    "SimulationConfig": "vidur.config",
    "SimulationResult": "vidur.metrics.result",
    "Simulator": "vidur.simulator",
    "capacity": "vidur.compare.capacity",
    "simulate": "vidur.simulator",
    "simulate_many": "vidur.simulator",
}


def __getattr__(name: str) -> Any:
    """Import the API on demand, so that a router in front of real replicas does not import numba."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vidur' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
