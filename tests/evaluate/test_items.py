"""Items of evaluations and flips between evaluations, read from a real ledger with repeats and missing marks."""

from pathlib import Path

import pytest

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.evaluate.comparison import compare
from nanoflux_local.evaluate.items import (
    NO_QUESTION,
    Flip,
    ItemScore,
    find_evaluation,
    list_flips,
    list_items,
    load_item,
    load_questions,
    order_base_first,
)
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Message, Sampling
from nanoflux_local.seeds.datasets import load_available_items

SETTINGS = {"n": 4, "runs": 2, "items": "same"}
MARKS = {
    "tuned0": ("adapter0", {"a": "rr", "b": "rw", "c": "ww", "d": "r?"}),
    "base00": ("", {"a": "rr", "b": "ww", "c": "rr", "d": "??"}),
    "tuned1": ("adapter1", {"a": "wr", "b": "ww", "c": "rr", "d": "rr"}),
}
MARK_BY_LETTER = {"r": "right", "w": "wrong", "?": "unscored"}


@pytest.fixture
def view(tmp_path: Path):
    """Three evaluations of four items in two runs: item d has no mark in the base."""
    path = tmp_path / "ledger.db"
    questions = [item.id for item in load_available_items(path, "starter-easy", "test")[:4]]
    item_by_letter = dict(zip("abcd", questions, strict=True))
    with Ledger(path) as ledger:
        for evaluation, (adapter, marks) in MARKS.items():
            ledger.start_evaluation(evaluation, "m", adapter, "starter-easy", "test", SETTINGS)
            for letter, row in marks.items():
                for repeat, mark in enumerate(row):
                    request = ChatRequest(
                        Identity("scripted", "m", adapter=adapter), (Message("user", letter),), Sampling(), repeat
                    )
                    reply = ChatReply(f"ANSWER: {mark}", "stop", 1, 1)
                    call, _ = ledger.remember(evaluation, request, reply)
                    ledger.add_evaluation_item(
                        evaluation, repeat, item_by_letter[letter], call, f"read {mark}", MARK_BY_LETTER[mark]
                    )
            ledger.finish_evaluation(evaluation, "done", {"strict": {"mean": 0.5}, "unscored_reasons": []})
    with LedgerView(path) as ledger_view:
        yield ledger_view, item_by_letter


def test_items_have_their_share_of_right_replies(view) -> None:
    ledger, names = view
    scores = {score.item: score for score in list_items(ledger, "tuned0")}
    assert scores[names["b"]] == ItemScore(names["b"], 1, 2, 2, ("read r", "read w"))
    assert [scores[names[letter]].share for letter in "abcd"] == [1.0, 0.5, 0.0, 1.0]
    assert next(s for s in list_items(ledger, "base00") if s.item == names["d"]).share is None


def test_flips_are_lost_first_and_leave_out_items_without_a_mark(view) -> None:
    ledger, names = view
    assert list_flips(ledger, "base00", "tuned0") == [Flip(names["c"], 1.0, 0.0), Flip(names["b"], 0.0, 0.5)]
    assert list_flips(ledger, "base00", "base00") == []


def test_base_is_the_reference_whatever_the_order(view) -> None:
    ledger, _ = view
    assert order_base_first(ledger, ["tuned1", "tuned0", "base00"]) == ["base00", "tuned1", "tuned0"]
    for order in (["tuned0", "base00"], ["base00", "tuned0"]):
        (pair,) = compare(ledger, order).pairs
        assert (pair.a, pair.b, pair.n, pair.left_out) == ("base00", "tuned0", 3, 1)
        assert pair.difference == pytest.approx((0.5 - 1.0) / 3) and (pair.gained, pair.lost) == (1, 1)
        assert list(pair.flips) == list_flips(ledger, "base00", "tuned0")


def test_comparison_counts_only_flips_that_its_tests_count(view) -> None:
    ledger, _ = view
    for pair in compare(ledger, list(MARKS)).pairs:
        shift = sum(flip.other - flip.base for flip in pair.flips)
        assert pair.difference == pytest.approx(shift / pair.n)


def test_item_has_its_question_gold_answer_and_replies(view) -> None:
    ledger, names = view
    seed = load_questions(ledger, "tuned0")[names["b"]]
    record = load_item(ledger, "tuned0", names["b"])
    assert record.question.startswith(seed.question) and record.answer == seed.answer
    assert [(reply.repeat, reply.mark, reply.reading, reply.text) for reply in record.replies] == [
        (0, "right", "read r", "ANSWER: r"),
        (1, "wrong", "read w", "ANSWER: w"),
    ]
    assert load_item(ledger, "tuned0", names["b"], {}).question == NO_QUESTION
    with pytest.raises(NothingMatchedError, match="has no item 'nothing'"):
        load_item(ledger, "tuned0", "nothing")


def test_evaluation_is_named_by_a_unique_beginning_of_its_id(view) -> None:
    ledger, _ = view
    assert find_evaluation(ledger, "base").settings == SETTINGS
    with pytest.raises(NothingMatchedError, match="2 evaluations have ids that start with 'tuned'"):
        find_evaluation(ledger, "tuned")
    for name in ("", "nothing", "%"):
        with pytest.raises(NothingMatchedError, match="no evaluation"):
            find_evaluation(ledger, name)
