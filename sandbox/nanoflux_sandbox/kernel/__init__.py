"""What the Linux kernel is asked to enforce, one file for each layer; standard library and libc only.

Imported in the warm process, never in the caller's. Nothing here decides policy beyond "deny": a layer is put on
whole, or an OSError says why it could not be.
"""
