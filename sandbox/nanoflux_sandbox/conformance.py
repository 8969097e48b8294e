"""The conformance suite that `sandbox check` runs on the user's machine: programs with their required outcomes.

Most of the programs attempt what the sandbox must prevent; the others are ordinary programs, whose output
must match exactly. Each program is a `Case`; `find_failures` runs all cases and describes those that failed.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from nanoflux_sandbox.pool import Sandbox
from nanoflux_sandbox.records import Limits, Result, Status

_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Case:
    """A program and its required outcome: status, exact output, and a pattern in the error output. The case is skipped
    if `required_library` is not installed.
    """

    name: str
    code: str
    status: Status = "ok"
    stdout: str | None = None
    stderr: str = ""
    limits: Limits = _DEFAULT_LIMITS
    required_library: str = ""

    def describe_failure(self, result: Result) -> str:
        """How `result` differs from the required outcome; "" if it does not differ."""
        if result.status != self.status:
            return f"{self.name}: status {result.status} instead of {self.status} ({result.detail})"
        if self.stdout is not None and result.stdout != self.stdout:
            return f"{self.name}: printed {result.stdout[:200]!r} instead of {self.stdout[:200]!r}"
        if not re.search(self.stderr, result.stderr):
            return f"{self.name}: the error output does not contain {self.stderr!r}"
        return ""


def _make_denied_case(name: str, attempt: str) -> Case:
    """A case in which the statement `attempt` must raise an error, which the program catches."""
    code = f"import os, sys\ntry:\n    {attempt}\nexcept (OSError, RuntimeError, ValueError):\n    print('denied')\n"
    return Case(f"denied: {name}", code, stdout="denied\n")


def _make_deadly_case(name: str, call: str) -> Case:
    """A case in which `call`, a call of a libc function, must kill the program."""
    return Case(f"deadly: {name}", f"import ctypes\nctypes.CDLL(None).{call}\nprint('went through')", "killed", "")


_SHORT_TIME = Limits(wall_s=0.5)
_LITTLE_MEMORY = Limits(wall_s=10.0, memory_mb=64)

ATTACKS = (
    _make_denied_case("read a file", "open('/etc/passwd').read()"),
    _make_denied_case("write a file", "open('/tmp/file', 'w')"),
    _make_denied_case("list a folder", "os.listdir('/')"),
    _make_denied_case("read a file's metadata", "os.stat('/etc')"),
    _make_denied_case("make a folder", "os.mkdir('/tmp/file')"),
    _make_denied_case("make a link", "os.symlink('/etc', 'file')"),
    _make_denied_case("reach the network", "import socket; socket.socket()"),
    _make_denied_case("fork", "os.fork()"),
    _make_denied_case("start a program", "import subprocess; subprocess.run(['/bin/true'])"),
    _make_denied_case("start a thread", "import threading; threading.Thread(target=print).start()"),
    _make_denied_case("signal a process", "os.kill(1, 0)"),
    _make_denied_case("copy a descriptor", "os.dup(1)"),
    _make_denied_case("write to a descriptor", "os.write(3, b'x')"),
    _make_denied_case("make a memory file", "os.memfd_create('file')"),
    _make_denied_case("raise a limit", "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))"),
    Case("deadly: exec", "import os\nos.execv('/bin/true', ['true'])", "killed", ""),
    _make_deadly_case("ptrace", "ptrace(0, 0, 0, 0)"),
    _make_deadly_case("unshare", "unshare(0x10000000)"),
    _make_deadly_case("mount", "mount(b'none', b'/', b'tmpfs', 0, None)"),
    Case("endless loop", "while True: pass", "timeout", "", limits=_SHORT_TIME),
    Case("endless sleep", "import time\ntime.sleep(99)", "timeout", "", limits=_SHORT_TIME),
    Case("endless C code", "9 ** 9 ** 9", "timeout", "", limits=_SHORT_TIME),
    Case("too much memory", "x = bytearray(1 << 30)", "memory", "", "MemoryError", _LITTLE_MEMORY),
    Case("too much output", "while True: print('x' * 100)", "output"),
    Case("control characters", "print('\\x1b[2J\\x07')", stdout="\\x1b[2J\\x07\n"),
)
"""Programs that try to escape or to exceed a limit, each with the outcome that the isolation must produce."""

ORDINARY = (
    Case(
        "arithmetic", "print(6 * 7, 2 ** 100, 1 / 3)", stdout="42 1267650600228229401496703205376 0.3333333333333333\n"
    ),
    Case("Unicode", "print('naïve Ω 日本 🙂')", stdout="naïve Ω 日本 🙂\n"),
    Case("exit code", "import sys\nprint('so far')\nsys.exit(3)", "error", "so far\n"),
    Case("traceback", "def f():\n    return 1 / 0\nf()", "error", "", r"line 2, in f\n[^Z]*ZeroDivisionError"),
    Case("syntax error", "x = = 1", "error", "", "SyntaxError: invalid syntax"),
    Case(
        "missing module", "import pandas", "error", "", "ModuleNotFoundError: No module named 'pandas' in the sandbox"
    ),
    Case("no input", "print(repr(__import__('sys').stdin.read()))", stdout="''\n"),
    Case("fixed hashes", "import sys\nprint(sys.flags.hash_randomization)", stdout="0\n"),
    Case(
        "numpy",
        "import numpy as np\nprint(np.linalg.solve(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([3.0, 5.0])))",
        stdout="[0.8 1.4]\n",
        required_library="numpy",
    ),
    Case(
        "sympy",
        "from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 2), integrate(x * exp(x), x))",
        stdout="[-sqrt(2), sqrt(2)] (x - 1)*exp(x)\n",
        required_library="sympy",
    ),
)
"""Ordinary programs, each with its exact output or with the error that it must report."""


async def find_failures(backend: str) -> tuple[list[str], int]:
    """Run on `backend` every case whose library is installed. Returns the failures, and how many cases ran."""
    async with Sandbox(backend=backend) as sandbox:
        identity = await sandbox.identity()
        available_libraries = {"", *identity.libraries}  # most cases require no library
        cases = [case for case in (*ATTACKS, *ORDINARY) if case.required_library in available_libraries]
        results = await asyncio.gather(*(sandbox.run(case.code, case.limits) for case in cases))
    descriptions = [case.describe_failure(result) for case, result in zip(cases, results, strict=True)]
    return [description for description in descriptions if description], len(cases)
