"""The self-test that every fork server must pass before it runs a program: two programs that make forbidden system
calls, and a calculation.

Each layer reports an error if it cannot be applied. This test verifies the result from inside a child process.
"""

from __future__ import annotations

import secrets

from nanoflux_sandbox.fork_server_handle import ForkServerError, ForkServerHandle, StartTimeoutError
from nanoflux_sandbox.records import Limits, Result
from nanoflux_sandbox.waiting_child import WaitingChild

_LIMITS = Limits(wall_s=10.0)

_FORBIDDEN_CALLS_PROGRAM = """
import ctypes, errno, os, socket

def start_child():
    if os.fork() == 0:
        os._exit(0)

attempts = {
    "open a folder": lambda: os.open("/", os.O_RDONLY),
    "read a file's metadata": lambda: os.stat("/"),
    "create a file": lambda: os.open("held", os.O_CREAT | os.O_RDWR),
    "make a socket": lambda: socket.socket(socket.AF_INET),
    "make a pair of sockets": lambda: socket.socketpair(),
    "start a process": start_child,
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "write elsewhere": lambda: os.write(0, b"x"),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print("could", name)
    except OSError as error:
        if error.errno != errno.EPERM:
            print("was not stopped by the filter to", name, error)
memory = ctypes.CDLL(None).mmap
memory.restype = ctypes.c_void_p
if memory(None, 4096, 7, 0x22, -1, 0) not in (None, ctypes.c_void_p(-1).value):
    print("could make new machine code")
print(TOKEN, 6 * 7)
"""
"""Prints a line for each forbidden call that the filter does not refuse, then the token and 42."""

_DEADLY_CALL_PROGRAM = """
import ctypes
ctypes.CDLL(None).ptrace(0, 0, 0, 0)
print("could trace")
"""
"""Makes a system call that must kill the program."""


async def verify(fork_server: ForkServerHandle, backend: str) -> None:
    """Attack from inside a child of `fork_server`. Raises ForkServerError, which names the attack, if an attack
    succeeds, and StartTimeoutError if the test takes too long.
    """
    token = secrets.token_hex(8)
    forbidden_result = await _run(fork_server, _FORBIDDEN_CALLS_PROGRAM.replace("TOKEN", repr(token)), backend)
    _refuse_timeout(forbidden_result)
    if (forbidden_result.status, forbidden_result.stdout) != ("ok", f"{token} 42\n"):
        output = forbidden_result.stdout or forbidden_result.stderr or forbidden_result.detail
        raise ForkServerError(f"the self-test failed: {forbidden_result.status}, {output}")
    deadly_result = await _run(fork_server, _DEADLY_CALL_PROGRAM, backend)
    _refuse_timeout(deadly_result)
    if deadly_result.status != "killed" or deadly_result.stdout:
        raise ForkServerError(f"the self-test failed: a deadly system call ended as {deadly_result.status}")


def _refuse_timeout(result: Result) -> None:
    """Raise StartTimeoutError if a program of the self-test reached its time limit."""
    if result.status == "timeout":
        raise StartTimeoutError(f"a program of the self-test took longer than {_LIMITS.wall_s:g} s")


async def _run(fork_server: ForkServerHandle, source: str, backend: str) -> Result:
    """Run a program in a new child of `fork_server`."""
    child = WaitingChild(fork_server)
    try:
        await child.ready()
        return await child.run(source.encode(), _LIMITS, backend)
    finally:
        child.drop()
