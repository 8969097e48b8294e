"""Servers that somebody else runs: what they are sent, what they answer, and how long they are waited for."""
