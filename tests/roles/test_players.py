"""Models as attacker and defender, and a program as judge: the prompts, and how replies and program output are read."""

import pytest

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.records import Identity, PythonReply, PythonRequest
from nanoflux_local.roles.attacker import ModelAttacker, normalize_answer, read_attack
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.defender import OVERHEAD_TOKENS, Defender, build_defender_messages, compute_reply_budget
from nanoflux_local.roles.program_judge import ProgramJudge
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Seed

GSMHARD = load_domain("gsmhard")
STARTER = load_domain("starter")
GENETICS = load_domain("starter-genetics")
DRAW = Draw(run_seed=1, turn=2, attempt=3)
SANDBOX = Identity("sandbox", "fake")
ATTACK_REPLY = "QUESTION: Q?\nSOLUTION: S\nANSWER: $1,234.0\nREFLECTION: R"
SEEDS = (Seed("a", "x", "Question {{ 7*7 }}?", "1"), Seed("b", "x", "Which?", "B", options={"A": "ant", "B": "bee"}))


async def test_attacker_prompt_contains_every_seed(player, script_call):
    call = script_call([ATTACK_REPLY])
    attack = await ModelAttacker(GSMHARD, player).attack(SEEDS, DRAW, call)
    assert attack == Attack("Q?", "S", "1234", notes={"REFLECTION": "R"})
    for text in ("Question {{ 7*7 }}?", "Which?", "A. ant", "B. bee"):
        assert text in call.prompts[0]
    assert (call.requests[0].endpoint, call.requests[0].sampling) == (player.identity, player.sampling)


async def test_unreadable_attack_is_not_requested_again(player, script_call):
    call = script_call(["nothing"])
    assert isinstance(await ModelAttacker(GSMHARD, player).attack(SEEDS, DRAW, call), Unparsed)
    assert len(call.requests) == 1


@pytest.mark.parametrize(
    ("domain", "answer", "normalized"),
    [
        (GSMHARD, "about 12 apples", "12"),
        (GSMHARD, "12 or 13", None),
        (GSMHARD, "unknown", None),
        (GENETICS, "(e) enzyme", "E"),
        (GENETICS, "12", None),
        (GSMHARD.model_copy(update={"answer": "text"}), "  a mutation ", "a mutation"),
        (GSMHARD.model_copy(update={"answer": "text"}), " ", None),
    ],
)
def test_attack_answer_is_normalized_to_the_answer_format_of_the_domain(domain, answer, normalized):
    assert normalize_answer(domain, answer) == normalized
    attack = read_attack(domain, ATTACK_REPLY.replace("$1,234.0", answer))
    if normalized is None:
        assert isinstance(attack, Unparsed)
    else:
        assert attack.answer == normalized


def test_attack_with_two_answers_is_unparsed():
    assert isinstance(read_attack(GSMHARD, f"{ATTACK_REPLY}\nANSWER: 7"), Unparsed)


def make_defender(player, budgets=GSMHARD.budgets, retries=2) -> Defender:
    """A defender in the domain `gsmhard`."""
    return Defender(GSMHARD, player, budgets, retries)


async def test_only_the_last_message_to_the_defender_has_the_question(player, script_call):
    call = script_call(["ANALYSIS: a\nSOLUTION: s\nANSWER: 4"])
    assert await make_defender(player).defend("What is 2 {{ + }} 2?", DRAW, call) == Defence("s", "4", "a")
    contents = [message.content for message in call.requests[0].messages]
    contents_with_question = [content for content in contents if "What is 2 {{ + }} 2?" in content]
    assert contents_with_question == [call.prompts[0]], "the question must be in the last message and in no other"
    assert call.cut_requests == []


async def test_defence_sections_over_their_token_limits_are_truncated(player, script_call):
    call = script_call([f"ANALYSIS: {'a ' * 30}\nSOLUTION: {'s ' * 3}\nANSWER: {'4 ' * 20}"])
    defence = await make_defender(player, budgets={"ANALYSIS": 5, "SOLUTION": 5, "ANSWER": 2}).defend("Q", DRAW, call)
    assert defence == Defence("s s s", "4 4", "a a a a a", cut=("ANALYSIS", "ANSWER"))
    assert [(cut.budget, cut.endpoint) for cut in call.cut_requests] == [(5, player.identity), (2, player.identity)]


