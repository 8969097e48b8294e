"""The answerability check: how the judge's reply is read, how quotations are looked up, and what it concludes."""

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checks.answerable import AnswerableCheck, is_quoted_from
from nanoflux_local.transcript import Attack

GSMHARD = load_domain("gsmhard")
DRAW = Draw(run_seed=1, turn=2, attempt=3)
ATTACK = Attack("Ada packs 6 boxes of $7.50 eggs each.\nShe  **gives 5** away. How many boxes are left?", "SECRET", "1")
"""An attack whose solution, SECRET, must not be in the prompt."""


def make_reply(quotations: str, missing: str = "NONE", contradiction: str = "NONE") -> str:
    """A judge's reply with these sections."""
    return f"ASKED: the boxes left\nGIVEN: {quotations}\nMISSING: {missing}\nCONTRADICTION: {contradiction}"


BOXES = '"Ada packs 6 boxes"'
GIFT = '"gives 5 away"'
"""Two quotations from the question."""
CONCLUSIONS = [
    (make_reply(f"{BOXES}\n{GIFT}"), "supports", "every quoted statement"),
    (make_reply("1. Ada packs 6 boxes\n- gives 5 away"), "supports", "every quoted statement"),
    (make_reply("“ada packs 6 boxes of $7.50 eggs … she gives 5”"), "supports", "every quoted statement"),
    (f"**GIVEN:** {BOXES}\n**ASKED:** x\n**MISSING:** None.\n**CONTRADICTION:** *none*", "supports", "every quoted"),
    (make_reply(BOXES, "how many eggs are in a box"), "contradicts", "missing: how many eggs are in a box"),
    (make_reply(BOXES, "NONE", f"{BOXES} and {GIFT}"), "contradicts", "contradictory: "),
    (make_reply('"Ada packs 9 boxes"', "the price"), "not checked",
     "what the question does not say: 'Ada packs 9 boxes'"),
    (make_reply(BOXES, "NONE", '"Ada packs 9 boxes"'), "not checked", "what the question does not say"),
    (make_reply(BOXES, "NONE", "the two sentences"), "not checked", "names a contradiction without a quotation"),
    (make_reply("NONE"), "not checked", "the judge quotes nothing that is given"),
    (make_reply(BOXES) + "\nMISSING: the price", "not checked", "given twice"),
    ("I would rather not say.", "not checked", "missing section ASKED"),
    (make_reply(BOXES, "NONE, or what is needed and nowhere stated, so that no answer can be found"), "not checked",
     "the prompt's own description"),
    (make_reply(BOXES, "No information is missing.", "There is no contradiction."), "supports", "every quoted"),
    (make_reply(BOXES, "-", "n/a"), "supports", "every quoted statement"),
    (make_reply(BOXES, "None of the prices of the eggs is stated"), "not checked", "this may mean that there is none"),
    (make_reply(BOXES, "NONE", "Nothing says how many"), "not checked", "this may mean that there is none"),
    (make_reply(BOXES, "No price of the eggs is given"), "contradicts", "missing: No price"),
    ('{"ASKED": "x", "GIVEN": ["Ada packs 6 boxes", "gives 5 away"], "MISSING": [], "CONTRADICTION": "NONE"}',
     "supports", "every quoted statement"),
]  # fmt: skip
"""Replies of the judge, each with the conclusion of the check and a part of its reason."""


@pytest.mark.parametrize(("text", "conclusion", "reason"), CONCLUSIONS)
async def test_answerable_check_draws_its_conclusion_from_the_reply(player, script_call, text, conclusion, reason):
    call = script_call(lambda _: text)
    finding = await AnswerableCheck(GSMHARD, player, 0).examine(ATTACK, DRAW, call)
    assert (finding.check, finding.conclusion) == ("answerable", conclusion)
    assert reason in finding.reason
    assert len(call.requests) == 1 and ATTACK.question in call.prompts[0] and "SECRET" not in call.prompts[0]


async def test_answerable_check_keeps_quotations_as_evidence(player, script_call):
    text = make_reply(f'{BOXES}\n"nobody"')
    finding = await AnswerableCheck(GSMHARD, player, 0).examine(ATTACK, DRAW, script_call([text]))
    assert [(exhibit.kind, exhibit.text, exhibit.outcome) for exhibit in finding.evidence] == [
        ("quotation", "Ada packs 6 boxes", "in the question"),
        ("quotation", "nobody", "not in the question"),
    ]


async def test_unreadable_reply_about_answerability_is_requested_again(player, script_call):
    call = script_call(["no sections", make_reply(BOXES)])
    finding = await AnswerableCheck(GSMHARD, player, 2).examine(ATTACK, DRAW, call)
    assert finding.conclusion == "supports"
    assert len({request.seed for request in call.requests}) == 2


@pytest.mark.parametrize(
    ("quotation", "is_quoted"),
    [
        ("ADA packs 6 boxes", True),
        ("packs 6 boxes of $7.50 eggs each. She gives", True),
        ("She gives 5 away.", True),
        ("Ada packs ... away", True),
        ("away … Ada packs", False),  # in the wrong order
        ("Ada packs 6 box", False),  # not a whole word
        ("6 boxes of $7.5 eggs", False),  # another number
        ("packs boxes", False),  # without an ellipsis
        ("…", False),
        ("", False),
    ],
)
def test_quotation_matches_only_whole_words_in_their_order(quotation, is_quoted):
    assert is_quoted_from(quotation, ATTACK.question) is is_quoted
