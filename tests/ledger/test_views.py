"""`LedgerView` finds runs by id, id prefix or name, and counts each attempt, call and cost once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.ledger.packing import CALLS, WITH_KEY
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatReply, ChatRequest, Identity
from nanoflux_local.transcript import OUTCOMES, TurnRecord, dataset_digest

MakeTurn = Callable[..., TurnRecord]
CONFIG = {"domain": "starter", "target": 5, "max_turns": 9}
"""The configuration of further runs, reduced to the keys that `Ledger.create_run` reads."""


def test_find_run_accepts_an_id_an_id_prefix_or_a_name(ledger: Ledger, path: Path) -> None:
    for run, name in (("alpha-1", "mine"), ("alpha-2", "mine"), ("beta-1", "alpha-1")):
        ledger.create_run(run, name, CONFIG, {})
    with LedgerView(path) as view:
        for name, run in (("alpha-1", "alpha-1"), ("mine", "alpha-2"), ("be", "beta-1"), ("a name", "run")):
            assert view.find_run(name)["id"] == run
        for name in ("alpha-3", "%", "' OR 1 --", "", "min"):
            with pytest.raises(NothingMatchedError, match="there is no run"):
                view.find_run(name)
        with pytest.raises(NothingMatchedError, match=r"several run ids: alpha-1, alpha-2\n  → give more of the id"):
            view.find_run("alpha")


def test_funnel_counts_every_attempt_of_a_run_once(ledger: Ledger, path: Path, new_turn: MakeTurn) -> None:
    ledger.create_run("other", "other", CONFIG, {})
    ledger.commit_turn("other", new_turn(0, "invalid", "kept_novel"), [])
    ledger.commit_turn("run", new_turn(0, "unparsed", "novelty_rejected", "kept_failed"), [])
    ledger.commit_turn("run", new_turn(1, "contaminated", *["invalid"] * 5), [])
    ledger.commit_turn("run", new_turn(2, "low_confidence", "defender_right"), [])
    ledger.commit_turn("run", new_turn(3, "failed"), [])
    with LedgerView(path) as view:
        funnel = view.funnel("run")
    assert funnel == {
        "attempts": 12, "unparsed": 1, "novelty_rejected": 1, "contaminated": 1, "invalid": 5, "low_confidence": 1,
        "defender_right": 1, "unproven": 0, "kept_failed": 1, "kept_novel": 0, "failed": 1,
    }  # fmt: skip
    assert list(funnel) == ["attempts", *OUTCOMES]


def test_failure_reasons_that_differ_only_in_a_number_are_counted_together(
    ledger: Ledger, path: Path, new_turn: MakeTurn
) -> None:
    """Reasons that differ only in a number are counted together, unless the number is part of an endpoint's name."""
    template = (
        "attack: cut inside its reasoning after {} tokens, perhaps at a stop string; set endpoints.{}.reasoning_tokens"
    )
    reasons = [template.format(512, "writer-2"), template.format(498, "writer-2"), template.format(512, "writer-3")]
    for number, reason in enumerate(reasons):
        turn = new_turn(number, "unparsed")
        attempt = replace(turn.attempts[0], reason=reason)
        ledger.commit_turn("run", replace(turn, attempts=(attempt,)), [])
    with LedgerView(path) as view:
        assert view.failure_reasons("run") == {"unread": {reasons[0]: 2, reasons[2]: 1}, "refused": {}}


def test_summary_counts_made_remembered_and_wasted_calls(ledger: Ledger, path: Path, new_turn: MakeTurn) -> None:
    identity = Identity("scripted", "m")
    ledger.create_run("old", "old", CONFIG, {})
    requests = [ChatRequest(identity, (), seed=seed) for seed in range(3)]
    reused_call, _ = ledger.remember("old", requests[0], ChatReply("x", "stop", 100, 100))
    used_call, _ = ledger.remember("run", requests[1], ChatReply("x", "stop", 10, 1, usd=0.5))
    wasted_call, _ = ledger.remember("run", requests[2], ChatReply("x", "stop", 10, 1, usd=0.5))
    ledger.commit_turn("run", new_turn(0, "kept_failed"), [reused_call, used_call, used_call])
    with LedgerView(path) as view:
        summary = view.summarize_run("run").to_json()
    assert wasted_call != used_call
    assert summary["calls"] == {"made": 2, "remembered": 2, "wasted": 1}
    assert summary["usage"] == {"prompt_tokens": 20, "completion_tokens": 2, "usd": 1.0, "reasoning_tokens": 0}


def test_empty_run_has_a_summary(ledger: Ledger, path: Path) -> None:
    with LedgerView(path) as view:
        summary = view.summarize_run("run").to_json()
    assert (summary["turns"], summary["kept"], summary["funnel"]["attempts"]) == (0, 0, 0)
    assert summary["digest"] == dataset_digest([])
    assert summary["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0, "reasoning_tokens": 0}


def test_turns_and_examples_are_read_in_turn_order(ledger: Ledger, path: Path, new_turn: MakeTurn) -> None:
    for number in (2, 0, 1):
        ledger.commit_turn("run", new_turn(number, "kept_failed"), [])
    with LedgerView(path) as view:
        assert [record.number for record in view.turn_records("run")] == [0, 1, 2]
        assert [example.turn for example in view.examples("run")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("SELECT sum(uses), sum(fresh), count(*) FROM turns WHERE run = 'run'", "turns_tally"),
        ("SELECT attempts, count(*) FROM turns WHERE run = 'run' GROUP BY attempts", "turns_tally"),
        ("SELECT sum(prompt_tokens), sum(completion_tokens), sum(usd) FROM calls WHERE run = 'run'", "calls_run"),
        ("SELECT role, sum(usd), sum(seconds) FROM calls WHERE run = 'run' GROUP BY role", "calls_run"),
    ],
)
def test_summary_queries_use_covering_indexes(ledger: Ledger, path: Path, sql: str, index: str) -> None:
    """Without the indexes, a summary of a million calls would read gigabytes of texts."""
    with LedgerView(path) as view:
        plan = [row["detail"] for row in view.rows(f"EXPLAIN QUERY PLAN {sql}")]
    assert f"USING COVERING INDEX {index} (run=?)" in plan[0]


def test_call_lookup_uses_the_key_index(ledger: Ledger, path: Path) -> None:
    with LedgerView(path) as view:
        rows = view.rows(f"EXPLAIN QUERY PLAN SELECT id, reply FROM {CALLS} WHERE {WITH_KEY}", "x" * 64)
        plan = [row["detail"] for row in rows]
    assert len(plan) == 2
    assert plan[0].startswith("SEARCH calls USING INDEX calls_key")
    assert plan[1].startswith("SEARCH packs USING INTEGER PRIMARY KEY")
