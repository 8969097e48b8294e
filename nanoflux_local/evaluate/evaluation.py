"""Evaluates a model, with or without an adapter, on the items of a benchmark, repeatedly with different random seeds.

Every reply gets a strict mark and, if there is a judge, a soft mark. An evaluation's id is the hash of everything that
determines its result, and the ledger stores every reply. An interrupted evaluation that is started again therefore
resumes, and a finished one sends no requests.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import list_domain_names, load_domain
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.context import find_overflow
from nanoflux_local.errors import ConfigError, EndpointError, RefusedError, UsageError
from nanoflux_local.evaluate.scoring import Mark, score_reply
from nanoflux_local.evaluate.shortfall import Shortfall, describe_causes
from nanoflux_local.evaluate.soft import SoftJudge
from nanoflux_local.evaluate.summary import EvaluationSummary, describe_missing, measure_accuracy
from nanoflux_local.jobs import EVALUATION, Heartbeat, Job, hold_lock, record_execution
from nanoflux_local.ledger.calls import CachedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.reasoning import ends_in_reasoning
from nanoflux_local.records import (
    ChatReply,
    ChatRequest,
    Identity,
    R,
    Request,
    Sampling,
    derive_seed,
    digest,
    storable,
)
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.defender import build_defender_messages, compute_reply_budget
from nanoflux_local.seeds.datasets import list_seed_datasets
from nanoflux_local.transcript import Seed

MAX_CONCURRENT = 64
"""The maximum number of concurrent requests, even if the endpoints could serve more."""
PARTIAL = "partial"
"""The status of an evaluation that ended with missing replies. Running the same command again requests these replies.
"""
WAIT_S = 0.2
"""Seconds between checks whether another process still runs the same evaluation."""


@dataclass(frozen=True)
class EvaluationPlan:
    """The settings and items that determine an evaluation. `data` names the benchmark; the question of each item is
    asked `runs` times. `sampling.max_tokens` includes `reasoning_tokens`.
    """

    identity: Identity
    data: str
    split: str
    items: tuple[Seed, ...]
    runs: int
    sampling: Sampling
    seed: int
    domain: Domain
    judge: SoftJudge | None = None
    reasoning_tokens: int = 0

    @cached_property
    def item_digests(self) -> list[str]:
        """The digest of each item."""
        return [digest(item.to_json()) for item in self.items]

    @property
    def items_digest(self) -> str:
        """The digest of all items: two plans with the same items in the same order have equal digests."""
        return digest(self.item_digests)[:16]

    @cached_property
    def id(self) -> str:
        """A hash of everything that determines the result. Do not change how the hash is computed: the ledger stores
        replies under it.
        """
        prompt_settings = [self.domain.prompts["defender"], str(self.domain.examples), str(self.domain.budgets)]
        settings = [
            asdict(self.identity),
            self.data,
            self.split,
            self.item_digests,
            self.runs,
            asdict(self.sampling),
            self.seed,
        ]
        if self.judge:
            judge_prompts = [self.domain.prompts["evaluation"], self.domain.prompts["confidence"]]
            prompt_settings.append(digest([self.judge.settings, *judge_prompts]))
        return digest([*settings, prompt_settings])[:12]

    def build_request(self, item: Seed, repeat: int) -> ChatRequest:
        """The request of one item in one repeat. The messages are those that the defender receives in a run."""
        messages = build_defender_messages(
            self.domain.with_letters(item.options), self.domain.budgets, item.format_question()
        )
        return ChatRequest(self.identity, messages, self.sampling, derive_seed(self.seed, "eval", repeat, item.id))


def choose_domain(data: str, root: Path | None = None, has_judge: bool = False, preferred: str = "") -> Domain:
    """The domain with the prompts and answer format of a benchmark: a built-in domain, or one that is defined in the
    home at `root`. If several domains use the benchmark, the domain `preferred` is chosen if it is among them.

    Raises:
        UsageError: no domain uses this benchmark, or its answers are free text and there is no judge to grade them.
    """
    names = list_domain_names(root)
    preferred_first = sorted(names, key=lambda name: name != preferred)
    for name in preferred_first:
        domain = load_domain(name, root)
        uses_data = data in (*list_seed_datasets(domain), *domain.evaluates)
        is_free_text = data in domain.free_text or (uses_data and domain.answer == "text")
        if is_free_text and has_judge:
            return domain.model_copy(update={"answer": "text"})
        if is_free_text:
            fix = "use a judge with --mode soft, or choose another benchmark"
            raise UsageError(
                f"the answers of benchmark {data!r} are free text, which cannot be graded without a judge", fix
            )
        if uses_data:
            return domain
    raise UsageError(
        f"no domain uses the benchmark {data!r}",
        "choose a benchmark that a domain uses; `nanoflux domains list` lists them",
    )


def make_plan(
    identity: Identity,
    data: str,
    split: str,
    items: Sequence[Seed],
    runs: int,
    temperature: float,
    seed: int = 0,
    root: Path | None = None,
    judge: SoftJudge | None = None,
    domain_name: str = "",
    reasoning_tokens: int = 0,
) -> EvaluationPlan:
    """Build a plan. The token limit of a reply is the domain's limit for the answer plus `reasoning_tokens`. Top-p is
    0.95 if the temperature is above 0, otherwise 1.

    `root` is the home with the user's own domains. If the domain `domain_name` uses the benchmark, its prompts are
    used, so that a model is evaluated with the prompts it was tuned on.

    Raises:
        UsageError: the items are passages of documents, which have no answers, or no domain uses the benchmark.
    """
    if any(item.source for item in items):
        raise UsageError(
            f"the items of {data!r} are passages of documents, which have no answers",
            "evaluate on questions: import them with `nanoflux data import`",
        )
    domain = choose_domain(data, root, has_judge=judge is not None, preferred=domain_name)
    max_tokens = compute_reply_budget(domain, domain.budgets) + reasoning_tokens
    sampling = Sampling(temperature, 0.95 if temperature else 1.0, max_tokens, domain.stop)
    return EvaluationPlan(identity, data, split, tuple(items), runs, sampling, seed, domain, judge, reasoning_tokens)


@dataclass(frozen=True, slots=True)
class ReplyMarks:
    """The two marks of one reply. `soft` is "" if there is no judge. If `cut_in_reasoning` is true, the reply was
    truncated inside its reasoning and is therefore unanswered.
    """

    strict: Mark
    soft: Mark | Literal[""] = ""
    cut_in_reasoning: bool = False


async def evaluate(
    ledger: Ledger, endpoint: Endpoint, plan: EvaluationPlan, on_progress: Callable[[int, int], None] = lambda *_: None
) -> EvaluationSummary:
    """Request the reply to every item in every repeat, commit each mark as it arrives, and summarize the marks.

    If another process runs the same evaluation, this function waits for it and reuses its replies. If replies are
    missing, the summary covers the scored replies, and the evaluation's status is PARTIAL. Another call then requests
    only the missing replies.

    Raises:
        ConfigError: a request does not fit the endpoint's context.
        EndpointError: no reply could be scored; the message states the causes.
    """
    _refuse_overflow(endpoint, plan)
    settings = {"runs": plan.runs, "sampling": asdict(plan.sampling), "seed": plan.seed, "n": len(plan.items)}
    settings["items"] = plan.items_digest
    model = plan.identity
    job = Job(EVALUATION, plan.id)
    async with _hold_evaluation(Home(ledger.path.parent), job):
        ledger.close_dead_executions(EVALUATION.name, EVALUATION.table, plan.id)
        ledger.start_evaluation(plan.id, model.model, model.adapter, plan.data, plan.split, settings)
        with record_execution(ledger, job) as execution:
            heartbeat = asyncio.create_task(Heartbeat(ledger, execution.id, job, lambda _: None).run())
            try:
                marks_by_item, shortfall = await _collect_marks(ledger, endpoint, plan, on_progress)
                summary = summarize(plan, marks_by_item, shortfall)
            finally:
                heartbeat.cancel()
            execution.status = "done" if summary.is_whole else PARTIAL
            execution.message = "" if summary.is_whole else describe_missing(summary.causes)
            ledger.finish_evaluation(plan.id, execution.status, summary.to_json())
    return summary


def _refuse_overflow(endpoint: Endpoint, plan: EvaluationPlan) -> None:
    """Raise ConfigError if the plan's longest request leaves too little context for reasoning."""
    if not plan.reasoning_tokens or not plan.items:
        return
    longest_item = max(plan.items, key=lambda item: len(item.format_question()))
    answer_tokens = plan.sampling.max_tokens - plan.reasoning_tokens
    if overflow := find_overflow(endpoint, plan.build_request(longest_item, 0).messages, answer_tokens):
        fix = "lower --reasoning-tokens, or use an endpoint with a longer context"
        raise ConfigError(f"{plan.identity.model}: {overflow}", fix)


