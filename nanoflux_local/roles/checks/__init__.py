"""The checks of a question and its solution, one module each. `base` defines what a check is."""
