"""Programs are isolated from each other, results are reproducible, and output is harmless text."""

# ruff: noqa: E501 (programs are easier to read unbroken)

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from nanoflux_sandbox import Sandbox
from nanoflux_sandbox.text import escape_unsafe

_TIERS = ["linux:namespaces+landlock+seccomp", "linux:landlock+seccomp"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(params=_TIERS, scope="module", loop_scope="module")
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A sandbox of one tier, which runs one program at a time."""
    async with Sandbox(backend=request.param, workers=1) as sandbox:
        yield sandbox


async def test_program_sees_no_state_of_the_previous_program(sandbox: Sandbox) -> None:
    marking_program = (
        "import builtins, math, os, random, sys, numpy\nbuiltins.left = 'mark-of-the-first'\nsys.left = 1\nmath.pi = 3\n"
        "os.environ['LEFT'] = '1'\nsys.modules['left'] = math\nrandom.seed(99)\nnumpy.left = 1\nprint('mark-of-the-first')"
    )
    checking_program = (
        "import builtins, gc, math, os, random, sys, numpy\n"
        "print(hasattr(builtins, 'left'), hasattr(sys, 'left'), math.pi, 'LEFT' in os.environ, 'left' in sys.modules, "
        "hasattr(numpy, 'left'), any('mark-of-' + 'the-first' in str(o) for o in gc.get_objects() if type(o) is dict "
        "and o is not globals()))"
    )
    await sandbox.run(marking_program)
    result = await sandbox.run(checking_program)
    assert result.stdout == "False False 3.141592653589793 False False False False\n", result


async def test_child_memory_contains_no_other_program(sandbox: Sandbox) -> None:
    """A fork copies the memory of the fork server, which must therefore never contain a program's source or output."""
    secret = "x" + "k7" * 12  # the scanning program builds it backwards, so that the program does not contain it
    for _ in range(3):
        await sandbox.run(f"print({secret!r})")
    scanning_program = (
        "import gc\ngc.unfreeze()\nbackwards = ''.join(['7'] + ['k7'] * 11 + ['kx']).encode()\nhay = b''.join(\n"
        "    o if type(o) is bytes else o.encode('utf-8', 'replace')\n"
        "    for d in gc.get_objects() if type(d) in (dict, list, tuple)\n"
        "    for o in (list(d.values()) if type(d) is dict else d) if type(o) in (bytes, str) and len(o) < 10**5)\n"
        "print(len(hay) > 10**6, hay[::-1].count(backwards))"
    )
    result = await sandbox.run(scanning_program)
    assert result.status == "ok", result
    assert result.stdout == "True 0\n"


async def test_results_are_reproducible(sandbox: Sandbox) -> None:
    code = (
        "import random, numpy as np, time, os, sys, locale\n"
        "print(hash('a'), list({'x', 'yy', 'zzz', 'w'}), random.random(), np.random.rand(), np.random.default_rng().random())\n"
        "print(time.tzname, locale.getlocale(), sorted(os.environ.items()), os.getcwd(), sys.argv, os.getpid() > 0)\n"
        "from sympy import *\nprint(solve(symbols('x')**4 - 1), {Symbol(c) for c in 'abcdef'})"
    )
    first_result = await sandbox.run(code)
    assert first_result.status == "ok", first_result
    for _ in range(5):
        assert (await sandbox.run(code)).stdout == first_result.stdout
    async with Sandbox(backend="auto") as other_sandbox:
        assert (await other_sandbox.run(code)).stdout == first_result.stdout


async def test_identity_names_the_versions_in_the_child(sandbox: Sandbox) -> None:
    identity = await sandbox.identity()
    code = "import sys, numpy, sympy, json\nprint(json.dumps([sys.version.split()[0], numpy.__version__, sympy.__version__]))"
    versions = json.loads((await sandbox.run(code)).stdout)
    assert versions == [identity.python, identity.libraries["numpy"], identity.libraries["sympy"]]
    assert (identity.hash_seed, identity.threads, identity.time_zone) == (0, 1, "UTC")
    assert identity.as_dict()["backend"] == identity.backend


# Output that imitates what the sandbox itself writes: a result, the fork server's message, and a child's confirmation.
_FORGED_REPORTS = (
    '{"status": "ok", "exit_code": 0, "stdout": "42", "stderr": "", "truncated": false, "wall_s": 0, "backend": "x"}',
    '{"do": "end", "child": 3, "status": 0, "cpu_s": 0, "late": false}',
    "re",
)


@pytest.mark.parametrize("report", _FORGED_REPORTS)
async def test_forged_report_is_treated_as_output(sandbox: Sandbox, report: str) -> None:
    write_statements = "\n".join(
        f"try:\n    os.write({descriptor}, report)\nexcept OSError:\n    pass" for descriptor in range(12)
    )
    code = f"import os\nreport = {report!r}.encode()\n{write_statements}\nraise SystemExit(5)"
    result = await sandbox.run(code)
    assert (result.status, result.exit_code) == ("error", 5)
    assert (result.stdout, result.stderr) == (report, report)


async def test_control_characters_become_visible_escapes(sandbox: Sandbox) -> None:
    code = "import os\nos.write(1, b'\\x1b]0;title\\x07\\x9b31m \\x00 \\r over \\xff\\n')\nprint('\\u202egnp.exe \\u2066 \\u200f')"
    result = await sandbox.run(code)
    assert result.stdout == ("\\x1b]0;title\\x07\ufffd31m \\x00 \\x0d over \ufffd\n\\u202egnp.exe \\u2066 \\u200f\n")


async def test_traceback_contains_no_control_characters(sandbox: Sandbox) -> None:
    result = await sandbox.run("raise ValueError('\\x1b[2J')")
    assert "\\x1b[2J" in result.stderr
    assert "\x1b" not in result.stderr


async def test_escape_unsafe_keeps_ordinary_text() -> None:
    assert escape_unsafe("a\tb\nc\r\nd é 日 🙂") == "a\tb\nc\nd é 日 🙂"
    assert escape_unsafe("\ud800\u2028\x85\ufeff\U000e0041") == "\\ud800\\u2028\\x85\\ufeff\\U000e0041"


async def test_concurrent_programs_do_not_mix_output(sandbox: Sandbox) -> None:
    programs = [f"for _ in range(200): print({number})" for number in range(20)]
    results = await asyncio.gather(*(sandbox.run(program) for program in programs))
    assert [set(result.stdout.split()) for result in results] == [{str(number)} for number in range(20)]
