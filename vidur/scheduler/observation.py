"""The former place of vidur.observation, for routers of users that import it."""

from vidur.observation import *  # noqa: F403
