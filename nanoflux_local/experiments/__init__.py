"""Experiments: the paper's tables and ablations as declared grids, with controls that the paper does not have."""
