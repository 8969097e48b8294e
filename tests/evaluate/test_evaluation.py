"""Evaluations with the scripted endpoint: marks, missing replies, comparisons, refusals and resuming."""

import asyncio
import random
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.errors import EndpointError, EndpointRefusedError, RefusedError, UsageError
from nanoflux_local.evaluate.comparison import compare
from nanoflux_local.evaluate.evaluation import choose_domain, evaluate, make_plan
from nanoflux_local.evaluate.shortfall import ShortfallCause
from nanoflux_local.evaluate.soft import SoftJudge
from nanoflux_local.experiments.tables import format_detectable
from nanoflux_local.jobs import EVALUATION, Job, JobState, check_job
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest
from nanoflux_local.seeds.benchmarks.starter import make_starter_items
from nanoflux_local.transcript import Seed


async def evaluate_model(ledger: Ledger, model: str, count: int) -> str:
    endpoint = ScriptedEndpoint(model)
    plan = make_plan(endpoint.identity, "starter", "test", make_starter_items("test")[:count], 1, 0.0)
    return (await evaluate(ledger, endpoint, plan)).id


@pytest.mark.parametrize("count", [1, 2])
async def test_comparison_needs_two_items(tmp_path, count):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ids = [await evaluate_model(ledger, model, count) for model in ("a", "b")]
        with LedgerView(path) as view:
            if count == 1:
                with pytest.raises(UsageError, match="share only one item"):
                    compare(view, ids)
            else:
                assert compare(view, ids).pairs[0].n == 2


def test_choose_domain_takes_the_preferred_domain_and_refuses_free_text():
    assert choose_domain("gsm8k").name == "gsmhard"
    assert choose_domain("gsm8k", preferred="gsmhard-short").name == "gsmhard-short", (
        "the preferred domain uses the benchmark"
    )
    assert choose_domain("gsm8k", preferred="starter").name == "gsmhard", (
        "the preferred domain does not use the benchmark"
    )
    with pytest.raises(UsageError, match="the answers of benchmark 'liveqa' are free text"):
        choose_domain("liveqa")


ITEMS = [Seed(f"i{number}", "starter", f"Item {number}?", str(number), f"It is {number}.") for number in range(6)]
ITEM_NUMBER = re.compile(r"Item (\d)")


def write_answer(prompt: str, _: random.Random) -> str:
    """A right answer to items 0 to 2, a wrong one to 3 and 4, and an unreadable one to 5."""
    number = int(ITEM_NUMBER.findall(prompt)[-1])
    return f"SOLUTION: s\nANSWER: {number if number < 3 else 99}" if number < 5 else "SOLUTION: none"


def write_verdict(prompt: str, _: random.Random) -> str:
    """A verdict that cannot be read on item 0, SOUND on items 1 to 3, and UNSOUND on the others."""
    number = int(ITEM_NUMBER.findall(prompt)[-1])
    word = "SOUND" if number < 4 else "UNSOUND"
    first_lines = f"ANALYSIS: a\nREASONING QUALITY: {word if number else 'Hm'}\nCALCULATION ACCURACY: c\n"
    return f"{first_lines}DECISION: CORRECT\nCONFIDENCE: 1\nEXPLANATION: e"


NO_ITEM = 9
"""A number that no item has."""


class FailingEndpoint(ScriptedEndpoint):
    """Fails on the item with the number `failing_item`, on none if that is `NO_ITEM`, and counts its requests."""

    def __init__(self, model: str, failing_item: int) -> None:
        super().__init__(model, script=write_answer)
        self.failing_item, self.requests = failing_item, 0

    async def chat(self, request: ChatRequest) -> ChatReply:
        self.requests += 1
        if ITEM_NUMBER.findall(request.messages[-1].content)[-1] == str(self.failing_item):
            raise EndpointError("no reply", "")
        return await super().chat(request)


