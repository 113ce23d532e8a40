"""Comparison sweeps: which router, on which cluster, at which load, and how sure is it (docs/compare.md)."""
