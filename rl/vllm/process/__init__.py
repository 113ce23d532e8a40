"""The router as a process: the way of a request, the replicas, limits, and the pages of operation."""
