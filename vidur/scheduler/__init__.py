"""Routers choose a replica for each request; batchers choose the requests of each batch."""
