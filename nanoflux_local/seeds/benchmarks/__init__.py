"""The benchmarks, one module each; `base` describes what such a module contains."""
