"""Programs of any form: how they are read from replies, and how their answer is read from the output."""

import asyncio

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.records import ChatReply
from nanoflux_local.roles.checks.free_programs import read_free_program, run_free_program
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.tools.python_check import PythonTool

GSMHARD = load_domain("gsmhard")
PROGRAM_BY_REPLY = {
    "CODE:\n```python\nprint(6 * 7)\n```": "print(6 * 7)",
    "```python\na = 6\nprint(a * 7)\n```\nOutput:\n```\n42\n```": "a = 6\nprint(a * 7)",
    "a = 6\nprint(a * 7)\n```\n\nThis prints 42.": "a = 6\nprint(a * 7)",
    "```\nThe total:\n```\n```py\nprint(sum([6, 7]))\n```": "print(sum([6, 7]))",
    "```python\na = 6\n```\nthen\n```python\nprint(a * 7)\n```": "print(a * 7)",
}
"""Replies, each with the program that is read from it."""
REASON_BY_REPLY = {
    "CODE:\n```python\nprint(42)\n```": "it calculates nothing",
    "The answer is 42.": "it is no Python",
    "total = 6 *": "it is no Python",
    "": "it calculates nothing",
}
"""Replies without a program that calculates something, each with the reason."""


@pytest.mark.parametrize(("text", "program"), PROGRAM_BY_REPLY.items())
def test_free_program_is_read_from_a_reply(text, program):
    result = read_free_program(ChatReply(text, "stop"))
    assert isinstance(result, str) and result.strip() == program


@pytest.mark.parametrize(("text", "reason"), REASON_BY_REPLY.items())
def test_free_program_without_calculation_is_refused(text, reason):
    result = read_free_program(ChatReply(text, "stop"))
    assert isinstance(result, Unparsed) and reason in result.reason


def test_truncated_free_program_is_refused():
    result = read_free_program(ChatReply("CODE: a = 6 * 7", "length"))
    assert isinstance(result, Unparsed) and "cut off" in result.reason


def run_programs(programs: list[str]) -> list[str | Unparsed]:
    """The answer that each program gives in the real sandbox, or why it gives none."""

    async def run_all() -> list[str | Unparsed]:
        tool = PythonTool(workers=1)
        try:
            identity = await tool.identity()
            return [await run_free_program(program, GSMHARD, identity, 10.0, tool.run) for program in programs]
        finally:
            await tool.close()

    return asyncio.run(run_all())


ANSWER_BY_PROGRAM = {
    "a = 6\nprint(a * 7)": "42",
    "a = 6\nprint(a)\nprint(f'Total: ${a * 7:.2f}')": "42",
    "answer = 6 * 7": "42",
    "a = 6 * 7\nanswer = a\nprint(a / 4)": "10.5",
    "def solve():\n    print(6 * 7)\nsolve()": "42",
}
"""Programs with the answers that they give."""
REASON_BY_PROGRAM = {
    "a = 6 * 7": "it prints '', which is no number",
    "print('x' * 3)": "it prints 'xxx', which is no number",
    "print(6 * 7)\nraise SystemExit(0)": "it ended before its answer was read",
    "print(1 / 0)": "it ended with error: ZeroDivisionError: division by zero",
}
"""Programs without an answer, each with the reason."""


def test_answer_of_a_free_program_is_its_last_printed_line_or_the_variable_answer():
    assert run_programs(list(ANSWER_BY_PROGRAM)) == list(ANSWER_BY_PROGRAM.values())


def test_free_program_without_an_answer_is_reported_with_the_reason():
    results = run_programs(list(REASON_BY_PROGRAM))
    assert results == [Unparsed(reason) for reason in REASON_BY_PROGRAM.values()]
