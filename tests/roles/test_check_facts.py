"""The fact check: which queries it reads, which results the judge sees, and how search outcomes are reported."""

import pytest

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import load_built_in
from nanoflux_local.records import ChatReply, Identity, SearchReply, SearchRequest
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.checking import CheckingJudge
from nanoflux_local.roles.checks.facts import MAX_QUERY_CHARACTERS, FactCheck
from nanoflux_local.roles.judge import ModelJudge
from nanoflux_local.transcript import Attack, Attempt, Exhibit, Source, TurnRecord, turn_from_json

MEDICINE = load_built_in("starter-medicine")
ENGINE = Identity("search", "corpus", "r")
DRAW = Draw(run_seed=1, turn=2, attempt=3)
ATTACK = Attack("Which vitamin? A. C B. D", "Scurvy follows lack of C.", "A")
VALID_REPLY = "ANALYSIS: a\nVERIFICATION: v\nDECISION: VALID\nCONFIDENCE: 0.95\nEXPLANATION: so"
"""The reply of a judge that accepts an attack."""
FOUND_REPLY = SearchReply("found", "", (("Vitamin C", "facts.jsonl, line 1", "Scurvy follows its lack."),))
REPLY_BY_QUERY = {
    "found": FOUND_REPLY, "nothing": SearchReply("nothing"), "timeout": SearchReply("timeout", "no answer within 30 s"),
    "refused": SearchReply("refused", "refused to reach x"), "failed": SearchReply("failed", "status 500"),
}  # fmt: skip
"""The reply to each query. A query has the name of its outcome."""


class FakeCall:
    """Answers prompts with the `replies` in order, and repeats the last one. Answers searches from `REPLY_BY_QUERY`."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.prompts: list[str] = []
        self.searches: list[SearchRequest] = []

    async def __call__(self, request):
        if isinstance(request, SearchRequest):
            self.searches.append(request)
            return REPLY_BY_QUERY[request.query]
        self.prompts.append(request.messages[-1].content)
        is_last_reply = len(self.replies) == 1
        return ChatReply(self.replies[0] if is_last_reply else self.replies.pop(0), "stop")


def make_fact_check(player, queries=5) -> FactCheck:
    """A fact check with at most 4 results and 30 s for each search."""
    return FactCheck(MEDICINE, player, ENGINE, queries, top=4, timeout_s=30.0, retries=1)


def make_judge(player) -> CheckingJudge:
    """A judge with the fact check."""
    return CheckingJudge(ModelJudge(MEDICINE, player, JudgeRules(), 1), (make_fact_check(player),))


QUERIES_BY_REPLY = {
    "QUERIES:\nfound\nnothing": ["found", "nothing"],
    "QUERIES: found": ["found"],
    "**QUERIES:**\n1. found\n2) nothing\n- timeout\n* `refused`\n5. \"failed\"": list(REPLY_BY_QUERY),
    "QUERIES:\nfound\nfound\n\nnothing": ["found", "nothing"],
    "QUERIES: found, nothing, timeout": ["found", "nothing", "timeout"],
    "QUERIES: NONE": [], "QUERIES:\nNone.": [],
    '{"QUERIES": "found\\nnothing"}': ["found", "nothing"],
}  # fmt: skip
"""The judge's replies, each with the queries that are read from it."""


@pytest.mark.parametrize(("text", "queries"), QUERIES_BY_REPLY.items())
async def test_fact_queries_are_read_one_per_line(player, text, queries):
    call = FakeCall(text)
    finding = await make_fact_check(player).examine(ATTACK, DRAW, call)
    assert [search.query for search in finding.evidence] == [request.query for request in call.searches] == queries
    assert all((request.endpoint, request.top, request.timeout_s) == (ENGINE, 4, 30.0) for request in call.searches)


async def test_fact_queries_are_limited_in_number(player):
    call = FakeCall("QUERIES:\nfound\nnothing\ntimeout")
    finding = await make_fact_check(player, queries=2).examine(ATTACK, DRAW, call)
    assert len(finding.evidence) == 2 and finding.reason == "2 searches: 1 found, 1 found nothing"


async def test_fact_queries_are_limited_in_length(player, monkeypatch):
    monkeypatch.setitem(REPLY_BY_QUERY, "w" * MAX_QUERY_CHARACTERS, FOUND_REPLY)
    call = FakeCall("QUERIES: " + "w" * 999)
    await make_fact_check(player).examine(ATTACK, DRAW, call)
    assert [len(request.query) for request in call.searches] == [MAX_QUERY_CHARACTERS]


async def test_search_outcomes_are_in_the_verdict_and_the_prompt_of_the_judge(player):
    call = FakeCall("QUERIES:\n" + "\n".join(REPLY_BY_QUERY), VALID_REPLY)
    verdict = await make_judge(player).validate(ATTACK, DRAW, call)
    assert verdict.positive
    finding = verdict.finding("facts")
    assert finding.conclusion == "not checked"
    assert finding.reason == "5 searches: 1 found, 1 found nothing, 1 timed out, 1 refused, 1 failed"
    assert [search.outcome for search in finding.evidence] == list(REPLY_BY_QUERY)
    assert finding.evidence[0].results == (Source("Vitamin C", "facts.jsonl, line 1", "Scurvy follows its lack."),)
    assert finding.evidence[2].detail == "no answer within 30 s"
    judge_prompt = call.prompts[-1]
    for line in ("[Vitamin C; facts.jsonl, line 1] Scurvy follows its lack.", "the search timed out",
                 "the search was refused", "the search failed", "nothing was found"):  # fmt: skip
        assert line in judge_prompt


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (["QUERIES: NONE"], "the judge named nothing to look up"),
        (["no", "no"], "nothing was looked up: missing section QUERIES"),
    ],
)
async def test_fact_check_without_queries_does_not_change_the_verdict(player, replies, reason):
    call = FakeCall(*replies, VALID_REPLY)
    verdict = await make_judge(player).validate(ATTACK, DRAW, call)
    finding = verdict.finding("facts")
    assert verdict.positive and finding.reason == reason and not finding.evidence
    assert "looked up about it" not in call.prompts[-1]


async def test_search_results_are_stored_with_the_turn(player):
    verdict = await make_judge(player).validate(ATTACK, DRAW, FakeCall("QUERIES: found", VALID_REPLY))
    attempt = Attempt(0, ("s",), "invalid", attack=ATTACK, validation=verdict)
    record = TurnRecord(0, "a", "d", "j", (attempt,))
    assert turn_from_json(record.to_json()) == record
    assert isinstance(attempt.validation.finding("facts").evidence[0], Exhibit)
