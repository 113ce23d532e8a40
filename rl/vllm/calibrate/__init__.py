"""Calibration: execution times for the simulator from the steps that a real engine has logged."""
