"""The blind check: what solvers see, how their solutions are read, what the check concludes, and when it stops."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import PromptRefusedError
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, Identity, PythonReply, PythonRequest, Sampling
from nanoflux_local.roles.base import Draw, Player
from nanoflux_local.roles.checks.base import CheckContext
from nanoflux_local.roles.checks.blind import CANNOT, BlindCheck, Unanswerable, read_answer
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.run.configs import resolve
from nanoflux_local.transcript import Attack, Exhibit

GSMHARD = load_domain("gsmhard")
GENOMEBENCH = load_domain("genomebench")
SANDBOX = Identity("sandbox", "s")
DRAW = Draw(run_seed=1, turn=2, attempt=3)
FREE_TEXT_DOMAIN = GSMHARD.model_copy(update={"answer": "text"})
ATTACK = Attack("A box holds 6 rows of 7 eggs. How many eggs?", "SECRET STEPS 6 * 7 = 42", "42")
"""An attack whose solution, which contains SECRET, the solvers must not see."""
UNREADABLE_REPLY = "no"
"""The reply of a solver that gives no answer."""


def make_worded_reply(answer: str) -> str:
    """A solver's reply that solves the question in words."""
    return f"SOLUTION: step by step to {answer}\nANSWER: {answer}"


def make_program_reply(answer: str) -> str:
    """A solver's reply with a program that calculates and prints the answer."""
    return f"CODE:\n```python\none = 1\nresult = one * {answer}\nprint(result)\n```"


def requests_program(request: ChatRequest) -> bool:
    """Whether a request asks for a program instead of a solution in words."""
    return "Python program" in request.messages[-1].content


class FakeSolvers:
    """Replies to chat requests with the `answers` in order, each in the requested form: in words, or as a program that
    prints the answer. "refused", `UNREADABLE_REPLY` and texts with `CANNOT` stand for themselves. Every
    program that is run prints its answer and ends with `status`.
    """

    def __init__(self, answers: Sequence[str], status: str = "ok") -> None:
        self.answers = list(answers)
        self.status = status
        self.requests: list[ChatRequest] = []
        self.program_requests: list[PythonRequest] = []

    async def __call__(self, request):
        if isinstance(request, PythonRequest):
            self.program_requests.append(request)
            (marker,) = re.findall(r"print\('(answer-\w+)'", request.code)
            (answer,) = re.findall(r"one \* (.*)", request.code)
            return PythonReply(self.status, 0, f"{answer}\n{marker} \n", "Traceback\nKeyError: 1", False, "sandbox")
        self.requests.append(request)
        answer = self.answers.pop(0)
        if answer == "refused":
            raise PromptRefusedError("prompt too long", "shorten it")
        if answer == UNREADABLE_REPLY or CANNOT in answer:
            return ChatReply(answer, "stop")
        make_reply = make_program_reply if requests_program(request) else make_worded_reply
        return ChatReply(make_reply(answer), "stop")

    @property
    def methods(self) -> str:
        """One letter for each request: p for a program, w for a solution in words."""
        return "".join("p" if requests_program(request) else "w" for request in self.requests)


def make_player(name: str) -> Player:
    """A solver at temperature 0."""
    return Player(name, Identity("scripted", name), Sampling(0.0, 1.0, 256))


def make_blind_check(domain=GSMHARD, names=("arbiter",), solutions=4, programs=2, agreeing=2) -> BlindCheck:
    """A blind check with one solver for each name."""
    solvers = tuple(make_player(name) for name in names)
    return BlindCheck(domain, solvers, SANDBOX, 2.5, solutions, programs, agreeing)


CONCLUSIONS = [
    # the answers (of a program, in words, of a program, in words), the conclusion, and the number of requests
    ("42 42", "supports", 2),
    ("41 42 42", "supports", 3),
    ("41 42 41 42", "not checked", 4),  # the two answers that agree are in words
    ("no 42 no 42", "not checked", 3),  # no program is left that could agree
    ("41 41 41", "contradicts", 3),
    ("41 41 42 41", "contradicts", 4),
    ("41 43 44 45", "not checked", 3),  # neither conclusion is possible any more
    ("41 43 41 42", "not checked", 4),
    ("CANNOT CANNOT CANNOT", "contradicts", 3),
    ("CANNOT CANNOT 42 42", "supports", 4),
    ("no no no no", "not checked", 3),
    ("42.0000001 42", "supports", 2),
]


@pytest.mark.parametrize(("answers", "conclusion", "request_count"), CONCLUSIONS)
async def test_blind_check_stops_once_its_conclusion_is_certain(answers, conclusion, request_count):
    unanswerable = f"{CANNOT}, because the rows are missing"
    solvers = FakeSolvers([unanswerable if answer == "CANNOT" else answer for answer in answers.split()])
    finding = await make_blind_check().examine(ATTACK, DRAW, solvers)
    assert (finding.check, finding.conclusion) == ("blind", conclusion), finding.reason
    assert len(solvers.requests) == request_count
    assert solvers.methods == "pwpw"[:request_count]
    assert len(finding.evidence) == request_count
    assert len({request.seed for request in solvers.requests}) == request_count


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ("42 42", "2 of 2 blind solutions give 42, 1 of them by a program"),
        ("41 41 41", "3 of 3 blind solutions give 41, the author says 42"),
        ("41 42 41 no", "1 of 4 blind solutions agrees, 2 disagree and 1 could not be read"),
    ],
)
async def test_blind_check_counts_solutions_in_its_reason(answers, reason):
    finding = await make_blind_check().examine(ATTACK, DRAW, FakeSolvers(answers.split()))
    assert finding.reason == reason


