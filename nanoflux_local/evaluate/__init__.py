"""Evaluation: score replies and compare models with paired statistics (paper §4, A.1)."""