async def test_short_defence_section_is_not_tokenized(player, script_call):
    """A token has at least one byte, so a section of two bytes is within a limit of two tokens. "≈" has three bytes."""
    call = script_call(["ANALYSIS: ab\nSOLUTION: ≈\nANSWER: 4"])
    defence = await make_defender(player, budgets={"ANALYSIS": 2, "SOLUTION": 2, "ANSWER": 2}).defend("Q", DRAW, call)
    assert [cut.text for cut in call.cut_requests] == ["≈"]
    assert defence.cut == ()


@pytest.mark.parametrize("retries", [0, 2])
async def test_unreadable_defence_is_requested_again(player, script_call, retries):
    call = script_call(lambda _: "ANSWER: 4")
    assert isinstance(await make_defender(player, retries=retries).defend("Q", DRAW, call), Unparsed)
    assert len(call.requests) == 1 + retries
    assert len({request.seed for request in call.requests}) == 1 + retries


async def test_description_copied_from_the_prompt_is_not_a_defence(player, script_call):
    """Small models copy the descriptions of the sections from the prompt, which must not count as a wrong answer."""
    prompt = build_defender_messages(GSMHARD, GSMHARD.budgets, "Q")[0].content
    section_lines = [line for line in prompt.splitlines() if line.startswith(("ANALYSIS:", "SOLUTION:", "ANSWER:"))]
    call = script_call(lambda _: "\n".join(section_lines))
    defence = await make_defender(player, retries=1).defend("Q", DRAW, call)
    assert isinstance(defence, Unparsed)
    assert "the prompt's own description" in defence.reason
    partly_copied = "\n".join([*section_lines[:-1], "ANSWER: 4"])
    call = script_call(lambda _: partly_copied)
    assert isinstance(await make_defender(player).defend("Q", DRAW, call), Unparsed)


