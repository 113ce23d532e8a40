"""The former name of rl.environments.vector, kept for your scripts."""

from rl.environments.vector import RoutingVectorEnv

__all__ = ["RoutingVectorEnv"]
