"""Decisions: what is known of real replicas, the scheduler that chooses one, and the log of decisions. No network."""
