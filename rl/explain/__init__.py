"""Explain a policy: which inputs matter, and how its choices differ from other schedulers'."""
