"""The checks for questions about documents, `cited`, `grounded` and `open_book`, and the search for quotations."""

import pytest

from nanoflux_local.answers import same_short_text
from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import ConfigError
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checks.base import CheckContext, list_check_classes
from nanoflux_local.roles.checks.cited import CitedCheck
from nanoflux_local.roles.checks.grounded import GroundedCheck
from nanoflux_local.roles.checks.open_book import OpenBookCheck
from nanoflux_local.roles.checks.quotations import Quotation, find_passage, read_quotations
from nanoflux_local.transcript import Attack, Attempt, Citation, Seed, Verdict

DOCUMENTS = load_domain("documents")
CHOICE_DOCUMENTS = load_domain("documents-choice")
DRAW = Draw(run_seed=1, turn=2, attempt=3)
PASSAGES = (
    Seed("1", "d", "Vaccines are kept between 2 and 8 degrees; a reading outside is reported within 30 minutes.", "",
         source="cold.docx", place="Refrigerators"),
    Seed("2", "d", "The pharma- cist on duty is reached at extension 417. Gloves (nitrile) do not replace washing.", "",
         source="staff.pdf", place="page 3"),
    Seed("3", "d", "The store opens at seven.", "", source="store.md", place="Hours"),
)  # fmt: skip
"""Passages of three documents. A line break in the second document has divided the word "pharmacist"."""
RANGE_CITATION = '1: "kept between 2 and 8 degrees"'
DUTY_CITATION = '2: "on duty is reached at extension 417"'
"""Citations of the first and of the second passage, as an attacker writes them."""


def make_attack(citations: str = f"{RANGE_CITATION}\n{DUTY_CITATION}", answer: str = "extension 417") -> Attack:
    """An attack that cites passages."""
    return Attack("Whom does one call?", "SECRET steps of the solution", answer, notes={"CITATIONS": citations})


@pytest.mark.parametrize(
    ("text", "quotations"),
    [
        (
            f"{RANGE_CITATION}\n{DUTY_CITATION}",
            [("kept between 2 and 8 degrees", 1), ("on duty is reached at extension 417", 2)],
        ),
        ("[1] “a b c”\n- [2] d e f", [("a b c", 1), ("d e f", 2)]),
        ("Passage 3: \"a 'b' c\"", [("a 'b' c", 3)]),
        ('1: "a b c", 2: "d e f"', [("a b c", 1), ("d e f", 2)]),
        ('(2) "30 ml of water"', [("30 ml of water", 2)]),
        ("12 hours are the limit\n* two", [("12 hours are the limit", 0), ("two", 0)]),
        ('* "a b c" (passage 2)\n\n', [("a b c", 0)]),
        ('1. "a b"\n1. "a b"', [("a b", 1)]),
    ],
)
def test_quotations_are_read_with_their_passage_numbers(text: str, quotations: list[tuple[str, int]]) -> None:
    assert [(quotation.text, quotation.number) for quotation in read_quotations(text)] == quotations


@pytest.mark.parametrize(
    ("text", "number", "expected_id"),
    [
        ("Vaccines are kept between 2 and 8 degrees;", 1, "1"),
        ("vaccines ARE kept … within 30 minutes", 0, "1"),
        ("the pharmacist on duty is reached", 2, "2"),
        ("gloves nitrile do not replace", 1, "2"),
        ("the store opens at seven", 7, "3"),
        ("kept between 2 and 9 degrees", 1, None),
        ("kept between 28 degrees", 1, None),
        ("within 30 minutes … are kept", 1, None),
        ("30 minutes", 1, None),
        ("…", 1, None),
    ],
)
def test_find_passage_returns_the_passage_that_contains_the_quotation(
    text: str, number: int, expected_id: str | None
) -> None:
    passage = find_passage(Quotation(text, number), PASSAGES)
    assert (passage.id if passage else None) == expected_id


@pytest.mark.parametrize(
    ("citations", "conclusion", "reason"),
    [
        (f"{RANGE_CITATION}\n{DUTY_CITATION}", "supports", "the 2 citations are in 2 of the passages"),
        (f"{RANGE_CITATION}\n2: “the store opens at seven”", "supports", "the 2 citations"),
        (f'{RANGE_CITATION}\n{DUTY_CITATION}\n3: "opens at eight"', "contradicts", "no passage says 'opens at eight'"),
        (f'{RANGE_CITATION}\n1: "reported within 30 minutes"', "contradicts", "a single passage"),
        (f'{RANGE_CITATION}\n{DUTY_CITATION}\n3: "at seven"', "contradicts", "no passage says 'at seven'"),
        ("---", "contradicts", "the attacker cites nothing"),
    ],
)
async def test_cited_check_draws_its_conclusion_without_a_model(
    script_call, citations: str, conclusion: str, reason: str
) -> None:
    call = script_call([])
    finding = await CitedCheck().examine(make_attack(citations), DRAW, call, PASSAGES)
    assert (finding.check, finding.conclusion) == ("cited", conclusion) and reason in finding.reason
    assert not call.requests


