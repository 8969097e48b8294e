"""Evaluates models on benchmarks: scores replies, and compares models with paired statistics (paper §4, A.1)."""
