"""The layers that the Linux kernel enforces, one module for each, with only the standard library and libc.

The modules are imported in the fork server, never in the caller. A layer is applied completely, or raises an OSError
with the reason.
"""
