"""Experiments: the paper's tables and ablations as declared grids over the ledger, with the controls that it lacks."""
