"""The checks of a question and its solution. Each is one module that says everything about itself; see `base`."""
