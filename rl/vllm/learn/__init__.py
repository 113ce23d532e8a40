"""Improve a policy off-line from decision logs."""
