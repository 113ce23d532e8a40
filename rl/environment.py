"""The former name of rl.environments, kept for your scripts."""

from rl.environments import RoutingEnvironment, SimulatorEnvironment

__all__ = ["RoutingEnvironment", "SimulatorEnvironment"]
