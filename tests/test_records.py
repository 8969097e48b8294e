"""Records: canonical JSON, pinned hashes, and replies and turns that are read back unchanged."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from nanoflux_local.records import (
    ChatReply,
    ChatRequest,
    CutReply,
    CutRequest,
    EmbedReply,
    EmbedRequest,
    Identity,
    Message,
    PythonReply,
    PythonRequest,
    Sampling,
    canonical_json,
    derive_seed,
    digest,
)
from nanoflux_local.transcript import (
    OUTCOMES,
    Attack,
    Attempt,
    Defence,
    Example,
    Exhibit,
    Finding,
    Sample,
    Source,
    TurnRecord,
    Verdict,
    dataset_digest,
    turn_from_json,
    verdict_from_json,
)

# The request that the tests vary.
IDENTITY = Identity("scripted", "fake", "1")
CHAT_REQUEST = ChatRequest(IDENTITY, (Message("user", "2 + 2?"),), Sampling(0.5, 0.9, 64, ("\n",)), 7)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1, 2.5, None, True]}, '{"a":[1,2.5,null,true],"b":1}'),
        ({"ä": "θ≈"}, '{"ä":"θ≈"}'),
        ((1, "x"), '[1,"x"]'),
        ("a\n\"b\"\\", '"a\\n\\"b\\"\\\\"'),
        ("\ud800x", '"\\ud800x"'),
        ("😀", '"😀"'),
    ],
)  # fmt: skip
def test_canonical_json_is_sorted_compact_and_unescaped(value, text):
    assert canonical_json(value) == text
    assert json.loads(canonical_json(value)) == json.loads(json.dumps(value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"x": [math.nan]}])
def test_canonical_json_refuses_nan_and_infinities(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_lone_surrogates_hash_differently_from_their_escapes():
    texts = ["\ud800", "\\ud800", "\udfff", "?", "\ud83d\ude00", "😀"]
    assert len({digest(text) for text in texts}) == len(texts)


def test_request_keys_are_pinned():
    """If the keys changed, no stored call of any ledger would be reused."""
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert CHAT_REQUEST.key() == "6bc48be25cdf1fb797fffd49fa6650c4d0054703815e804564673af094b2f4d3"
    default_chat_key = ChatRequest(IDENTITY, CHAT_REQUEST.messages).key()
    assert default_chat_key == "c4104a9f431adcf9d0ad3bbffaec00b29d19b5b47103ede8dd2d6819f3857e8e"
    python_key = PythonRequest(IDENTITY, "print(1)").key()
    assert python_key == "8fce2b6e561ecdcac3d0416e4be9d485775a31ba98360d19a08ac3d9d34f3c41"


@pytest.mark.parametrize(
    "changed_request",
    [
        replace(CHAT_REQUEST, seed=8),
        replace(CHAT_REQUEST, messages=(Message("system", "2 + 2?"),)),
        replace(CHAT_REQUEST, messages=(*CHAT_REQUEST.messages, Message("assistant", ""))),
        replace(CHAT_REQUEST, endpoint=replace(IDENTITY, adapter="abc")),
        replace(CHAT_REQUEST, endpoint=replace(IDENTITY, revision="2")),
        replace(CHAT_REQUEST, endpoint=replace(IDENTITY, variant="bf16")),
        *(replace(CHAT_REQUEST, sampling=replace(CHAT_REQUEST.sampling, **{key: value}))
          for key, value in {"temperature": 0.6, "top_p": 0.8, "max_tokens": 65, "stop": ()}.items()),
    ],
)  # fmt: skip
def test_request_key_depends_on_every_field(changed_request):
    assert changed_request.key() != CHAT_REQUEST.key()


def test_request_kinds_never_share_a_key():
    """An embedding and cuts of the same text have different keys."""
    requests = [EmbedRequest(IDENTITY, "x"), CutRequest(IDENTITY, "x", 5), CutRequest(IDENTITY, "x", 6)]
    assert len({request.key() for request in requests}) == 3
    assert json.loads(canonical_json(requests[0].to_json())) == {
        "endpoint": {"interface": "scripted", "model": "fake", "revision": "1", "adapter": "", "variant": ""},
        "text": "x",
    }


@pytest.mark.parametrize(
    "reply",
    [
        ChatReply("a \ud800 b", "length", 3, 4, 0.5, 0.01),
        CutReply("beginning", False),
        PythonReply("ok", None, "4\n", "", False, "none", 0.1),
        EmbedReply.of(np.array([0.6, 0.8], dtype=np.float32)),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_reply_survives_conversion_to_json_and_back(reply):
    assert type(reply).from_json(json.loads(canonical_json(reply.to_json()))) == reply


def test_embedding_survives_storage_bit_for_bit():
    vector = np.random.default_rng(0).standard_normal(384).astype(np.float32)
    stored_vector = EmbedReply.of(vector).vector
    assert stored_vector.dtype == np.dtype("<f4")
    assert np.array_equal(stored_vector, vector)


def test_derived_seeds_are_pinned_and_spread_over_63_bits():
    assert derive_seed(1, 2, 0, "attack", 0) == 5267372013395876215
    assert derive_seed("split", "x") == 5332339655490169114
    seeds = {derive_seed(run, turn, step) for run in range(10) for turn in range(100) for step in ("a", "b")}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62, "no derived seed has its highest bit set"
    assert derive_seed(1, 23) != derive_seed(12, 3), "the parts 1 and 23 give the same seed as the parts 12 and 3"


def make_turn(**changes) -> TurnRecord:
    """A kept turn of two attempts, with changes to fields of the last attempt."""
    attack = Attack("Q", "S", "4", "print(4)", {"REFLECTION": "r"})
    verdict = Verdict(True, 0.95, "fine", soft=True, asked=2, findings=(Finding("code", "supports", "d"),))
    first_attempt = Attempt(0, ("a", "b"), "invalid", "unclear", attack, 0.5, replace(verdict, positive=False))
    last_attempt = Attempt(
        1, ("c",), "kept_failed", "", attack, None, verdict, Defence("s", "5", "a", ("SOLUTION",)), verdict
    )
    return TurnRecord(3, "one", "other", "judge", (first_attempt, replace(last_attempt, **changes)))


def test_verdict_of_an_older_version_is_read_as_findings():
    stored_verdict = {
        "positive": False, "confidence": 0.95, "explanation": "so", "check": "disagrees", "check_detail": "41, not 42",
        "program": "answer = 41", "lookup": "1 searches: 1 found",
        "searches": [{"query": "q", "outcome": "found", "detail": "", "results": [
            {"title": "t", "place": "p", "snippet": "s"}]}],
    }  # fmt: skip
    verdict = verdict_from_json(**stored_verdict)
    assert [(finding.check, finding.conclusion) for finding in verdict.findings] == [
        ("facts", "not checked"),
        ("code", "contradicts"),
    ]
    assert verdict.finding("facts").evidence == (Exhibit("search", "q", "found", "", (Source("t", "p", "s"),)),)
    assert verdict.finding("code").evidence == (Exhibit("program", "answer = 41"),)
    assert verdict.accepted_by_judge and verdict.finding("blind") is None
    assert verdict_from_json(positive=True, confidence=1.0, explanation="e", check="not checked").findings == ()


def test_records_are_immutable():
    for record in (
        IDENTITY,
        CHAT_REQUEST,
        CHAT_REQUEST.messages[0],
        CHAT_REQUEST.sampling,
        make_turn(),
        make_turn().last_attempt,
        Example.of(make_turn()),
    ):
        with pytest.raises(AttributeError):
            first_field = record.__slots__[0]
            setattr(record, first_field, None)


# Further answers of the defender: a right one, a wrong one, and one that could not be read.
SAMPLES = (
    Sample(Defence("s", "4", "a", ("SOLUTION",)), True, "the answer is 4"),
    Sample(Defence("s", "5"), False),
    Sample(None, None, "ANSWER is missing"),
)


def test_turn_survives_conversion_to_json_and_back():
    blind_solution = Exhibit("program", "answer = 4", "4", author="other", agrees=True)
    verdict = Verdict(True, 1.0, "fine", findings=(Finding("blind", "supports", evidence=(blind_solution,)),))
    record = make_turn(samples=SAMPLES, validation=verdict)
    assert turn_from_json(json.loads(canonical_json(record.to_json()))) == record


def test_turn_of_an_older_version_takes_the_defaults_of_newer_fields():
    stored_turn = make_turn().to_json()
    for attempt in stored_turn["attempts"]:
        del attempt["samples"]
    assert turn_from_json(json.loads(canonical_json(stored_turn))) == make_turn()
    stored_finding = {"check": "code", "conclusion": "supports", "reason": "", "evidence": [
        {"kind": "program", "text": "answer = 4", "outcome": "", "detail": "", "results": []}]}  # fmt: skip
    verdict = verdict_from_json(positive=True, confidence=1.0, explanation="", findings=[stored_finding])
    assert verdict.findings[0].evidence == (Exhibit("program", "answer = 4"),)


def test_pass_rate_counts_the_first_defence_and_every_judged_sample():
    rejection = Verdict(False, 1.0, "wrong")
    assert make_turn(samples=SAMPLES).last_attempt.pass_rate == (2, 3)
    assert make_turn(samples=SAMPLES, evaluation=rejection).last_attempt.pass_rate == (1, 3)
    assert make_turn(evaluation=rejection).last_attempt.pass_rate == (0, 1)
    assert make_turn(evaluation=None).last_attempt.pass_rate is None


@pytest.mark.parametrize(
    ("outcome", "has_defence", "turn_outcome"),
    [
        ("unparsed", False, "exhausted"),
        ("novelty_rejected", False, "exhausted"),
        ("invalid", False, "exhausted"),
        ("low_confidence", False, "exhausted"),
        ("low_confidence", True, "dropped"),
        ("defender_right", True, "dropped"),
        ("unproven", True, "dropped"),
        ("unproven", False, "exhausted"),
        ("kept_failed", True, "kept"),
        ("kept_novel", True, "kept"),
        ("failed", False, "failed"),
        ("failed", True, "failed"),
    ],
)
def test_turn_outcome_follows_from_the_last_attempt(outcome, has_defence, turn_outcome):
    assert outcome in OUTCOMES
    record = make_turn(outcome=outcome) if has_defence else make_turn(outcome=outcome, defence=None)
    assert record.outcome == turn_outcome
    assert record.kept is (turn_outcome == "kept")


def test_example_contains_the_attack_of_a_kept_turn():
    assert Example.of(make_turn()) == Example(3, "Q", "S", "4", "kept_failed")
    with pytest.raises(ValueError, match="turn 3 was not kept"):
        Example.of(make_turn(outcome="defender_right"))


def test_dataset_digest_depends_on_order_and_every_field():
    first, second = Example(0, "Q", "S", "4", "kept_failed"), Example(1, "Q2", "S", "5", "kept_novel")
    changes = {"turn": 9, "question": "x", "solution": "x", "answer": "x", "reason": "x"}
    datasets = [[], [first], [first, second], [second, first], [first, first]]
    datasets += [[replace(first, **{field: value})] for field, value in changes.items()]
    assert len({dataset_digest(dataset) for dataset in datasets}) == len(datasets)
    assert dataset_digest(iter([first, second])) == dataset_digest([first, second])
