"""Runs untrusted Python where it can harm nothing, in milliseconds.

Covered: a program started here cannot read, write, list or look at any file, reach any network, start or signal
any process or thread, use more time, memory or output than its `Limits`, see another program, or change anything in
the caller but the text of its own output. The Linux kernel enforces it (namespaces, Landlock, seccomp, resource
limits), not inspection of the code, so `ctypes` and raw system calls gain nothing. No root, daemon or container is
needed.

Not covered: flaws of the kernel itself in the about forty system calls that remain, what a program learns from timing
or from the processor's caches, and what the caller does with the text that a program prints. A program knows the
versions and paths of the libraries, and the time. Only Linux 5.13 and later, on x86_64 and aarch64; anywhere else
every run is `unavailable`.

Standard library only. numpy, sympy and mpmath can be imported by programs where they are installed, but are never
imported in the caller's process.
"""

from nanoflux_sandbox.pool import Sandbox
from nanoflux_sandbox.probe import probe
from nanoflux_sandbox.records import Identity, Limits, Report, Result, SandboxError

__all__ = ["Identity", "Limits", "Report", "Result", "Sandbox", "SandboxError", "probe"]
