"""The former name of rl.environments.gym, kept for your scripts."""

from rl.environments.gym import ENVIRONMENT_ID, RoutingEnv

__all__ = ["ENVIRONMENT_ID", "RoutingEnv"]
