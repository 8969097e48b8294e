"""The code check (paper §3, A.1): the form of its programs, its conclusions, and when it rejects an accepted attack."""

import re

import pytest

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.own import load_domain
from nanoflux_local.records import ChatReply, Identity, PythonReply, PythonRequest
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checking import CheckingJudge
from nanoflux_local.roles.checks.code import CodeCheck
from nanoflux_local.roles.checks.programs import MAX_PROGRAM_CHARACTERS, append_answer_print, read_program
from nanoflux_local.roles.judge import ModelJudge
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Finding

GSMHARD = load_domain("gsmhard")
SANDBOX = Identity("sandbox", "s")
DRAW = Draw(run_seed=1, turn=2, attempt=3)
ATTACK = Attack("A box holds 6 rows of 7 eggs. How many eggs?", "6 * 7 = 42", "42")
VALID_REPLY = "ANALYSIS: a\nVERIFICATION: v\nDECISION: VALID\nCONFIDENCE: 0.95\nEXPLANATION: so"
"""The reply of a judge that accepts an attack."""


def make_program(variables="rows, each = 6, 7", steps="eggs = rows * each", check="answer = eggs") -> str:
    """A program with these parts."""
    return f"# VARIABLES\n{variables}\n# STEPS\n{steps}\n# CHECK\n{check}"


def make_code_reply(code: str) -> str:
    """A judge's reply with this program in a code fence."""
    return f"CODE:\n```python\n{code}\n```"


def read_reply(text: str, finish="stop") -> str | Unparsed:
    """The program in a reply, or why the reply has none."""
    return read_program(ChatReply(text, finish))


PROGRAM_AS_JSON = "# VARIABLES\\nrows, each = 6, 7\\n# STEPS\\neggs = rows * each\\n# CHECK\\nanswer = eggs"
PROGRAM_IN_TWO_BLOCKS = (
    "First:\n```python\n# VARIABLES\nrows, each = 6, 7\n```\n"
    "and\n```\n# STEPS\neggs = rows * each\n# CHECK\nanswer = eggs\n```"
)
READABLE_REPLIES = [
    make_code_reply(make_program()),
    f"<think>```python\nx\n```</think>{make_code_reply(make_program())}",
    f"**CODE:**\n```Python3\n{make_program()}\n```\nIt prints:\n```\n42\n```",
    f"CODE:\n{make_program()}",
    make_program(),
    f'{{"CODE": "{PROGRAM_AS_JSON}"}}',
    f'{{"code": "```python\\n{PROGRAM_AS_JSON}\\n```"}}',
    make_code_reply("# Variables:\nrows, each = 6, 7\n# Steps\neggs = rows * each\n# Check\nanswer = eggs"),
    make_code_reply(
        "# 1. VARIABLES given\nrows, each = 6, 7\n# 2) STEPS\neggs = rows * each\n# 3. CHECK it\nanswer = eggs"
    ),
    make_code_reply(
        make_program("import math\nrows: int = 6\neach = 7", "eggs = 0\nfor _ in range(rows):\n    eggs += each")
    ),
    make_code_reply(make_program(check="answer = rows * each")),
    make_code_reply(make_program(check="total = eggs\nanswer = total")),
    make_code_reply(make_program("rows, each = 6, 7\neggs = rows * each", "# None")),
    PROGRAM_IN_TWO_BLOCKS,
    f"{make_program()}\n```\n\nThe program now follows the form.",
]  # fmt: skip
"""Replies from which a program can be read although they deviate from the requested form."""


@pytest.mark.parametrize("text", READABLE_REPLIES)
def test_code_program_is_read_from_replies_that_deviate_from_the_form(text):
    program = read_reply(text)
    assert isinstance(program, str), program
    assert "answer =" in program and "```" not in program


