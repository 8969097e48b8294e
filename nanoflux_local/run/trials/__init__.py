"""The judge's trial: every run has its judge judge solutions known to be right or wrong, to measure its error rates."""
