"""Evaluation: replies scored strictly, and the statistics that say what a difference is worth (paper §4, A.1)."""
