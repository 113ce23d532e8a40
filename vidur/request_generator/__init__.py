"""Generate the requests of a configuration: arrivals and lengths as one RequestTable."""

from vidur.request_generator.request_generator import generate_requests
from vidur.request_generator.request_table import RequestTable

__all__ = ["RequestTable", "generate_requests"]
