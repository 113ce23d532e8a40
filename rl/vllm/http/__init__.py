"""HTTP/1.1 from clients and to replicas: connections that keep within limits, and the tokens in what streams by."""
