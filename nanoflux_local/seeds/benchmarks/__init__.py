"""Every benchmark, one module each: `base` says what such a module holds."""