async def test_cited_check_rejects_a_question_that_refers_to_a_passage_by_its_number(script_call) -> None:
    attack = Attack("What does Passage 2 say?", "S", "A", notes=make_attack().notes)
    finding = await CitedCheck().examine(attack, DRAW, script_call([]), PASSAGES)
    assert finding.conclusion == "contradicts" and "by its number" in finding.reason


async def test_cited_check_without_passages_or_citations_concludes_nothing(script_call) -> None:
    attack_without_citations = Attack("Q?", "S", "A")
    for attack, seeds in ((make_attack(), ()), (attack_without_citations, PASSAGES)):
        finding = await CitedCheck().examine(attack, DRAW, script_call([]), seeds)
        assert finding.conclusion == "not checked" and finding.reason.startswith("the question has no")


async def test_attempt_has_only_the_citations_that_the_passages_contain(script_call) -> None:
    attack = make_attack(f'{RANGE_CITATION}\n{DUTY_CITATION}\n"opens at eight"')
    finding = await CitedCheck().examine(attack, DRAW, script_call([]), PASSAGES)
    attempt = Attempt(0, ("1", "2"), "invalid", validation=Verdict(False, 1.0, "", findings=(finding,)))
    assert attempt.citations == (
        Citation("cold.docx", "Refrigerators", "kept between 2 and 8 degrees"),
        Citation("staff.pdf", "page 3", "on duty is reached at extension 417"),
    )
    assert Attempt(0, (), "unparsed").citations == ()


# The grounded check


def make_grounded_reply(premises: str = f"{RANGE_CITATION}\n{DUTY_CITATION}", unsupported: str = "NONE") -> str:
    """A judge's reply with these sections."""
    return f"PREMISES: {premises}\nUNSUPPORTED: {unsupported}"


@pytest.mark.parametrize(
    ("text", "conclusion", "reason"),
    [
        (make_grounded_reply(), "supports", "the 2 quoted premises are in the passages"),
        (make_grounded_reply(unsupported="None."), "supports", "the 2 quoted premises"),
        (
            make_grounded_reply(unsupported="None of the claims about the night is in a passage"),
            "not checked",
            "this may mean that there is none",
        ),
        (
            make_grounded_reply(unsupported="that the pharmacist works at night"),
            "contradicts",
            "unsupported: that the pharmacist",
        ),
        (make_grounded_reply(unsupported=f"{DUTY_CITATION}\n{RANGE_CITATION}"), "supports", "the 2 quoted premises"),
        (make_grounded_reply(unsupported=f'{DUTY_CITATION}\n"kept at 5 degrees"'), "contradicts", "unsupported: 2: "),
        (
            make_grounded_reply('1: "kept at 5 degrees"'),
            "not checked",
            "the judge quotes what no passage says: 'kept at 5 degrees'",
        ),
        (make_grounded_reply("NONE"), "not checked", "the judge quotes no premise"),
        (
            make_grounded_reply(unsupported="NONE, or what the solution uses although no passage states it"),
            "not checked",
            "description",
        ),
        ("I would rather not say.", "not checked", "missing section PREMISES"),
        (make_grounded_reply() + "\nUNSUPPORTED: the price", "not checked", "given twice"),
    ],
)
async def test_grounded_check_draws_its_conclusion_from_the_reply(
    player, script_call, text: str, conclusion: str, reason: str
) -> None:
    call = script_call(lambda _: text)
    finding = await GroundedCheck(DOCUMENTS, player, 0).examine(make_attack(), DRAW, call, PASSAGES)
    assert (finding.check, finding.conclusion) == ("grounded", conclusion) and reason in finding.reason
    assert len(call.requests) == 1 and all(passage.question in call.prompts[0] for passage in PASSAGES)
    assert "card K-4 every morning" in call.prompts[0], "the prompt lacks its worked example"


