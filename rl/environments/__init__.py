"""Environments for your own learners: plain, as a Gymnasium environment, or many simulations at once."""

from rl.environments.environment import RoutingEnvironment, SimulatorEnvironment

__all__ = ["RoutingEnvironment", "SimulatorEnvironment"]
