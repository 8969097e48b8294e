"""One program run as a script: `__main__`, uncaught exceptions as Python shows them, the exit code.

Runs inside the guest, in the same interpreter as the program, and so protects nothing: a program may take all of
this apart and harm only its own answer.
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


def run(source: str) -> int:
    """Run `source` as `__main__` to its end, exit functions and finalizers included. Returns the exit code."""
    linecache.cache[NAME] = (len(source), None, [f"{line}\n" for line in source.split("\n")], NAME)
    code = _run_source(source)
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    sys.modules.pop("__main__", None)
    gc.collect()  # what the program leaves behind is finalized with its globals intact, as at a normal end
    return code if _flush_streams() else code or 1


def _run_source(source: str) -> int:
    main = ModuleType("__main__")
    main.__dict__.update(__file__=NAME, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    try:
        exec(compile(source, NAME, "exec", dont_inherit=True), main.__dict__)
    except SystemExit as leaving:
        return _exit_code(leaving.code)
    except BaseException as error:  # noqa: BLE001 (whatever a program raises ends it and nothing else)
        _show(error)
        return 1
    return 0


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _show(error: BaseException) -> None:
    try:
        shown = traceback.TracebackException.from_exception(error, compact=True)
        _keep_own_frames(shown)
        sys.stderr.write("".join(shown.format()))
    except BaseException:  # noqa: BLE001 (out of memory, or a program that broke the means to say so)
        sys.stderr.write(f"{type(error).__name__}\n")


def _keep_own_frames(shown: traceback.TracebackException | None) -> None:
    if shown is None:
        return
    shown.stack[:] = [frame for frame in shown.stack if frame.filename == NAME]
    if not shown.stack:
        shown.stack = None  # type: ignore[assignment]  # then no "Traceback" heading, as for a syntax error
    _keep_own_frames(shown.__cause__)
    _keep_own_frames(shown.__context__)
    for inner in getattr(shown, "exceptions", None) or []:
        _keep_own_frames(inner)


def _flush_streams() -> bool:
    whole = True
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException:  # noqa: BLE001 (closed, broken, or no stream at all: the program's own doing)
            whole = whole and getattr(stream, "closed", False) is True
    return whole
