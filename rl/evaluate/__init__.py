"""Evaluation: the learned router beside every heuristic, what it must reach, and the pages that say so."""
