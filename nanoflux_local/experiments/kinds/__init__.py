"""The kinds of experiments. Each module runs the cells of one kind and reports their results; see `base`."""
