"""Decide on a replica for each request, from the ledger and gauges, and log the decisions; without network access."""
