"""Which replica takes a request, and which requests a replica batches."""
