"""Clients of remote servers: requests, responses, retries and timeouts."""
