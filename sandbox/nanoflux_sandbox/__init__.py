"""Runs untrusted Python programs in isolation, within milliseconds.

Covered: a program cannot read, write, list or look at any file, reach any network, start or signal
any process or thread, use more time, memory or output than its `Limits`, see another program, or change anything in
the caller but the text of its own output. The Linux kernel enforces it (namespaces, Landlock, seccomp, resource
limits), not an inspection of the code, so `ctypes` and raw system calls gain nothing. No root, daemon or container is
needed.

Not covered: kernel vulnerabilities in the roughly forty allowed system calls, side channels through timing or CPU
caches, and the caller's use of the text that a program prints. A program can read the versions and paths of the
libraries, and the time. Requires Linux 5.13 or later on x86_64 or aarch64; elsewhere every run is `unavailable`.

Uses only the standard library. Programs can import numpy, sympy and mpmath if these are installed; the caller's process
never imports them.
"""

from nanoflux_sandbox.pool import Sandbox
from nanoflux_sandbox.probe import probe
from nanoflux_sandbox.records import LayerReport, Limits, Result, SandboxError, SandboxIdentity

__all__ = ["LayerReport", "Limits", "Result", "Sandbox", "SandboxError", "SandboxIdentity", "probe"]
