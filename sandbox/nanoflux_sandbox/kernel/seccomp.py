"""The system call filter, as hand-written BPF: about forty calls are allowed, all others are refused.

This layer is sufficient by itself: a filtered program can open nothing, can create no process, thread or socket, and
can write only to its two pipes. Architectures without a table in `syscalls` are refused.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

from nanoflux_sandbox.kernel import libc, syscalls

_MODE_FILTER = 2
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
"""Return values of a filter; an error number is added to `_ERRNO`."""
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
"""Operation codes of BPF."""
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
"""Offsets in the kernel's `struct seccomp_data`, in bytes."""
_X32_NUMBERS = 0x40000000
"""The first system call number of the x32 ABI, which has the same architecture id as x86_64."""


class ArgumentCondition(NamedTuple):
    """A condition for a call: the low 32 bits of its argument number `argument` (counted from 0), masked with `mask`,
    are one of `values`.
    """

    argument: int
    mask: int
    values: tuple[int, ...]


_WORD = 0xFFFFFFFF
"""The mask that keeps all 32 bits."""
_NOT_EXECUTABLE = ArgumentCondition(2, 4, (0,))  # PROT_EXEC: no new machine code
_NO_HUGE_PAGES = ArgumentCondition(3, 0x40000, (0,))  # MAP_HUGETLB: the memory limit does not count these pages

CONDITIONS: dict[str, tuple[ArgumentCondition, ...]] = {
    "read": (ArgumentCondition(0, _WORD, (0,)),),
    "write": (ArgumentCondition(0, _WORD, (1, 2)),),
    "mmap": (_NOT_EXECUTABLE, _NO_HUGE_PAGES),
    "mprotect": (_NOT_EXECUTABLE,),
    "madvise": (ArgumentCondition(2, _WORD, (4, 8, 14, 15)),),  # DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE
    "futex": (ArgumentCondition(1, 0x7F, (0, 1, 9, 10)),),  # WAIT and WAKE, plain and with a bitset
}
"""The conditions for each call in `syscalls.CONDITIONAL`; a call must meet all of its conditions."""
EXPECTED_ERRORS = {"clone3": errno.ENOSYS, "ioctl": errno.ENOTTY}
"""The error that libc handles for each call in `syscalls.EXPECTED_ERROR`."""


class _Instruction(NamedTuple):
    """A BPF instruction; `if_true` and `if_false` are the numbers of instructions that a comparison then skips."""

    code: int
    if_true: int
    if_false: int
    value: int


def _return_value(value: int) -> _Instruction:
    return _Instruction(_RETURN, 0, 0, value)


def _return_error(error_number: int = errno.EPERM) -> _Instruction:
    return _return_value(_ERRNO | error_number)


def _compile_case(number: int, body: list[_Instruction]) -> list[_Instruction]:
    """Instructions that execute `body` if the loaded value equals `number`, and otherwise skip it."""
    return [_Instruction(_IF_EQUAL, 0, len(body), number), *body]


def _compile_conditions(conditions: tuple[ArgumentCondition, ...]) -> Iterator[_Instruction]:
    """Instructions that allow a call if its arguments meet all `conditions`, and otherwise refuse it."""
    for argument, mask, values in conditions:
        yield _Instruction(_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * argument)
        yield _Instruction(_AND, 0, 0, mask)
        for position, value in enumerate(values):
            instructions_to_skip = len(values) - position  # the remaining comparisons and the error
            yield _Instruction(_IF_EQUAL, instructions_to_skip, 0, value)
        yield _return_error()
    yield _return_value(_ALLOW)


def _build_instructions(machine: str) -> Iterator[_Instruction]:
    """The filter: checks of the calling convention, then a case for each call of the tables, then the refusal."""
    yield _Instruction(_LOAD, 0, 0, _ARCHITECTURE_OFFSET)
    yield _Instruction(_IF_EQUAL, 1, 0, syscalls.ARCHITECTURES[machine])
    yield _return_value(_KILL)
    yield _Instruction(_LOAD, 0, 0, _NUMBER_OFFSET)
    if machine == "x86_64":
        yield _Instruction(_IF_AT_LEAST, 0, 1, _X32_NUMBERS)
        yield _return_value(_KILL)
    for name, numbers in syscalls.CONDITIONAL.items():
        yield from _compile_case(_find_number(numbers, machine), list(_compile_conditions(CONDITIONS[name])))
    for action, table in ((_ALLOW, syscalls.ALLOWED), (_KILL, syscalls.DEADLY)):
        for entry in table.values():
            number = syscalls.select_number(entry, machine)
            if number is not None:
                yield from _compile_case(number, [_return_value(action)])
    for name, numbers in syscalls.EXPECTED_ERROR.items():
        yield from _compile_case(_find_number(numbers, machine), [_return_error(EXPECTED_ERRORS[name])])
    yield _return_error()


def _find_number(numbers: tuple[int, int], machine: str) -> int:
    """The number of a call that exists on both architectures."""
    number = syscalls.select_number(numbers, machine)
    assert number is not None
    return number


def compile_filter(machine: str = "") -> bytes:
    """The filter for `machine` (by default, this machine) as BPF. Raises OSError on an architecture without tables."""
    machine = machine or platform.machine()
    if machine not in syscalls.ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call table for {machine!r} machines")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _build_instructions(machine))


class Filter:
    """The compiled filter, stored in memory once, so that a child can apply it with a single call."""

    def __init__(self, program: bytes) -> None:
        self._program = ctypes.create_string_buffer(program, len(program))
        address = ctypes.addressof(self._program)
        instruction_count = len(program) // 8
        self._header = ctypes.create_string_buffer(struct.pack("@HP", instruction_count, address))  # struct sock_fprog

    def apply(self) -> None:
        """Filter this process irrevocably. Needs no_new_privs. Raises OSError if the kernel refuses."""
        libc.prctl(libc.PR_SET_SECCOMP, _MODE_FILTER, self._header)
