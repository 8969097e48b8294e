"""The items of evaluations and the flips between evaluations are read from a ledger with repeats and missing marks."""

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
EVALUATIONS = {
    "tuned0": ("adapter0", {"a": "rr", "b": "rw", "c": "ww", "d": "r?"}),
    "base00": ("", {"a": "rr", "b": "ww", "c": "rr", "d": "??"}),
    "tuned1": ("adapter1", {"a": "wr", "b": "ww", "c": "rr", "d": "rr"}),
}
"""For each evaluation: its adapter, and for each of four items (a to d) two marks, one per repeat, as letters."""
MARK_BY_CHARACTER = {"r": "right", "w": "wrong", "?": "unscored"}


@pytest.fixture
def evaluations(tmp_path: Path):
    """A view of a ledger with `EVALUATIONS`, and the items' ids by letter."""
    path = tmp_path / "ledger.db"
    item_ids = [item.id for item in load_available_items(path, "starter-easy", "test")[:4]]
    item_by_letter = dict(zip("abcd", item_ids, strict=True))
    with Ledger(path) as ledger:
        for evaluation, (adapter, marks_by_letter) in EVALUATIONS.items():
            identity = Identity("scripted", "m", adapter=adapter)
            ledger.start_evaluation(evaluation, "m", adapter, "starter-easy", "test", SETTINGS)
            for letter, marks in marks_by_letter.items():
                for repeat, character in enumerate(marks):
                    request = ChatRequest(identity, (Message("user", letter),), Sampling(), repeat)
                    reply = ChatReply(f"ANSWER: {character}", "stop", 1, 1)
                    call, _ = ledger.remember(evaluation, request, reply)
                    item, mark = item_by_letter[letter], MARK_BY_CHARACTER[character]
                    ledger.add_evaluation_item(evaluation, repeat, item, call, f"read {character}", mark)
            ledger.finish_evaluation(evaluation, "done", {"strict": {"mean": 0.5}, "unscored_reasons": []})
    with LedgerView(path) as view:
        yield view, item_by_letter


def test_items_have_their_share_of_right_replies(evaluations) -> None:
    view, item_by_letter = evaluations
    scores = {score.item: score for score in list_items(view, "tuned0")}
    assert scores[item_by_letter["b"]] == ItemScore(item_by_letter["b"], 1, 2, 2, ("read r", "read w"))
    assert [scores[item_by_letter[letter]].share for letter in "abcd"] == [1.0, 0.5, 0.0, 1.0]
    base_shares = {score.item: score.share for score in list_items(view, "base00")}
    assert base_shares[item_by_letter["d"]] is None, "item d must have no share, because none of its replies was scored"


def test_flips_list_lost_items_first_and_leave_out_unscored_items(evaluations) -> None:
    view, item_by_letter = evaluations
    assert list_flips(view, "base00", "tuned0") == [
        Flip(item_by_letter["c"], 1.0, 0.0),
        Flip(item_by_letter["b"], 0.0, 0.5),
    ]
    assert list_flips(view, "base00", "base00") == []


def test_comparison_takes_the_evaluation_without_an_adapter_as_the_base(evaluations) -> None:
    view, _ = evaluations
    assert order_base_first(view, ["tuned1", "tuned0", "base00"]) == ["base00", "tuned1", "tuned0"]
    for compared in (["tuned0", "base00"], ["base00", "tuned0"]):
        (pair,) = compare(view, compared).pairs
        assert (pair.a, pair.b, pair.n, pair.left_out) == ("base00", "tuned0", 3, 1)
        assert pair.difference == pytest.approx((0.5 - 1.0) / 3) and (pair.gained, pair.lost) == (1, 1)
        assert list(pair.flips) == list_flips(view, "base00", "tuned0")


def test_mean_difference_equals_the_mean_change_of_the_flips(evaluations) -> None:
    view, _ = evaluations
    for pair in compare(view, list(EVALUATIONS)).pairs:
        total_change = sum(flip.other - flip.base for flip in pair.flips)
        assert pair.difference == pytest.approx(total_change / pair.n)


def test_load_item_returns_question_gold_answer_and_replies(evaluations) -> None:
    view, item_by_letter = evaluations
    seed = load_questions(view, "tuned0")[item_by_letter["b"]]
    record = load_item(view, "tuned0", item_by_letter["b"])
    assert record.question.startswith(seed.question) and record.answer == seed.answer
    assert [(reply.repeat, reply.mark, reply.reading, reply.text) for reply in record.replies] == [
        (0, "right", "read r", "ANSWER: r"),
        (1, "wrong", "read w", "ANSWER: w"),
    ]
    assert load_item(view, "tuned0", item_by_letter["b"], questions={}).question == NO_QUESTION
    with pytest.raises(NothingMatchedError, match="has no item 'nothing'"):
        load_item(view, "tuned0", "nothing")


def test_evaluation_is_found_by_a_unique_prefix_of_its_id(evaluations) -> None:
    view, _ = evaluations
    assert find_evaluation(view, "base").settings == SETTINGS
    with pytest.raises(NothingMatchedError, match="'tuned' is the beginning of several evaluation ids: tuned0, "):
        find_evaluation(view, "tuned")
    for name in ("", "nothing", "%"):
        with pytest.raises(NothingMatchedError, match="no evaluation"):
            find_evaluation(view, name)
