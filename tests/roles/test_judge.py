"""A model as judge: how decisions and confidences are read, when it is asked again, and when it is overruled (paper
§3, A.2.3-4; SPEC §2).
"""

from dataclasses import replace

import pytest

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.own import load_domain
from nanoflux_local.records import ChatRequest
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.judge import ModelJudge, is_same_answer, read_confidence, read_verdict
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Verdict

ATTACK = Attack("What is 6 * 7?", "6 * 7 = 42", "42")
DEFENCE = Defence("7 * 6 is 42", "42.0", "multiply")
DRAW = Draw(run_seed=1, turn=2, attempt=3)
GSMHARD = load_domain("gsmhard")


def make_judge(player, domain=GSMHARD, strikes=3, retries=2) -> ModelJudge:
    """A judge that requires a confidence of 0.9."""
    return ModelJudge(domain, player, JudgeRules(confidence=0.9, strikes=strikes), retries)


def make_validation(decision="VALID", confidence="0.95") -> str:
    """A judge's reply about an attack."""
    return f"ANALYSIS: a\nVERIFICATION: v\nDECISION: {decision}\nCONFIDENCE: {confidence}\nEXPLANATION: so"


def make_evaluation(decision="CORRECT", confidence="0.95", quality="SOUND, it holds") -> str:
    """A judge's reply about a defence."""
    return (
        f"ANALYSIS: a\nREASONING QUALITY: {quality}\nCALCULATION ACCURACY: c\nDECISION: {decision}\n"
        f"CONFIDENCE: {confidence}\nEXPLANATION: so"
    )


POSITIVE_BY_DECISION = {
    "VALID": True, "valid": True, "**VALID**": True, "Valid.": True, "`VALID`": True, "VALID (all four hold)": True,
    "INVALID": False, "invalid": False, "**Invalid**": False, "INVALID, since it is unclear": False,
    "VALID, not INVALID": None, "VALID or INVALID": None, "INVALID (it looks VALID)": None, "valid / invalid": None,
    "not valid": None, "The problem is VALID": None, "VALIDATED": None, "yes": None, "1": None, "?": None,
}  # fmt: skip
"""For each text of a DECISION section, whether the decision is positive, or None if it is ambiguous."""


@pytest.mark.parametrize(("text", "positive"), POSITIVE_BY_DECISION.items())
def test_decision_is_read_only_if_it_is_unambiguous(text, positive):
    verdict = read_verdict({"DECISION": text, "CONFIDENCE": "0.9", "EXPLANATION": "e"}, "VALID", "INVALID")
    if positive is None:
        assert isinstance(verdict, Unparsed)
        assert "DECISION is neither VALID nor INVALID" in verdict.reason
    else:
        assert verdict == Verdict(positive, 0.9, "e")


CONFIDENCE_BY_TEXT = {
    "0.95": 0.95, "95%": 0.95, "95 %": 0.95, "1": 1.0, "1.0": 1.0, "0": 0.0, ".9": 0.9, "**0.9**": 0.9, "0.9.": 0.9,
    "0.92 (sure)": 0.92, "`0.5`": 0.5, "(0.7)": 0.7, "100%": 1.0, "99.5%": 0.995,
    "95": None, "1.2": None, "101%": None, "-0.5": None, "high": None, "about 0.9": None, "0,95": None, "1/10": None,
    "9 / 10": None, "1 out of 10": None, "1.0.0": None, "": None, "%": None,
}  # fmt: skip
"""Texts of a CONFIDENCE section, each with the confidence that is read from it, or None if it is unreadable."""


@pytest.mark.parametrize(("text", "confidence"), CONFIDENCE_BY_TEXT.items())
def test_confidence_is_a_number_from_0_to_1(text, confidence):
    assert read_confidence(text) == (None if confidence is None else pytest.approx(confidence))


def test_verdict_with_unreadable_confidence_is_unparsed():
    verdict = read_verdict({"DECISION": "VALID", "CONFIDENCE": "high", "EXPLANATION": "e"}, "VALID", "INVALID")
    assert verdict == Unparsed("CONFIDENCE is not a number from 0 to 1: 'high'")


