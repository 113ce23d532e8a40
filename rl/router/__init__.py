"""The learned router: what it sees, how it scores replicas, and the file that keeps it.

`features` and `scores` run once for each decision: plain Python and NumPy, which the simulator also compiles. They
import neither numba nor torch: a router in front of real replicas uses them as they are. `compiled` makes them known
to Numba.
"""
