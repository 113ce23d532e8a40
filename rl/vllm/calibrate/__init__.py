"""Calibrate the simulator's execution times from the logged steps of a real engine."""
