"""Compute the cost of placements and the rewards of decisions, and report what a reward can tell apart."""
