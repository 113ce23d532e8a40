"""Speak HTTP/1.1 with clients and replicas, within limits, and count the tokens in what streams by."""