async def test_grounded_check_requests_an_unreadable_reply_again(player, script_call) -> None:
    call = script_call(["no sections", make_grounded_reply()])
    finding = await GroundedCheck(DOCUMENTS, player, 1).examine(make_attack(), DRAW, call, PASSAGES)
    assert finding.conclusion == "supports" and len({request.seed for request in call.requests}) == 2


async def test_grounded_check_without_passages_concludes_nothing(player, script_call) -> None:
    finding = await GroundedCheck(DOCUMENTS, player, 1).examine(make_attack(), DRAW, script_call([]))
    assert finding.conclusion == "not checked"


# The open-book check


def make_solution(answer: str) -> str:
    """A solver's reply with this answer."""
    return f"SOLUTION: by the rules.\nANSWER: {answer}"


def complete_reply(reply: str) -> str:
    """The reply itself, or, if it is only an answer, a solution with this answer."""
    is_whole_reply = reply.startswith("SOLUTION") or reply == "no sections"
    return reply if is_whole_reply else make_solution(reply)


CANNOT_SOLUTION = make_solution("CANNOT BE ANSWERED, because the number is not given")


@pytest.mark.parametrize(
    ("replies", "conclusion", "reason"),
    [
        (["Extension 417.", "112"], "supports", "is not reached without them"),
        (["the extension 417", CANNOT_SOLUTION], "supports", "is not reached without them"),
        (["200", "extension 417", "417 extension", "999"], "supports", "is not reached without them"),
        (["extension 417", "extension 417", "extension 417"], "contradicts", "all 2 answers without the passages"),
        (
            ["extension 200", "extension 300"],
            "contradicts",
            "the answer is extension 200 and extension 300, the author",
        ),
        ([CANNOT_SOLUTION, CANNOT_SOLUTION], "contradicts", "CANNOT BE ANSWERED"),
        (["extension of the porter", "extension 200"], "not checked", "could be compared"),
        (["?", "no sections"], "not checked", "could be compared"),
        (["extension 417", "no sections", "no sections"], "not checked", "unreadable"),
    ],
)
async def test_open_book_check_draws_its_conclusion_from_the_answers(
    player, script_call, replies: list[str], conclusion: str, reason: str
) -> None:
    call = script_call([complete_reply(reply) for reply in replies])
    finding = await OpenBookCheck(DOCUMENTS, (player,)).examine(make_attack(), DRAW, call, PASSAGES)
    assert (finding.conclusion, len(call.requests)) == (conclusion, len(replies)) and reason in finding.reason
    assert len({request.seed for request in call.requests}) == len(replies)
    assert not any("SECRET" in prompt for prompt in call.prompts)
    methods = [
        "with the passages" if PASSAGES[1].question in prompt else "without the passages" for prompt in call.prompts
    ]
    assert methods == sorted(methods), "a solver without the passages was asked before a solver with them"
    assert methods[0] == "with the passages"
    assert [exhibit.detail.split(":")[0] for exhibit in finding.evidence] == methods


async def test_open_book_check_compares_letters(player, script_call) -> None:
    call = script_call([make_solution("(B)"), make_solution("C")])
    finding = await OpenBookCheck(CHOICE_DOCUMENTS, (player,)).examine(make_attack(answer="B"), DRAW, call, PASSAGES)
    assert finding.conclusion == "supports" and [exhibit.agrees for exhibit in finding.evidence] == [True, False]


@pytest.mark.parametrize(
    ("answer", "expected", "is_same"),
    [
        ("45 minutes", "45 minutes.", True), ("After 45 minutes", "45 minutes", True), ("the Porter", "porter", True),
        ("30 minutes", "45 minutes", False), ("not required", "required", False), ("the nurse", "a porter", False),
        ("within 45 minutes of the call", "after 45 minutes", None), ("3.5 ml", "3 ml", False), ("", "", None),
        ("the head nurse", "the head porter", None), ("5 ml of rub", "rub", None),
    ],
)  # fmt: skip
def test_short_texts_are_compared_by_words_and_numbers(answer: str, expected: str, is_same: bool | None) -> None:
    assert same_short_text(answer, expected) is is_same
    assert same_short_text(expected, answer) is is_same


@pytest.mark.parametrize("name", ["grounded", "open_book"])
def test_document_check_is_refused_for_other_domains(player, name: str) -> None:
    class JudgeConfig:
        """A run's configuration, reduced to the judge's rules."""

        judge = JudgeRules()

    context = CheckContext(JudgeConfig(), load_domain("gsmhard"), player, (player,), {})
    with pytest.raises(ConfigError, match=f"'{name}' needs passages"):
        list_check_classes()[name].build(context)
