"""Programs of any form that compute an answer from the question alone: reads them from a reply, has the sandbox run
them, and reads the answer from their output.

A program of the code check repeats a solution, so its form must show that it does not copy the solution's result. A
program that is written without a solution cannot copy a result: it only has to calculate something and print its
answer.
"""

import ast

from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import ChatReply, Identity, PythonReply, PythonRequest
from nanoflux_local.roles.attacker import normalize_answer
from nanoflux_local.roles.checks.programs import describe_failure, extract_code, make_marker, parse_code
from nanoflux_local.roles.sections import Unparsed

_CALCULATING_NODES = (ast.BinOp, ast.AugAssign, ast.Compare)
"""The kinds of syntax, in addition to calls, that count as a calculation."""


def read_free_program(reply: ChatReply) -> str | Unparsed:
    """Read the program of a reply. Code blocks that are not Python or calculate nothing are ignored."""
    blocks = extract_code(reply)
    if isinstance(blocks, Unparsed):
        return blocks
    programs: list[str] = []
    failures: list[Unparsed] = []
    for block in blocks:
        tree = parse_code(block)
        if isinstance(tree, Unparsed):
            failures.append(tree)
        elif _calculates(tree):
            programs.append(block)
    if programs:
        return "\n".join(programs)
    return failures[0] if failures else Unparsed("it calculates nothing")


async def run_free_program(
    program: str, domain: Domain, sandbox: Identity, timeout_s: float, call: Call
) -> str | Unparsed:
    """Run a program in the sandbox. Returns the answer: the last line that the program printed or, if it printed
    nothing, the value of its variable `answer`. If there is no answer, returns the reason.
    """
    reply = await call(PythonRequest(sandbox, _append_answer_print(program), timeout_s))
    return _read_answer(program, domain, reply)


def _calculates(tree: ast.Module) -> bool:
    """Whether a program contains an operation, a comparison or a call other than of `print`."""
    return any(isinstance(node, _CALCULATING_NODES) or _is_computing_call(node) for node in ast.walk(tree))


def _is_computing_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    is_print = isinstance(node.func, ast.Name) and node.func.id == "print"
    return not is_print


def _append_answer_print(program: str) -> str:
    """The program with a last line that prints the variable `answer`, if it is set, after a marker."""
    return f"{program}\n\nprint()\nprint({make_marker(program)!r}, globals().get('answer', ''))\n"


def _read_answer(program: str, domain: Domain, reply: PythonReply) -> str | Unparsed:
    """Read the normalized answer from the output of a program that `_append_answer_print` has extended."""
    failure = describe_failure(reply)
    if failure is not None:
        return failure
    lines = [line for line in reply.stdout.splitlines() if line.strip()]
    last_line = lines[-1] if lines else ""
    printed_answer = lines[-2] if len(lines) > 1 else ""
    marker, _, variable = last_line.partition(" ")
    if marker != make_marker(program):
        return Unparsed("it ended before its answer was read")
    text = printed_answer if printed_answer else variable
    answer = normalize_answer(domain, text)
    return Unparsed(f"it prints {text[:80]!r}, which is no {domain.answer}") if answer is None else answer