async def test_judge_adds_a_soft_mark_to_each_reply(tmp_path):
    model, judge = ScriptedEndpoint("m", script=write_answer), ScriptedEndpoint("j", script=write_verdict)
    with Ledger(tmp_path / "ledger.db") as ledger:
        strict_result = await evaluate(ledger, model, make_plan(model.identity, "starter", "test", ITEMS, 1, 0.0))
        plan = make_plan(model.identity, "starter", "test", ITEMS, 1, 0.0, judge=SoftJudge("judge", judge))
        soft_result = await evaluate(ledger, model, plan)
        rows = ledger.rows("SELECT item, verdict, soft FROM evaluation_items WHERE evaluation = ?", plan.id)
    assert strict_result.soft is None and strict_result.id != soft_result.id
    assert strict_result.strict == soft_result.strict and soft_result.strict.mean == pytest.approx(3 / 6)
    assert rows == [
        ("i0", "right", "unscored"),
        ("i1", "right", "right"),
        ("i2", "right", "right"),
        ("i3", "wrong", "right"),
        ("i4", "wrong", "wrong"),
        ("i5", "unanswered", "unanswered"),
    ]
    assert soft_result.soft.mean == pytest.approx(3 / 5) and soft_result.soft.unscored == 1
    assert soft_result.judge == "j" and soft_result.to_json()["soft"]["judge"] == "j"


