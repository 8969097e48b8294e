"""The layers that the Linux kernel enforces, one file for each; standard library and libc only.

Imported in the warm process, never in the caller's. Each layer is applied completely, or an OSError says why it could
not be.
"""