def test_worked_examples_are_messages_before_the_question():
    examples = [
        {"question": "Solved 1?", "sections": {"SOLUTION": "1 + 1", "ANSWER": "2"}},
        {"question": "Solved 2?", "sections": {"SOLUTION": "2 + 2", "ANSWER": "4"}},
    ]
    domain = Domain.model_validate({**STARTER.model_dump(), "examples": examples})
    messages = build_defender_messages(domain, domain.budgets, "How many?")
    assert [message.role for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [message.content for message in messages[1::2]] == [
        "SOLUTION: 1 + 1\nANSWER: 2",
        "SOLUTION: 2 + 2\nANSWER: 4",
    ]
    for message, question in zip(messages[::2], ("Solved 1?", "Solved 2?", "How many?"), strict=True):
        assert question in message.content
    instruction = "Reply with two lines"
    assert instruction in messages[0].content
    assert not any(instruction in message.content for message in messages[1:])
    (only_message,) = build_defender_messages(domain.model_copy(update={"examples": ()}), domain.budgets, "How many?")
    assert instruction in only_message.content


def test_reply_token_limit_is_the_sum_over_the_sections_and_an_overhead():
    budgets = {"ANALYSIS": 500, "SOLUTION": 1500, "ANSWER": 100}
    assert compute_reply_budget(GSMHARD, budgets) == 500 + 1500 + 100 + OVERHEAD_TOKENS
    assert compute_reply_budget(STARTER, budgets) == 1500 + 100 + OVERHEAD_TOKENS
    assert OVERHEAD_TOKENS >= 32


def make_sandbox_call(status="ok", stdout="42\n", stderr=""):
    """A call that answers only the request to run `print(42)`, with this result."""

    async def call(request):
        assert request == PythonRequest(SANDBOX, "print(42)", 2.5)
        return PythonReply(status, 0 if status == "ok" else 1, stdout, stderr, False, "fake")

    return call


@pytest.mark.parametrize(
    ("stdout", "answer", "accepted"),
    [
        ("42\n", "42", True),
        ("working\n42.0\n\n", "42", True),
        ("42.00001\n", "42", True),
        ("42.001\n", "42", False),
        ("42\nbye\n", "42", False),
        ("", "42", False),
        ("42\n", "unknown", False),
        ("nan\n", "42", False),
    ],
)
async def test_program_judge_compares_the_last_printed_line_with_the_answer(stdout, answer, accepted):
    attack = Attack("Q", "S", answer, "print(42)")
    verdict = await ProgramJudge(SANDBOX, 2.5).validate(attack, DRAW, make_sandbox_call(stdout=stdout))
    expected_conclusion = "supports" if accepted else "contradicts"
    assert (verdict.positive, verdict.finding("code").conclusion) == (accepted, expected_conclusion)
    assert (verdict.confidence, verdict.asked) == (1.0, 1)
    last_line = stdout.strip().rpartition("\n")[2]
    assert last_line in verdict.explanation and answer in verdict.explanation


@pytest.mark.parametrize("status", ["error", "timeout", "memory", "output", "killed"])
async def test_program_judge_rejects_an_attack_whose_program_fails(status):
    attack = Attack("Q", "S", "42", "print(42)")
    verdict = await ProgramJudge(SANDBOX, 2.5).validate(attack, DRAW, make_sandbox_call(status, stderr="Boom"))
    finding = verdict.finding("code")
    assert (verdict.positive, finding.conclusion, finding.reason) == (False, "not checked", "Boom")
    assert verdict.confidence == 1.0
    assert status in verdict.explanation


@pytest.mark.parametrize(
    ("answer", "right"), [("42", True), ("$42.00", True), ("42.001", False), ("none", False), ("42 or 43", False)]
)
async def test_program_judge_compares_numbers(answer, right):
    judge = ProgramJudge(SANDBOX, 2.5)
    verdict = await judge.evaluate(Attack("Q", "S", "42"), Defence("s", answer), DRAW, make_sandbox_call())
    assert (verdict.positive, verdict.soft, verdict.confidence) == (right, None, 1.0)
    quoted_answer = "no single number" if answer in ("none", "42 or 43") else answer
    assert quoted_answer in verdict.explanation


def test_random_seeds_of_different_draws_are_distinct_and_reproducible():
    draws = [Draw(1, 2, 3), Draw(2, 2, 3), Draw(1, 1, 3), Draw(1, 2, 2)]
    seeds = {draw.seed(step, retry) for draw in draws for step in ("attack", "defence") for retry in range(3)}
    assert len(seeds) == len(draws) * 2 * 3
    assert Draw(1, 2, 3).rng("seeds").random() == Draw(1, 2, 3).rng("seeds").random()
    assert Draw(1, 2, 3).rng("seeds").random() != Draw(1, 2, 3).rng("chain").random()


@pytest.mark.parametrize("name", ["QUESTION", "SOLUTION", "REFLECTION"])
def test_attack_section_copied_from_the_prompt_is_unparsed(name):
    sections = {"QUESTION": "Q?", "SOLUTION": "[2] * 3 = [6]", "ANSWER": "6", "REFLECTION": "r"}
    reply = "\n".join(f"{key}: {text}" for key, text in sections.items())
    assert isinstance(read_attack(GSMHARD, reply), Attack)
    copied_description = f"{name}: [where a solver is likely to slip]"
    attack = read_attack(GSMHARD, reply.replace(f"{name}: {sections[name]}", copied_description))
    assert attack == Unparsed(f"{name} is the prompt's own description: '[where a solver is likely to slip]'")


def test_brackets_around_attack_sections_are_removed():
    attack = read_attack(GSMHARD, "QUESTION: [How many?]\nSOLUTION: 2 * 3 = 6\nANSWER: [6]\nREFLECTION: [ the units ]")
    assert attack == Attack("How many?", "2 * 3 = 6", "6", notes={"REFLECTION": "the units"})


TAGGED_SOLUTION = (
    "<Hypothesis> h </Hypothesis> as said <evidence>e < 5</evidence><mechanism>m\n</mechanism>"
    "<conclusion>c</conclusion>"
)
"""A solution with the four elements that Genome-Bench requires, but not in the required form."""


def test_tagged_solution_is_normalized():
    reply = f"QUESTION: Q?\nSOLUTION: {TAGGED_SOLUTION}\nANSWER: c\nREFLECTION: r"
    attack = read_attack(load_domain("genomebench"), reply)
    assert isinstance(attack, Attack) and attack.answer == "C"
    normalized_solution = (
        "<hypothesis>h</hypothesis>\n<evidence>e < 5</evidence>\n<mechanism>m</mechanism>\n<conclusion>c</conclusion>"
    )
    assert attack.solution == normalized_solution


@pytest.mark.parametrize(
    ("solution", "wrong_element"),
    [
        ("because", "hypothesis"),
        (TAGGED_SOLUTION.replace("<mechanism>m\n", "<mechanism>"), "mechanism"),
        (TAGGED_SOLUTION.replace("</conclusion>", ""), "conclusion"),
        (TAGGED_SOLUTION + "<evidence>f</evidence>", "evidence"),
    ],
)
def test_tagged_solution_with_a_missing_or_repeated_element_is_unparsed(solution, wrong_element):
    attack = read_attack(load_domain("genomebench"), f"QUESTION: Q?\nSOLUTION: {solution}\nANSWER: C\nREFLECTION: r")
    assert attack == Unparsed(f"SOLUTION: no single element <{wrong_element}>")
