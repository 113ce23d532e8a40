"""A measured workload beside its simulation: what a real server did, and what the simulator makes of it."""