REASON_BY_PROGRAM = {
    "print(42)": "must open its parts",
    make_program().replace("# STEPS", "# THEN"): "must open its parts",
    make_program().replace("# CHECK", "# STEPS\n# CHECK"): "must open its parts",
    "# STEPS\na = 1\n# VARIABLES\nb = 2\n# CHECK\nanswer = a + b": "must open its parts",
    make_program(steps="eggs = rows *"): "it is no Python",
    make_program(steps="(" * 300): "it is no Python",
    make_program(steps="eggs = " + "-" * 7000 + "1"): "it is no Python",
    make_program(steps="eggs = 1\x00"): "it is no Python",
    make_program(variables="pass"): "names no quantity",
    make_program(steps="eggs = 42"): "calculates nothing",
    make_program("first_quantity = ...", "first_result = ...", "answer = first_result"): "calculates nothing",
    make_program(check="answer = 42"): "not from a bare value",
    make_program(check="answer = rows"): "not from a bare value",
    make_program(check="result = eggs"): "not from a bare value",
    make_program(check="answer = eggs\nanswer = 42"): "not from a bare value",
    make_program(check="answer = eggs\n" + "#" * MAX_PROGRAM_CHARACTERS): "longer than",
}
"""Programs that do not have the required form, each with a part of the reason why they are refused."""


@pytest.mark.parametrize(("code", "reason"), REASON_BY_PROGRAM.items())
def test_code_program_that_breaks_the_form_is_refused(code, reason):
    result = read_reply(make_code_reply(code))
    assert isinstance(result, Unparsed) and reason in result.reason


def test_code_program_truncated_at_the_token_limit_is_reported():
    assert read_reply(f"CODE:\n```python\n{make_program()}", "length") == Unparsed("it is too long and was cut off")


@pytest.mark.parametrize("text", ["CODE: NONE", "none", "CODE:\n```\nNONE\n```", "CODE: **NONE**."])
def test_code_reply_none_means_nothing_to_calculate(text):
    assert read_reply(text) == "NONE"


class FakeCall:
    """Answers prompts with the `replies` in order, and repeats the last one. Every program prints `printed` as its
    answer and ends with `status`.
    """

    def __init__(self, *replies: str, printed: str = "42", status: str = "ok", stderr: str = "") -> None:
        self.replies = list(replies)
        self.printed = printed
        self.status = status
        self.stderr = stderr
        self.prompts: list[str] = []
        self.seeds: list[int] = []
        self.program_requests: list[PythonRequest] = []

    async def __call__(self, request):
        if isinstance(request, PythonRequest):
            self.program_requests.append(request)
            (marker,) = re.findall(r"print\('(answer-\w+)'", request.code)
            return PythonReply(self.status, 0, f"noise\n\n{marker} {self.printed}\n", self.stderr, False, "sandbox")
        self.prompts.append(request.messages[-1].content)
        self.seeds.append(request.seed)
        is_last_reply = len(self.replies) == 1
        return ChatReply(self.replies[0] if is_last_reply else self.replies.pop(0), "stop")


def make_check(player, domain=GSMHARD, retries=2) -> CodeCheck:
    """A code check with a time limit of 2.5 s."""
    return CodeCheck(domain, player, SANDBOX, 2.5, retries)


@pytest.mark.parametrize(
    ("printed", "conclusion"),
    [("42", "supports"), ("42.0", "supports"), ("42.00001", "supports"), ("42.0001", "contradicts"),
     ("-42", "contradicts"), ("nan", "not checked"), ("inf", "not checked"), ("True", "not checked"),
     ("", "not checked")],
)  # fmt: skip
async def test_code_check_compares_the_printed_answer_with_the_attackers(player, printed, conclusion):
    call = FakeCall(make_code_reply(make_program()), printed=printed)
    finding = await make_check(player).examine(ATTACK, DRAW, call)
    assert (finding.check, finding.conclusion) == ("code", conclusion)
    assert [exhibit.text for exhibit in finding.evidence] == [make_program() + "\n"]
    assert (call.program_requests[0].endpoint, call.program_requests[0].wall_s) == (SANDBOX, 2.5)
    if conclusion != "not checked":
        assert finding.reason == f"the program gives {printed}, the solution says 42"


@pytest.mark.parametrize("status", ["error", "timeout", "memory", "output", "killed"])
async def test_code_check_requests_another_program_and_quotes_the_failure(player, status):
    call = FakeCall(make_code_reply(make_program()), status=status, stderr="Traceback\nNameError: eggs")
    finding = await make_check(player).examine(ATTACK, DRAW, call)
    assert (finding.conclusion, finding.reason) == ("not checked", f"it ended with {status}: NameError: eggs")
    assert len(call.program_requests) == len(set(call.seeds)) == 3
    assert "NameError: eggs" not in call.prompts[0] and "NameError: eggs" in call.prompts[2]