async def test_blind_requests_contain_neither_solution_nor_answer():
    solvers = FakeSolvers(["41", "43", "42", "42"])
    attack = replace(ATTACK, answer="4242", notes={"HINT": "SECRET"})
    await make_blind_check(solutions=4, agreeing=3).examine(attack, DRAW, solvers)
    assert len(solvers.requests) >= 2
    for request in solvers.requests:
        text = "\n".join(message.content for message in request.messages)
        assert ATTACK.question in text and "SECRET" not in text and "4242" not in text
        form_position = max(text.rfind("ANSWER: the"), text.rfind("CODE:\n"))
        assert text.rindex(CANNOT) > form_position, f"{CANNOT} is not offered after the form of the reply"


async def test_blind_check_keeps_every_solution_as_evidence():
    solvers = FakeSolvers(["42", "no", f"CODE: {CANNOT}: no rows", "41"])
    finding = await make_blind_check(names=("one", "two")).examine(ATTACK, DRAW, solvers)
    first, second, third, fourth = finding.evidence
    assert (first.kind, first.outcome, first.agrees, first.author) == ("program", "42", True, "one")
    assert first.text.startswith("one = 1") and "one * 42" in first.text
    assert second == Exhibit("solution", "no", "", "missing section ANSWER", author="two", agrees=None)
    assert third == Exhibit("program", f"{CANNOT}: no rows", CANNOT, "no rows", author="two", agrees=False)
    assert fourth == Exhibit("solution", "step by step to 41", "41", author="one", agrees=False)


@pytest.mark.parametrize("status", ["error", "timeout", "memory", "killed"])
async def test_blind_program_that_fails_counts_for_neither_side(status):
    solvers = FakeSolvers(["41", "41", "41", "41"], status)
    finding = await make_blind_check().examine(ATTACK, DRAW, solvers)
    assert finding.conclusion == "not checked"
    programs = [exhibit for exhibit in finding.evidence if exhibit.kind == "program"]
    assert len(programs) == len(solvers.program_requests)
    assert all(program.agrees is None for program in programs)
    assert finding.evidence[0].detail == f"it ended with {status}: KeyError: 1"


@pytest.mark.parametrize(
    ("answers", "agreeing", "conclusion", "methods"),
    [
        ("42 42 42 42", 4, "supports", "ppww"),
        ("42 42 42 41", 4, "not checked", "ppww"),
        ("42 41 42 42", 4, "not checked", "pp"),
        ("no 42 42 42", 4, "not checked", "p"),
        ("41 42 41 41", 2, "contradicts", "ppww"),
        ("41 42 42 42", 2, "supports", "ppw"),
    ],
)
async def test_blind_check_that_must_support_asks_for_programs_first_and_ends_early(
    answers, agreeing, conclusion, methods
):
    solvers = FakeSolvers(answers.split())
    check = replace(make_blind_check(agreeing=agreeing), must_support=True)
    assert (await check.examine(ATTACK, DRAW, solvers)).conclusion == conclusion
    assert solvers.methods == methods


async def test_order_of_blind_solutions_does_not_change_their_requests():
    """A fork that demands support reuses the recorded blind solutions."""

    async def list_requests(must_support: bool) -> list[ChatRequest]:
        solvers = FakeSolvers(["42"] * 4)
        check = replace(make_blind_check(names=("one", "two"), agreeing=4), must_support=must_support)
        await check.examine(ATTACK, DRAW, solvers)
        return solvers.requests

    assert set(await list_requests(True)) == set(await list_requests(False))
    assert await list_requests(True) != await list_requests(False)


async def test_blind_solver_that_refuses_the_prompt_counts_for_neither_side():
    finding = await make_blind_check().examine(ATTACK, DRAW, FakeSolvers(["refused", "42", "42"]))
    assert finding.conclusion == "supports"
    assert (finding.evidence[0].agrees, finding.evidence[0].detail) == (None, "prompt too long: shorten it")


async def test_blind_solutions_alternate_between_methods_and_authors():
    def list_authors(*names: str) -> list[tuple[bool, str]]:
        assignments = make_blind_check(names=names).assign_solutions()
        return [(is_program, solver.name) for _, is_program, solver in assignments]

    assert list_authors("one") == [(True, "one"), (False, "one"), (True, "one"), (False, "one")]
    assert list_authors("one", "two") == [(True, "one"), (False, "two"), (True, "two"), (False, "one")]
    assert list_authors("one", "two", "three") == [(True, "one"), (False, "two"), (True, "two"), (False, "three")]


