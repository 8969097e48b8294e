"""Runs one program as a script: as `__main__`, with tracebacks of uncaught exceptions and an exit code.

This code runs inside the child process, in the program's own interpreter. It protects nothing: a program that tampers
with it affects only its own result.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import linecache
import sys
import traceback
from types import ModuleType

NAME = "program.py"
"""The file name of every program in tracebacks."""


def run(source: str) -> int:
    """Run `source` as `__main__` to its end, including exit functions and finalizers. Returns the exit code."""
    linecache.cache[NAME] = (len(source), None, [f"{line}\n" for line in source.split("\n")], NAME)
    exit_code = _run_source(source)
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    sys.modules.pop("__main__", None)
    gc.collect()  # finalizes leftover objects while their globals are intact, as at a normal exit
    if not _flush_streams() and exit_code == 0:
        return 1
    return exit_code


def _run_source(source: str) -> int:
    """Execute `source` as the module `__main__`. Returns the exit code."""
    main = ModuleType("__main__")
    main.__dict__.update(__file__=NAME, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    try:
        exec(compile(source, NAME, "exec", dont_inherit=True), main.__dict__)
    except SystemExit as error:
        return _derive_exit_code(error.code)
    except BaseException as error:  # noqa: BLE001 (any exception ends the program and nothing else)
        _print_traceback(error)
        return 1
    return 0


def _derive_exit_code(exit_argument: object) -> int:
    """Derive the exit code from the argument of `sys.exit`, as Python does: a message is printed, and the code is 1."""
    if exit_argument is None:
        return 0
    if isinstance(exit_argument, int):
        return exit_argument & 0xFF
    sys.stderr.write(f"{exit_argument}\n")
    return 1


def _print_traceback(error: BaseException) -> None:
    """Print an uncaught exception with the program's own frames, or only its type if that fails."""
    try:
        report = traceback.TracebackException.from_exception(error, compact=True)
        _keep_own_frames(report)
        sys.stderr.write("".join(report.format()))
    except BaseException:  # noqa: BLE001 (out of memory, or the program broke the traceback module)
        sys.stderr.write(f"{type(error).__name__}\n")


def _keep_own_frames(report: traceback.TracebackException | None) -> None:
    """Remove all frames but the program's own from a traceback and from the exceptions that it refers to."""
    if report is None:
        return
    report.stack[:] = [frame for frame in report.stack if frame.filename == NAME]
    if not report.stack:
        report.stack = None  # type: ignore[assignment]  # omits the "Traceback" heading, as for a syntax error
    _keep_own_frames(report.__cause__)
    _keep_own_frames(report.__context__)
    for inner in getattr(report, "exceptions", None) or []:
        _keep_own_frames(inner)


def _flush_streams() -> bool:
    """Flush the output streams. Returns whether each was flushed, or had been closed by the program."""
    all_flushed = True
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException:  # noqa: BLE001 (the program closed, broke or replaced the stream)
            all_flushed = all_flushed and getattr(stream, "closed", False) is True
    return all_flushed
