"""Evaluate the learned router against every heuristic, check targets, and report the results."""