async def test_code_check_never_runs_an_unreadable_program(player):
    """The first reply has no program, and the program in the second reply states the answer without calculating it."""
    call = FakeCall("no", make_code_reply(make_program(check="answer = 42")), make_code_reply(make_program()))
    assert (await make_check(player).examine(ATTACK, DRAW, call)).conclusion == "supports"
    assert len(call.program_requests) == 1
    assert "bare value" in call.prompts[2]


async def test_code_check_without_a_program_concludes_nothing(player):
    finding = await make_check(player, retries=1).examine(ATTACK, DRAW, FakeCall("I would rather not"))
    assert finding.conclusion == "not checked" and "must open its parts" in finding.reason and not finding.evidence


async def test_code_check_asks_only_once_if_there_is_nothing_to_calculate(player):
    call = FakeCall("CODE: NONE")
    finding = await make_check(player).examine(ATTACK, DRAW, call)
    assert (finding.conclusion, finding.reason) == ("not checked", "the judge found nothing to calculate")
    assert len(call.prompts) == 1 and not call.program_requests


async def test_code_prompt_omits_the_attackers_answer(player):
    call = FakeCall(make_code_reply(make_program()))
    await make_check(player).examine(Attack("Q?", "the steps", "77.5"), DRAW, call)
    assert "the steps" in call.prompts[0] and "77.5" not in call.prompts[0]


@pytest.mark.parametrize(("printed", "conclusion"), [("B", "supports"), ("(c)", "contradicts"), ("Z", "not checked")])
async def test_code_check_compares_letters(player, printed, conclusion):
    call = FakeCall(make_code_reply(make_program(check="answer = 'AB'[eggs > 40]")), printed=printed)
    genetics = load_domain("starter-genetics")
    assert (await make_check(player, genetics).examine(Attack("Q", "S", "B"), DRAW, call)).conclusion == conclusion


async def test_code_check_is_skipped_in_domains_with_free_text_answers(player):
    call = FakeCall("no")
    free_text_domain = GSMHARD.model_copy(update={"answer": "text"})
    finding = await make_check(player, free_text_domain).examine(ATTACK, DRAW, call)
    assert finding.conclusion == "not checked" and not call.prompts


def make_judge(player, with_check=True) -> CheckingJudge:
    """A judge with the code check, or without checks."""
    checks = (make_check(player),) if with_check else ()
    return CheckingJudge(ModelJudge(GSMHARD, player, JudgeRules(confidence=0.9), 2), checks)


@pytest.mark.parametrize(
    ("printed", "accepted", "conclusion"),
    [("42", True, "supports"), ("41", False, "contradicts"), ("?", True, "not checked")],
)
async def test_contradicting_check_rejects_an_attack_that_the_judge_accepts(player, printed, accepted, conclusion):
    call = FakeCall(VALID_REPLY, make_code_reply(make_program()), printed=printed)
    verdict = await make_judge(player).validate(ATTACK, DRAW, call)
    finding = verdict.finding("code")
    assert (verdict.positive, finding.conclusion) == (accepted, conclusion)
    assert [exhibit.text for exhibit in finding.evidence] == [make_program() + "\n"]
    assert verdict.explanation.startswith("[the program disagrees]") is (conclusion == "contradicts")
    assert finding.reason


async def test_attack_that_the_judge_rejects_is_not_checked(player):
    call = FakeCall(VALID_REPLY.replace("VALID", "INVALID"))
    verdict = await make_judge(player).validate(ATTACK, DRAW, call)
    assert not verdict.positive
    assert verdict.findings == (Finding("code", "not checked", "the judge had rejected it already"),)
    assert len(call.prompts) == 1


async def test_verdict_without_checks_comes_from_the_judge_alone(player):
    call = FakeCall(VALID_REPLY)
    verdict = await make_judge(player, with_check=False).validate(ATTACK, DRAW, call)
    assert (verdict.positive, verdict.findings) == (True, ())
    assert len(call.prompts) == 1


def test_answer_marker_depends_on_the_program():
    program = append_answer_print(make_program())
    other_program = append_answer_print(make_program(check="answer = eggs + 1"))
    assert program.startswith(make_program())
    marker, other_marker = program.split("'")[1], other_program.split("'")[1]
    assert marker != other_marker
