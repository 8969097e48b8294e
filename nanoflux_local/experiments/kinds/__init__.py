"""The kinds of experiments. Each is one module that says how its cells run and how its results read; see `base`."""
