"""Training: the episodes that a policy learns from, the search and PPO that change it, and what a run records."""
