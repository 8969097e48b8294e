"""Evaluations of scripted models: scoring, missing replies, resuming after an interruption, and comparison."""

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.errors import EndpointError, EndpointRefusedError, RefusedError, UsageError
from nanoflux_local.evaluate.comparison import compare
from nanoflux_local.evaluate.evaluation import EvaluationPlan, choose_domain, evaluate, make_plan
from nanoflux_local.evaluate.shortfall import ShortfallCause
from nanoflux_local.evaluate.soft import SoftJudge
from nanoflux_local.experiments.tables import format_detectable_difference
from nanoflux_local.jobs import EVALUATION, Job, JobState, load_job_state
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest
from nanoflux_local.seeds.benchmarks.starter import make_starter_items
from nanoflux_local.transcript import Seed


async def evaluate_on_starter(ledger: Ledger, model: str, item_count: int) -> str:
    """Evaluate a scripted model on the first test items of the starter domain, and return the evaluation's id."""
    endpoint = ScriptedEndpoint(model)
    plan = make_plan(endpoint.identity, "starter", "test", make_starter_items("test")[:item_count], 1, 0.0)
    return (await evaluate(ledger, endpoint, plan)).id


async def test_comparison_needs_two_items(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        one_item_ids = [await evaluate_on_starter(ledger, model, 1) for model in ("a", "b")]
        two_item_ids = [await evaluate_on_starter(ledger, model, 2) for model in ("a", "b")]
    with LedgerView(path) as view:
        with pytest.raises(UsageError, match="share only one item"):
            compare(view, one_item_ids)
        assert compare(view, two_item_ids).pairs[0].n == 2


def test_choose_domain_takes_the_preferred_domain_and_refuses_free_text():
    assert choose_domain("gsm8k").name == "gsmhard"
    assert choose_domain("gsm8k", preferred="gsmhard-short").name == "gsmhard-short", (
        "a preferred domain that uses the benchmark must be chosen"
    )
    assert choose_domain("gsm8k", preferred="starter").name == "gsmhard", (
        "a preferred domain that does not use the benchmark must not be chosen"
    )
    with pytest.raises(UsageError, match="the answers of benchmark 'liveqa' are free text"):
        choose_domain("liveqa")


ITEMS = [Seed(f"i{number}", "starter", f"Item {number}?", str(number), f"It is {number}.") for number in range(6)]
ITEM_NUMBER = re.compile(r"Item (\d)")
"""The number of an item in the text of a prompt. The last match is the item that the prompt asks about: worked examples
precede it.
"""


def write_answer(prompt: str, _: random.Random) -> str:
    """A right answer to items 0 to 2, a wrong one to items 3 and 4, and an unreadable reply to item 5."""
    number = int(ITEM_NUMBER.findall(prompt)[-1])
    if number == 5:
        return "SOLUTION: none"
    return f"SOLUTION: s\nANSWER: {number if number < 3 else 99}"


def write_verdict(prompt: str, _: random.Random) -> str:
    """An unreadable verdict on item 0, SOUND on items 1 to 3, and UNSOUND on the others."""
    number = int(ITEM_NUMBER.findall(prompt)[-1])
    quality = "SOUND" if number < 4 else "UNSOUND"
    if number == 0:
        quality = "Hm"
    first_lines = f"ANALYSIS: a\nREASONING QUALITY: {quality}\nCALCULATION ACCURACY: c\n"
    return f"{first_lines}DECISION: CORRECT\nCONFIDENCE: 1\nEXPLANATION: e"


class CountingEndpoint(ScriptedEndpoint):
    """Counts its requests, and fails on the item with the number `failing_item`, unless that is None."""

    def __init__(self, model: str, failing_item: int | None = None) -> None:
        super().__init__(model, script=write_answer)
        self.failing_item, self.requests = failing_item, 0

    async def chat(self, request: ChatRequest) -> ChatReply:
        self.requests += 1
        item_number = int(ITEM_NUMBER.findall(request.messages[-1].content)[-1])
        if item_number == self.failing_item:
            raise EndpointError("no reply", "")
        return await super().chat(request)


def make_test_plan(
    endpoint: ScriptedEndpoint,
    items: Sequence[Seed] = ITEMS,
    runs: int = 1,
    temperature: float = 0.0,
    judge: SoftJudge | None = None,
) -> EvaluationPlan:
    """The plan to evaluate an endpoint on `items`, as test items of the starter domain."""
    return make_plan(endpoint.identity, "starter", "test", items, runs, temperature, judge=judge)


async def test_judge_adds_a_soft_mark_to_each_reply(tmp_path):
    model, judge = ScriptedEndpoint("m", script=write_answer), ScriptedEndpoint("j", script=write_verdict)
    with Ledger(tmp_path / "ledger.db") as ledger:
        strict_summary = await evaluate(ledger, model, make_test_plan(model))
        plan = make_test_plan(model, judge=SoftJudge("judge", judge))
        soft_summary = await evaluate(ledger, model, plan)
        item_marks = ledger.rows("SELECT item, verdict, soft FROM evaluation_items WHERE evaluation = ?", plan.id)
    assert strict_summary.soft is None and strict_summary.id != soft_summary.id
    assert strict_summary.strict == soft_summary.strict and soft_summary.strict.mean == pytest.approx(3 / 6)
    assert item_marks == [
        ("i0", "right", "unscored"),
        ("i1", "right", "right"),
        ("i2", "right", "right"),
        ("i3", "wrong", "right"),
        ("i4", "wrong", "wrong"),
        ("i5", "unanswered", "unanswered"),
    ]
    assert soft_summary.soft.mean == pytest.approx(3 / 5) and soft_summary.soft.unscored == 1
    assert soft_summary.judge == "j" and soft_summary.to_json()["soft"]["judge"] == "j"


async def test_missing_reply_is_unscored_and_requested_again(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        failing_endpoint, other_endpoint = CountingEndpoint("a", failing_item=4), CountingEndpoint("b")
        partial_summary = await evaluate(ledger, failing_endpoint, make_test_plan(failing_endpoint))
        other_summary = await evaluate(ledger, other_endpoint, make_test_plan(other_endpoint))
        assert partial_summary.unscored == 1 and partial_summary.strict.mean == pytest.approx(3 / 5)
        with LedgerView(path) as view:
            evaluations = [partial_summary.id, other_summary.id]
            with pytest.raises(RefusedError, match="is partial: 1 reply is missing: no reply"):
                compare(view, evaluations)
            (pair,) = compare(view, evaluations, partial=True).pairs
        assert (pair.n, pair.left_out, pair.difference) == (5, 1, 0.0)
        working_endpoint = CountingEndpoint("a")
        complete_summary = await evaluate(ledger, working_endpoint, make_test_plan(working_endpoint))
        assert complete_summary.unscored == 0
        assert working_endpoint.requests == 1, "replies other than the missing one were requested again"


async def test_require_all_replies_can_allow_refused_prompts(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        endpoint = CountingEndpoint("m", failing_item=4)
        plan = make_test_plan(endpoint)
        partial_summary = await evaluate(ledger, endpoint, plan)
        with pytest.raises(EndpointError, match="is partial: 1 reply is missing: no reply"):
            partial_summary.require_all_replies(allow_refused=True)
        refused_summary = replace(partial_summary, causes=(ShortfallCause("too long", 1, refused=True),))
        refused_summary.require_all_replies(allow_refused=True)
        with pytest.raises(EndpointError, match="too long"):
            refused_summary.require_all_replies()
        assert ledger.rows("SELECT status FROM evaluations") == [("partial",)]
        complete_summary = await evaluate(ledger, CountingEndpoint("m"), plan)
        complete_summary.require_all_replies()


async def test_refused_judge_key_leaves_the_evaluation_partial(tmp_path):
    class RefusingEndpoint(ScriptedEndpoint):
        async def chat(self, request: ChatRequest) -> ChatReply:
            raise EndpointRefusedError("answered 401: no such key", "")

    model, judge = ScriptedEndpoint("m", script=write_answer), RefusingEndpoint("j")
    with Ledger(tmp_path / "ledger.db") as ledger:
        summary = await evaluate(ledger, model, make_test_plan(model, judge=SoftJudge("judge", judge)))
        assert not summary.is_whole and "no such key" in summary.causes[0].reason
        assert ledger.rows("SELECT status FROM evaluations") == [("partial",)]


async def test_comparison_refuses_overlapping_but_different_items(tmp_path):
    path, model = tmp_path / "ledger.db", ScriptedEndpoint("m", script=write_answer)
    with Ledger(path) as ledger:
        all_items_summary = await evaluate(ledger, model, make_test_plan(model))
        some_items_summary = await evaluate(ledger, model, make_test_plan(model, items=ITEMS[:4]))
    with LedgerView(path) as view, pytest.raises(UsageError, match="have different items"):
        compare(view, [all_items_summary.id, some_items_summary.id])


SLOW_EVALUATION_SCRIPT = """
import asyncio, sys
from pathlib import Path
from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.evaluate.evaluation import evaluate, make_plan
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.transcript import Seed

async def evaluate_slowly(ledger_path):
    items = [Seed(f"i{n}", "starter", f"Item {n}?", str(n), f"It is {n}.") for n in range(6)]
    endpoint = ScriptedEndpoint("m", delay_s=60.0)
    with Ledger(Path(ledger_path)) as ledger:
        await evaluate(ledger, endpoint, make_plan(endpoint.identity, "starter", "test", items, 1, 0.0))

asyncio.run(evaluate_slowly(sys.argv[1]))
"""
"""Starts an evaluation on `ITEMS` whose endpoint takes a minute for each reply."""


async def test_killed_evaluation_is_reported_as_interrupted_and_resumes(tmp_path):
    home = Home(tmp_path)
    Ledger(home.ledger).close()
    model = ScriptedEndpoint("m", script=write_answer)
    plan = make_test_plan(model)

    def read_state() -> JobState:
        with LedgerView(home.ledger) as view:
            row = view.row("SELECT status, message, seconds FROM evaluations WHERE id = ?", plan.id)
            return load_job_state(home, view, Job(EVALUATION, plan.id), dict(row)) if row else JobState("not started")

    process = subprocess.Popen([sys.executable, "-c", SLOW_EVALUATION_SCRIPT, str(home.ledger)])
    while read_state().status != "running":
        assert process.poll() is None
        await asyncio.sleep(0.05)
    assert read_state().worker.pid == process.pid
    process.kill()
    process.wait()
    assert (read_state().status, read_state().worker) == ("interrupted", None)
    assert read_state().message == "its process ended; run the same command again to resume"
    with Ledger(home.ledger) as ledger:
        assert (await evaluate(ledger, model, plan)).strict.mean == pytest.approx(1 / 2)
        assert ledger.rows("SELECT state FROM jobs ORDER BY id") == [("interrupted",), ("done",)]
    assert read_state().status == "done"


async def test_concurrent_equal_evaluations_send_each_request_once(tmp_path):
    with Ledger(tmp_path / "ledger.db") as first_ledger, Ledger(tmp_path / "ledger.db") as second_ledger:
        first_endpoint, second_endpoint = CountingEndpoint("m"), CountingEndpoint("m")
        plan = make_test_plan(first_endpoint)
        summaries = await asyncio.gather(
            evaluate(first_ledger, first_endpoint, plan), evaluate(second_ledger, second_endpoint, plan)
        )
    assert summaries[0] == summaries[1] and sorted((first_endpoint.requests, second_endpoint.requests)) == [0, 6]


async def test_evaluation_without_replies_fails_with_its_cause(tmp_path):
    class SilentEndpoint(ScriptedEndpoint):
        async def chat(self, request: ChatRequest) -> ChatReply:
            raise EndpointError("no reply", "")

    with Ledger(tmp_path / "ledger.db") as ledger:
        endpoint = SilentEndpoint("m")
        with pytest.raises(EndpointError, match="none of 6 replies could be scored: no reply"):
            await evaluate(ledger, endpoint, make_test_plan(endpoint))
        ((status, message),) = ledger.rows("SELECT status, message FROM evaluations")
        assert status == "failed" and message.startswith("none of 6 replies could be scored: no reply (6) → ")


async def test_minimum_detectable_difference_is_unknown_if_no_item_differs(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        evaluations = []
        for model in ("a", "b"):
            endpoint = ScriptedEndpoint(model, script=write_answer)
            summary = await evaluate(ledger, endpoint, make_test_plan(endpoint))
            evaluations.append(summary.id)
    with LedgerView(path) as view:
        (pair,) = compare(view, evaluations).pairs
    assert pair.minimum_detectable is None and format_detectable_difference(pair.minimum_detectable) == "not known"


async def test_cancelled_evaluation_resumes(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        endpoint = ScriptedEndpoint("m", script=write_answer)
        plan = make_test_plan(endpoint, runs=3, temperature=0.7)

        def cancel_after_seven_replies(reply_count: int, _: int) -> None:
            if reply_count == 7:
                task.cancel()

        task = asyncio.create_task(evaluate(ledger, endpoint, plan, cancel_after_seven_replies))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ledger.rows("SELECT status FROM evaluations") == [("interrupted",)]
        counting_endpoint = CountingEndpoint("m")
        summary = await evaluate(ledger, counting_endpoint, plan)
    assert counting_endpoint.requests <= len(ITEMS) * plan.runs - 7, "a stored reply was requested again"
    assert summary.runs == 3 and len(summary.strict.by_run) == 3


DOCUMENTED_KEYS = {"a", "b", "n", "difference", "ci95", "mcnemar_p", "bootstrap_p", "holm_p", "minimum_detectable"}


async def test_comparison_json_has_the_documented_keys(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        evaluations = [await evaluate_on_starter(ledger, model, 8) for model in ("a", "b", "c")]
    with LedgerView(path) as view:
        pairs = compare(view, evaluations).to_json()["pairs"]
    assert len(pairs) == 3 and all(pair.keys() >= DOCUMENTED_KEYS for pair in pairs)
    assert all(pair["holm_p"] >= pair["mcnemar_p"] for pair in pairs)
