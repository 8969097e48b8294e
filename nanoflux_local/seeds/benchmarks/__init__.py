"""The benchmarks, one module each. `base` defines what such a module contains."""