async def test_missing_reply_is_unscored_and_requested_again(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        summaries = {}
        for model, failing_item in (("a", 4), ("b", NO_ITEM)):
            endpoint = FailingEndpoint(model, failing_item)
            summaries[model] = await evaluate(
                ledger, endpoint, make_plan(endpoint.identity, "starter", "test", ITEMS, 1, 0.0)
            )
        assert summaries["a"].unscored == 1 and summaries["a"].strict.mean == pytest.approx(3 / 5)
        with LedgerView(path) as view:
            ids = [summaries[model].id for model in "ab"]
            with pytest.raises(RefusedError, match="is partial: 1 reply is missing: no reply"):
                compare(view, ids)
            (pair,) = compare(view, ids, partial=True).pairs
        assert (pair.n, pair.left_out, pair.difference) == (5, 1, 0.0)
        repeated_endpoint = FailingEndpoint("a", NO_ITEM)
        complete_result = await evaluate(
            ledger, repeated_endpoint, make_plan(repeated_endpoint.identity, "starter", "test", ITEMS, 1, 0.0)
        )
        assert repeated_endpoint.requests == 1 and complete_result.unscored == 0, (
            "other replies than the missing one were requested again"
        )


async def test_require_whole_allows_only_refused_prompts(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        endpoint = FailingEndpoint("m", 4)
        plan = make_plan(endpoint.identity, "starter", "test", ITEMS, 1, 0.0)
        partial_result = await evaluate(ledger, endpoint, plan)
        with pytest.raises(EndpointError, match="is partial: 1 reply is missing: no reply"):
            partial_result.require_whole(allow_refused=True)
        with_refused_prompts = replace(partial_result, causes=(ShortfallCause("too long", 1, refused=True),))
        with_refused_prompts.require_whole(allow_refused=True)
        with pytest.raises(EndpointError, match="too long"):
            with_refused_prompts.require_whole()
        assert ledger.rows("SELECT status FROM evaluations") == [("partial",)]
        (await evaluate(ledger, FailingEndpoint("m", NO_ITEM), plan)).require_whole()


async def test_refused_judge_key_stops_the_evaluation(tmp_path):
    class RefusingEndpoint(ScriptedEndpoint):
        async def chat(self, request: ChatRequest) -> ChatReply:
            raise EndpointRefusedError("answered 401: no such key", "")

    model, judge = ScriptedEndpoint("m", script=write_answer), RefusingEndpoint("j")
    plan = make_plan(model.identity, "starter", "test", ITEMS, 1, 0.0, judge=SoftJudge("judge", judge))
    with Ledger(tmp_path / "ledger.db") as ledger:
        result = await evaluate(ledger, model, plan)
        assert result.strict.mean >= 0 and "no such key" in result.causes[0].reason
        assert ledger.rows("SELECT status FROM evaluations") == [("partial",)]


async def test_comparison_refuses_overlapping_but_different_items(tmp_path):
    path, model = tmp_path / "ledger.db", ScriptedEndpoint("m", script=write_answer)
    with Ledger(path) as ledger:
        ids = [
            (await evaluate(ledger, model, make_plan(model.identity, "starter", "test", items, 1, 0.0))).id
            for items in (ITEMS, ITEMS[:4])
        ]
        with LedgerView(path) as view, pytest.raises(UsageError, match="have different items"):
            compare(view, ids)


SLOW_EVALUATION = """
import asyncio, sys
from pathlib import Path
from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.evaluate.evaluation import evaluate, make_plan
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.transcript import Seed

async def ask(path):
    items = [Seed(f"i{n}", "starter", f"Item {n}?", str(n), f"It is {n}.") for n in range(6)]
    slow = ScriptedEndpoint("m", delay_s=60.0)
    with Ledger(Path(path)) as ledger:
        await evaluate(ledger, slow, make_plan(slow.identity, "starter", "test", items, 1, 0.0))

asyncio.run(ask(sys.argv[1]))
"""


async def test_killed_evaluation_is_reported_as_interrupted_and_resumes(tmp_path):
    home = Home(tmp_path)
    Ledger(home.ledger).close()
    model = ScriptedEndpoint("m", script=write_answer)
    plan = make_plan(model.identity, "starter", "test", ITEMS, 1, 0.0)

    def read_state() -> JobState:
        with LedgerView(home.ledger) as view:
            row = view.row("SELECT status, message, seconds FROM evaluations WHERE id = ?", plan.id)
            return check_job(home, view, Job(EVALUATION, plan.id), dict(row)) if row else JobState("not started")

    process = subprocess.Popen([sys.executable, "-c", SLOW_EVALUATION, str(home.ledger)])
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
        first_endpoint, second_endpoint = FailingEndpoint("m", NO_ITEM), FailingEndpoint("m", NO_ITEM)
        plan = make_plan(first_endpoint.identity, "starter", "test", ITEMS, 1, 0.0)
        summaries = await asyncio.gather(
            evaluate(first_ledger, first_endpoint, plan), evaluate(second_ledger, second_endpoint, plan)
        )
    assert summaries[0] == summaries[1] and sorted((first_endpoint.requests, second_endpoint.requests)) == [0, 6]


class SilentEndpoint(ScriptedEndpoint):
    async def chat(self, request: ChatRequest) -> ChatReply:
        raise EndpointError("no reply", "")


async def test_evaluation_without_replies_fails_with_its_cause(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        endpoint = SilentEndpoint("m")
        with pytest.raises(EndpointError, match="none of 6 replies could be scored: no reply"):
            await evaluate(ledger, endpoint, make_plan(endpoint.identity, "starter", "test", ITEMS, 1, 0.0))
        ((status, message),) = ledger.rows("SELECT status, message FROM evaluations")
        assert status == "failed" and message.startswith("none of 6 replies could be scored: no reply (6) → ")


async def test_minimum_detectable_is_unknown_if_no_item_differs(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ids = []
        for model in ("a", "b"):
            endpoint = ScriptedEndpoint(model, script=write_answer)
            plan = make_plan(endpoint.identity, "starter", "test", ITEMS, 1, 0.0)
            ids.append((await evaluate(ledger, endpoint, plan)).id)
        with LedgerView(path) as view:
            (pair,) = compare(view, ids).pairs
    assert pair.minimum_detectable is None and format_detectable(pair.minimum_detectable) == "not known"


async def test_cancelled_evaluation_resumes(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        endpoint = ScriptedEndpoint("m", script=write_answer)
        plan = make_plan(endpoint.identity, "starter", "test", ITEMS, 3, 0.7)

        def cancel_after_seven(reply_count: int, _: int) -> None:
            if reply_count == 7:
                task.cancel()

        task = asyncio.create_task(evaluate(ledger, endpoint, plan, cancel_after_seven))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ledger.rows("SELECT status FROM evaluations") == [("interrupted",)]
        counting_endpoint = FailingEndpoint("m", NO_ITEM)
        result = await evaluate(ledger, counting_endpoint, plan)
    assert counting_endpoint.requests <= 18 - 7 and result.runs == 3 and len(result.strict.by_run) == 3


PROMISED_KEYS = {"a", "b", "n", "difference", "ci95", "mcnemar_p", "bootstrap_p", "holm_p", "minimum_detectable"}


async def test_comparison_json_has_the_promised_keys(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ids = [await evaluate_model(ledger, model, 8) for model in "abc"]
    with LedgerView(path) as view:
        pairs = compare(view, ids).to_json()["pairs"]
    assert len(pairs) == 3 and all(pair.keys() >= PROMISED_KEYS for pair in pairs)
    assert all(pair["holm_p"] >= pair["mcnemar_p"] for pair in pairs)
