"""Runs untrusted Python programs in isolation, within milliseconds.

What the sandbox guarantees: a program cannot read, write, list or inspect any file, reach any network, start or signal
any process or thread, exceed the time, memory or output of its `Limits`, or see another program. The only effect that
a program can have on its caller is the text that it prints. The Linux kernel enforces this (with namespaces, Landlock,
seccomp and resource limits). The code is not inspected, so `ctypes` and raw system calls do not help a program to
escape. The sandbox needs no root privileges, daemon or container.

What the sandbox does not guarantee: protection from kernel vulnerabilities in the roughly forty allowed system calls,
from side channels through timing or CPU caches, and from careless use of the text that a program prints. A program can
read the time, and the versions and paths of the libraries.

The sandbox requires Linux 5.13 or later on x86_64 or aarch64; elsewhere the status of every run is `unavailable`.

The sandbox itself uses only the standard library. Programs can import numpy, sympy and mpmath if these are installed;
the caller's process does not import them.
"""

from nanoflux_sandbox.pool import Sandbox
from nanoflux_sandbox.probe import probe
from nanoflux_sandbox.records import LayerReport, Limits, Result, SandboxError, SandboxIdentity

__all__ = ["LayerReport", "Limits", "Result", "Sandbox", "SandboxError", "SandboxIdentity", "probe"]