@pytest.mark.parametrize("positive", [True, False])
async def test_confident_validation_is_the_verdict(player, script_call, positive):
    call = script_call([make_validation("VALID" if positive else "INVALID")])
    assert await make_judge(player).validate(ATTACK, DRAW, call) == Verdict(positive, 0.95, "so")
    assert ATTACK.question in call.prompts[0]
    assert ATTACK.solution in call.prompts[0]
    assert call.requests[0].sampling == player.sampling


async def test_confidence_equal_to_the_threshold_suffices(player, script_call):
    call = script_call([make_validation(confidence="0.9")])
    assert (await make_judge(player).validate(ATTACK, DRAW, call)).confidence == 0.9


@pytest.mark.parametrize("step", ["validation", "evaluation"])
async def test_request_to_a_doubtful_judge_is_repeated_with_its_last_confidence(player, script_call, step):
    make_reply = make_validation if step == "validation" else make_evaluation
    call = script_call([make_reply(confidence=confidence) for confidence in ("0.5", "0.89", "0.93")])
    judge = make_judge(player)
    if step == "validation":
        verdict = await judge.validate(ATTACK, DRAW, call)
    else:
        verdict = await judge.evaluate(ATTACK, DEFENCE, DRAW, call)
    assert (verdict.confidence, verdict.asked) == (0.93, 3)
    first_prompt, second_prompt, third_prompt = call.prompts
    assert second_prompt.startswith(first_prompt) and "0.5" in second_prompt[len(first_prompt) :]
    assert third_prompt.startswith(first_prompt) and "0.89" in third_prompt[len(first_prompt) :]
    assert len({request.seed for request in call.requests}) == 3


@pytest.mark.parametrize("strikes", [1, 2, 3])
async def test_judge_without_the_required_confidence_at_any_strike_returns_a_doubt(player, script_call, strikes):
    call = script_call(lambda _: make_validation(confidence="0.6"))
    assert await make_judge(player, strikes=strikes).validate(ATTACK, DRAW, call) == Doubt((0.6,) * strikes)
    assert len(call.requests) == strikes


async def test_unreadable_verdict_is_requested_again(player, script_call):
    call = script_call(["no", make_validation("VALID or INVALID"), make_validation("INVALID")])
    verdict = await make_judge(player).validate(ATTACK, DRAW, call)
    assert verdict == Verdict(False, 0.95, "so", asked=1)
    assert len(set(call.prompts)) == 1
    assert len({request.seed for request in call.requests}) == 3


async def test_evaluation_that_stays_unreadable_is_unparsed(player, script_call):
    call = script_call(lambda _: "no")
    assert isinstance(await make_judge(player).evaluate(ATTACK, DEFENCE, DRAW, call), Unparsed)
    assert len(call.requests) == 3


@pytest.mark.parametrize("reply", [make_evaluation("maybe"), make_evaluation(confidence="high"), "no"])
async def test_unreadable_evaluation_of_a_wrong_answer_is_unparsed(player, script_call, reply):
    """Although the numbers differ, the answer is not marked wrong without a readable verdict."""
    call = script_call(lambda _: reply)
    assert isinstance(await make_judge(player).evaluate(ATTACK, Defence("s", "43"), DRAW, call), Unparsed)
    assert len(call.requests) == 3


async def test_doubtful_evaluation_of_a_wrong_answer_is_a_doubt(player, script_call):
    call = script_call(lambda _: make_evaluation(confidence="0.6"))
    assert await make_judge(player).evaluate(ATTACK, Defence("s", "43"), DRAW, call) == Doubt((0.6, 0.6, 0.6))


async def test_each_strike_has_separate_retries(player, script_call):
    doubtful = make_validation(confidence="0.5")
    call = script_call(["no", "no", doubtful, "no", "no", doubtful, "no", "no", "no"])
    assert isinstance(await make_judge(player).validate(ATTACK, DRAW, call), Unparsed)
    assert len({request.seed for request in call.requests}) == 9


