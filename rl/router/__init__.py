"""The learned router: its features, its scores of replicas, and its checkpoints.

`features` and `scores` run once for each decision. They import neither numba nor torch, so that a router in front of
real replicas uses them as plain Python and NumPy; `compiled` registers them with Numba for the simulator.
"""
