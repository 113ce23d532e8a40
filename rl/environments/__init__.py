"""Routing decisions one by one, for learners of your own: plain, as a Gymnasium environment, or many at once."""

from rl.environments.environment import RoutingEnvironment, SimulatorEnvironment

__all__ = ["RoutingEnvironment", "SimulatorEnvironment"]