@asynccontextmanager
async def _hold_evaluation(home: Home, job: Job) -> AsyncIterator[None]:
    """Hold the lock of an evaluation during the block. Waits while another process holds the lock."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold_lock(home, job))
            except RefusedError:
                await asyncio.sleep(WAIT_S)
            else:
                break
        yield


async def _collect_marks(
    ledger: Ledger, endpoint: Endpoint, plan: EvaluationPlan, on_progress: Callable[[int, int], None]
) -> tuple[dict[str, list[ReplyMarks]], Shortfall]:
    """Request and mark the replies to all items in all repeats. Returns each item's marks, one for each repeat, and the
    missing replies.
    """
    shortfall = Shortfall()
    calls = CachedCalls(ledger, plan.id, {"chat": _route_chat(endpoint, plan)})
    marker = _ReplyMarker(ledger, calls, plan, shortfall)
    capacity = endpoint.capacity + (plan.judge.endpoint.capacity if plan.judge else 0)
    # Never send more requests at once than the endpoints can serve: if all are refused, few have been sent.
    slots = asyncio.Semaphore(min(MAX_CONCURRENT, capacity))
    done, total = 0, len(plan.items) * plan.runs

    async def ask_and_mark(item: Seed, repeat: int) -> tuple[str, int, ReplyMarks]:
        nonlocal done
        async with slots:
            if shortfall.should_stop:
                shortfall.skip()
                return item.id, repeat, ReplyMarks("unscored")
            reply_marks = await marker.mark(item, repeat)
        done += 1
        on_progress(done, total)
        return item.id, repeat, reply_marks

    try:
        marked_replies = await asyncio.gather(
            *(ask_and_mark(item, repeat) for repeat in range(plan.runs) for item in plan.items)
        )
    finally:
        await marker.calls.close()
    marks_by_item = {item.id: [ReplyMarks("unscored")] * plan.runs for item in plan.items}
    for item_id, repeat, reply_marks in marked_replies:
        marks_by_item[item_id][repeat] = reply_marks
    return marks_by_item, shortfall


def _route_chat(endpoint: Endpoint, plan: EvaluationPlan) -> Callable[[ChatRequest], Awaitable[ChatReply]]:
    """A chat function that sends the plan's requests to the model and all others to the judge."""

    async def chat(request: ChatRequest) -> ChatReply:
        if plan.judge and request.endpoint != plan.identity:
            return await plan.judge.endpoint.chat(request)
        return await endpoint.chat(request)

    return chat