@pytest.mark.parametrize(
    ("answers", "conclusion"),
    [("B (b)", "supports"), ("C C C", "contradicts"), ("C D C B", "not checked"), ("B,C 12 B C", "not checked")],
)
async def test_blind_check_compares_letters_without_programs(answers, conclusion):
    solvers = FakeSolvers(answers.split())
    finding = await make_blind_check(GENOMEBENCH, programs=0).examine(Attack("Which?", "because", "B"), DRAW, solvers)
    assert finding.conclusion == conclusion
    assert set(solvers.methods) == {"w"}


@pytest.mark.parametrize(
    ("answers", "conclusion"),
    [
        (["The Mitral valve.", "mitral valve"], "supports"),
        (["the valve of the aorta"] * 4, "not checked"),
        (["aorta", "the aorta", "Aorta."], "contradicts"),
        (["aorta", "aorta", "liver", "lung"], "not checked"),
        ([f"{CANNOT}, because it names no patient"] * 3, "contradicts"),
    ],
)
async def test_blind_check_compares_short_texts_by_their_words(answers, conclusion):
    attack = Attack("Which?", "because", "the mitral valve")
    finding = await make_blind_check(FREE_TEXT_DOMAIN, programs=0).examine(attack, DRAW, FakeSolvers(answers))
    assert finding.conclusion == conclusion


RESULT_BY_REPLY = {
    "SOLUTION: s\nANSWER: 42": "42",
    "<think>ANSWER: 3</think>**SOLUTION:** s\n**ANSWER:** $42.0": "42",
    '{"SOLUTION": "s", "ANSWER": "42"}': "42",
    f"SOLUTION: s\nANSWER: {CANNOT}, because the price is missing.": Unanswerable("the price is missing."),
    f"SOLUTION: s\nANSWER: **{CANNOT.title()}** because no price": Unanswerable("no price"),
    f"SOLUTION: s\nANSWER: {CANNOT}": Unanswerable("no reason given"),
    f'SOLUTION: s\nANSWER: "{CANNOT}, because 3 prices are missing"': Unanswerable("3 prices are missing"),
    f"SOLUTION: s\nANSWER: - {CANNOT}, because 5 is missing": Unanswerable("5 is missing"),
    "SOLUTION: s\nANSWER: It can't be determined, because the 5 shirts have no price": Unanswerable(
        "the 5 shirts have no price"
    ),
    rf"SOLUTION: s{chr(10)}ANSWER: \boxed{{\text{{{CANNOT}}}}}": Unanswerable("no reason given"),
    "This question cannot be answered.": Unanswerable("no reason given"),
    f"{CANNOT}, because nobody says how many": Unanswerable("nobody says how many"),
    f'{{"SOLUTION": "s", "ANSWER": "{CANNOT}, because no price"}}': Unanswerable("no price"),
}
"""Solvers' replies, each with the answer that is read from it."""
REASON_BY_REPLY = {
    f"SOLUTION: s\nANSWER: {CANNOT}, because …": "does not say clearly whether there is an answer",
    f"SOLUTION: s\nANSWER: 42\n{CANNOT}, because 3 of 4 are missing": "does not say clearly",
    "SOLUTION: s\nANSWER: 5, although the rest cannot be determined": "does not say clearly",
    "SOLUTION: s\nANSWER: 42\nANSWER: 43": "given twice",
    "SOLUTION: s\nANSWER: the answer alone": "ANSWER is not a number",
    "How could it be answered?": "missing section ANSWER",
    "": "missing section ANSWER",
}
"""Solvers' replies without a clear answer, each with a part of the reason."""


@pytest.mark.parametrize(("text", "result"), RESULT_BY_REPLY.items())
def test_answer_of_a_blind_solution_is_a_number_or_says_why_there_is_none(text, result):
    assert read_answer(GSMHARD, text) == result


@pytest.mark.parametrize(("text", "reason"), REASON_BY_REPLY.items())
def test_unclear_answer_of_a_blind_solution_is_unparsed(text, reason):
    result = read_answer(GSMHARD, text)
    assert isinstance(result, Unparsed) and reason in result.reason


@pytest.mark.parametrize("keep", ["provable", "confirmed"])
@pytest.mark.parametrize(("agreeing", "required"), [(0, 3), (1, 1)])
def test_blind_check_takes_its_rules_from_the_configuration(tmp_path, agreeing, required, keep):
    """With `agreeing` = 0, all solutions must agree."""
    judge_rules = {"checks": ["blind"], "solutions": 3, "agreeing": agreeing}
    config = resolve("starter", "scripted", {"judge": judge_rules, "keep": keep}, Home(tmp_path))
    context = CheckContext(config, GSMHARD, make_player("judge"), (make_player("solver"),), {"sandbox": SANDBOX})
    check = BlindCheck.build(context)
    assert (check.solutions, check.programs, check.agreeing) == (3, 2, required)
    assert check.must_support == (keep == "confirmed")
