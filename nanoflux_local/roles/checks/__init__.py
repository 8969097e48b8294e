"""The checks of a question and its solution: one module for each; `base` says what a check is."""
