"""Measure a workload on a real server, and compare it with its simulation."""