@pytest.mark.parametrize(("answer", "positive"), [("42.0", True), ("41", False), ("about forty", False)])
async def test_program_that_grades_compares_answers_without_asking_the_judge(player, script_call, answer, positive):
    judge = ModelJudge(GSMHARD, player, JudgeRules(grading="program"), 2)
    call = script_call([])
    verdict = await judge.evaluate(ATTACK, replace(DEFENCE, answer=answer), DRAW, call)
    explanation = "the answer is that of the attacker" if positive else "the answers differ"
    assert verdict == Verdict(positive, 1.0, explanation, asked=0)


async def test_judge_evaluates_free_text_even_if_a_program_grades(player, script_call):
    domain = GSMHARD.model_copy(update={"answer": "text"})
    judge = ModelJudge(domain, player, JudgeRules(grading="program"), 2)
    verdict = await judge.evaluate(ATTACK, DEFENCE, DRAW, script_call([make_evaluation()]))
    assert (verdict.positive, verdict.asked) == (True, 1)


async def test_validation_and_evaluation_use_different_seeds(player, script_call):
    def reply_to(request: ChatRequest) -> str:
        is_validation = "VALID or" in request.messages[-1].content
        return make_validation() if is_validation else make_evaluation()

    call = script_call(reply_to)
    await make_judge(player).validate(ATTACK, DRAW, call)
    await make_judge(player).evaluate(ATTACK, DEFENCE, DRAW, call)
    assert len({request.seed for request in call.requests}) == 2


@pytest.mark.parametrize(
    ("decision", "answer", "positive"),
    [
        ("CORRECT", "42", True),
        ("CORRECT", "42.00001", True),  # within the tolerance of SPEC §6
        ("CORRECT", "43", False),
        ("CORRECT", "42.0001", False),
        ("CORRECT", "forty-two", False),
        ("CORRECT", "42 or 43", False),
        ("INCORRECT", "42", False),  # the right answer by wrong steps
        ("INCORRECT", "43", False),
    ],
)
async def test_judge_cannot_accept_a_different_number(player, script_call, decision, answer, positive):
    call = script_call([make_evaluation(decision)])
    verdict = await make_judge(player).evaluate(ATTACK, Defence("s", answer), DRAW, call)
    assert verdict.positive is positive
    assert verdict.explanation.startswith("[the answers differ]") is (decision == "CORRECT" and not positive)


@pytest.mark.parametrize(("answer", "positive"), [("(b)", True), ("C", False), ("B or C", False)])
async def test_judge_cannot_accept_a_different_letter(player, script_call, answer, positive):
    genetics = load_domain("starter-genetics")
    attack = Attack("Which?", "because", "B")
    call = script_call([make_evaluation()])
    verdict = await make_judge(player, genetics).evaluate(attack, Defence("s", answer), DRAW, call)
    assert verdict.positive is positive


async def test_judge_alone_decides_about_free_text(player, script_call):
    domain = GSMHARD.model_copy(update={"answer": "text"})
    assert is_same_answer(domain, "a mutation", "the mutation") is None
    call = script_call([make_evaluation()])
    verdict = await make_judge(player, domain).evaluate(ATTACK, Defence("s", "other"), DRAW, call)
    assert verdict.positive


@pytest.mark.parametrize(
    ("quality", "soft"),
    [
        ("SOUND", True),
        ("sound: right plan", True),
        ("**UNSOUND**, guesses", False),
        ("good", None),
        ("not sound", None),
    ],
)
async def test_soft_value_is_read_from_reasoning_quality(player, script_call, quality, soft):
    call = script_call([make_evaluation("INCORRECT", quality=quality)])
    verdict = await make_judge(player).evaluate(ATTACK, DEFENCE, DRAW, call)
    assert (verdict.positive, verdict.soft) == (False, soft)


async def test_overruled_verdict_keeps_its_soft_value(player, script_call):
    verdict = await make_judge(player).evaluate(ATTACK, Defence("s", "41"), DRAW, script_call([make_evaluation()]))
    assert (verdict.positive, verdict.soft) == (False, True)
