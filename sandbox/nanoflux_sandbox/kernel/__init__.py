"""The layers that the Linux kernel enforces, one module for each, with only the standard library and libc.

The modules are imported in the warm process, never in the caller. Each layer is applied completely, or an OSError says
why that is not possible.
"""
