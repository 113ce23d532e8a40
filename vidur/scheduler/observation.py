"""The old name of vidur.observation, kept for users' routers that import it."""

from vidur.observation import *  # noqa: F403
