"""What runs once for each decision: plain Python and NumPy, which the simulator also compiles.

`features` and `scores` import neither numba nor torch: a router in front of real replicas uses them as they are.
`compiled` makes them known to Numba, `rollout` runs them in the engine's loop.
"""