@dataclass(frozen=True, slots=True)
class _ReplyMarker:
    """Requests replies, marks them and commits the marks."""

    ledger: Ledger
    calls: CachedCalls
    plan: EvaluationPlan
    shortfall: Shortfall

    async def mark(self, item: Seed, repeat: int) -> ReplyMarks:
        """Request the reply to an item in one repeat, mark the reply and commit the marks. A missing reply is added to
        the shortfall and is unscored.
        """
        try:
            call, reply = await self.calls.ask(self.plan.build_request(item, repeat))
        except EndpointError as error:
            self.shortfall.add(error)
            return ReplyMarks("unscored")
        score = score_reply(self.plan.domain, reply.text, item)
        soft: Mark | Literal[""] = ""
        if judge := self.plan.judge:
            draw = Draw(derive_seed(self.plan.seed, "judge", repeat, item.id), 0, 0)
            try:
                soft = await judge.mark(self.plan.domain, item.format_question(), item, reply.text, draw, self._call)
            except EndpointError as error:
                self.shortfall.add(error)
                soft = "unscored"
        self.ledger.add_evaluation_item(self.plan.id, repeat, item.id, call, score.reading, score.mark, soft)
        return ReplyMarks(score.mark, soft, ends_in_reasoning(storable(reply.text), reply.finish))

    async def _call(self, request: Request[R]) -> R:
        """The judge's reply to a request, from the ledger if it was stored there."""
        _, reply = await self.calls.ask(request)
        return reply


def summarize(
    plan: EvaluationPlan, marks_by_item: dict[str, list[ReplyMarks]], shortfall: Shortfall
) -> EvaluationSummary:
    """Summarize each item's marks, one for each repeat, and the missing replies.

    Raises:
        EndpointError: no reply was scored.
    """
    strict_accuracy = measure_accuracy([[reply.strict for reply in replies] for replies in marks_by_item.values()])
    soft_accuracy = measure_accuracy(
        [[reply.soft or "unscored" for reply in replies] for replies in marks_by_item.values()]
    )
    if strict_accuracy is None and soft_accuracy is None:
        raise _build_no_score_error(shortfall)
    all_replies = [reply for replies in marks_by_item.values() for reply in replies]
    strict_marks = [reply.strict for reply in all_replies]
    return EvaluationSummary(
        id=plan.id,
        model=plan.identity.model,
        adapter=plan.identity.adapter,
        data=plan.data,
        split=plan.split,
        items=len(marks_by_item),
        runs=plan.runs,
        strict=strict_accuracy,
        soft=soft_accuracy if plan.judge else None,
        judge=plan.judge.endpoint.identity.model if plan.judge else "",
        unanswered=strict_marks.count("unanswered"),
        cut_in_reasoning=sum(reply.cut_in_reasoning for reply in all_replies),
        reasoning_tokens=plan.reasoning_tokens,
        unscored=strict_marks.count("unscored"),
        causes=shortfall.causes,
    )


def _build_no_score_error(shortfall: Shortfall) -> EndpointError:
    """The error of an evaluation without any score, with the fix of the first missing reply."""
    if shortfall.first_error is None:
        return EndpointError("no reply could be scored: the judge gave no verdict", "use another judge")
    # an evaluation has no run to resume, so that part of the fix is dropped
    fix, _, _ = shortfall.first_error.fix.partition("; then `nanoflux run resume`")
    replies = format_quantity(shortfall.missing, "reply", "replies")
    return EndpointError(
        f"none of {replies} could be scored: {describe_causes(shortfall.causes)}",
        f"{fix or 'fix the cause'}; then run the same command again",
    )
