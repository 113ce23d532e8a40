"""Train policies: suites of episodes, a warm start, a search of weights, PPO, and the log of a run."""
