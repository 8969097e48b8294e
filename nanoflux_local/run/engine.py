"""The engine: runs turns speculatively ahead of a single committer, which commits them in turn order.

The result of a turn depends on earlier turns in one way only: on the similarity of each of its questions to the nearest
earlier question. A `SpeculativeTurn` runs before the preceding turns are committed, and computes these similarities
from the questions asked so far. The committer takes the turns in order, and computes the similarities again from the
committed history. If all are equal, the record of the speculative turn is committed; otherwise the turn is replayed,
and only requests without a stored reply are sent. The result is the same as if the turns had run one after another.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from nanoflux_local.config import RunConfig
from nanoflux_local.errors import NanofluxError, PromptRefusedError, SaturatedError, UnreadableReplyError
from nanoflux_local.ledger.calls import ROLE, CachedCalls, Call, R, TracedCalls, embed_texts
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.limiter import RANK
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import Request, Vector
from nanoflux_local.redaction import redact
from nanoflux_local.run.novelty import History, NoveltyIndex
from nanoflux_local.run.saturation import RecentAttempts
from nanoflux_local.run.streaks import Streak, Streaks, has_readable_reply
from nanoflux_local.run.turn import Rules, embed, run_turn
from nanoflux_local.transcript import TurnRecord

MAX_AHEAD_PER_REQUEST = 8
"""The maximum number of speculative turns for each concurrent request, including finished turns that are not committed
yet.
"""

ACTIVE_PER_REQUEST = 3
"""The maximum number of turns in progress for each concurrent request. A turn makes one request at a time, and none
while it processes a reply; with more turns than requests, the servers stay busy meanwhile. The limit does not apply
near the end of a run, when all remaining turns start together: otherwise the run could end up waiting for a single turn
that started late and needs several attempts.
"""

EXCERPT_CHARACTERS = 200
"""The number of characters of an unreadable reply that an error message shows."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The progress of a run after a turn was committed: the record of that turn, and the numbers of committed `turns`,
    of `kept` examples, and of examples to keep (`target`).
    """

    record: TurnRecord
    turns: int
    kept: int
    target: int


async def index_questions(rules: Rules, index: NoveltyIndex, record: TurnRecord, call: Call) -> None:
    """Add a turn's questions to the index: every parsed question, kept or not."""
    for attempt in record.attempts:
        if attempt.attack is not None:
            with suppress(PromptRefusedError):  # a question that the embedder refuses has no vector to add
                index.append(await embed(rules, attempt.attack.question, call))


async def index_questions_of_other_runs(rules: Rules, index: NoveltyIndex, call: Call) -> None:
    """Fill an empty index with the questions of other runs, and embed the held-out evaluation items.

    The embeddings come from stored calls. Requests are sent only if the other runs used a different embedder, or if the
    held-out items have not been embedded yet.
    """
    async for vector in embed_texts(rules.embedder, rules.questions_of_other_runs, call):
        if vector is not None:
            index.append(vector)
    await rules.held_out.embed(rules.embedder, call)


@dataclass(frozen=True, slots=True, eq=False)
class NearestLookup:
    """One lookup by a speculative turn: the `similarity` of `question` to the nearest earlier question (None if there
    was no earlier question). `own_questions` are the questions that the turn had asked before.
    """

    question: Vector
    own_questions: tuple[Vector, ...]
    similarity: float | None


class SpeculativeTurn:
    """A turn that runs before the preceding turns are committed.

    `index` holds the questions of the committed turns. `speculative_turns` maps the number of each speculative turn to
    the turn, and includes this turn once it has started.
    """

    def __init__(
        self,
        number: int,
        index: NoveltyIndex,
        speculative_turns: Mapping[int, "SpeculativeTurn"],
        calls: CachedCalls,
    ) -> None:
        self.number = number
        self.traced_calls = TracedCalls(calls)
        self.task: asyncio.Task[TurnRecord | None] | None = None
        self.questions: list[Vector] = []
        self.attempt_count = 0
        self.role_changes = 0
        self._role = ""
        self._index = index
        self._speculative_turns = speculative_turns
        self._committed_history: History | None = None
        self._lookups: list[NearestLookup] = []

    @property
    def in_progress(self) -> bool:
        return self.task is not None and not self.task.done()

    def find_record(self) -> TurnRecord | None:
        """The record of the turn if it has finished; None before, and if it failed."""
        task = self.task
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def call(self, request: Request[R]) -> R:
        """Make a call. Counts the turn's attempts, and the changes of role since its current attempt started: a measure
        of how far the attempt has progressed.
        """
        role = ROLE.get()
        if role and role != self._role:
            self._role = role
            if role == "attacker":
                self.attempt_count += 1
                self.role_changes = 0
            else:
                self.role_changes += 1
        return await self.traced_calls(request)

    def look_up_nearest(self, vector: Vector, own_questions: tuple[Vector, ...]) -> float | None:
        """The largest similarity of `vector` to an earlier question.

        Earlier questions are the turn's `own_questions` and those of the committed turns. Until `confirm` is called,
        the questions of the preceding speculative turns count as well.
        """
        self.questions.append(vector)
        if self._committed_history is not None:
            return self._committed_history.plus(*own_questions).nearest_similarity(vector)
        speculative_questions = [
            question
            for number, turn in self._speculative_turns.items()
            if number < self.number
            for question in turn.questions
        ]
        similarity = self._index.history().plus(*speculative_questions, *own_questions).nearest_similarity(vector)
        self._lookups.append(NearestLookup(vector, own_questions, similarity))
        return similarity

    def confirm(self, history: History) -> bool:
        """Make the turn use the committed `history` from now on. Returns whether this history yields the similarities
        that the turn has used so far; if so, the turn ends with the same record as if the turns had run in order.
        """
        self._committed_history = history
        return all(
            history.plus(*lookup.own_questions).nearest_similarity(lookup.question) == lookup.similarity
            for lookup in self._lookups
        )

    def is_contradicted_by(self, question: Vector, threshold: float) -> bool:
        """Whether this turn accepted a question as novel although its similarity to `question`, which an earlier turn
        has asked by now, is above `threshold`.
        """
        accepted_questions = [
            lookup.question for lookup in self._lookups if lookup.similarity is None or lookup.similarity <= threshold
        ]
        return any(float(accepted_question @ question) > threshold for accepted_question in accepted_questions)


@dataclass(frozen=True, slots=True, eq=False)
class SpeculativeHistory:
    """The `EarlierQuestions` of a speculative turn. `own_questions` are the questions of the turn's earlier attempts;
    `on_question` is called with the turn and the vector of every question that it asks.
    """

    turn: SpeculativeTurn
    on_question: Callable[[SpeculativeTurn, Vector], None]
    own_questions: tuple[Vector, ...] = ()

    def plus(self, vector: Vector) -> "SpeculativeHistory":
        return SpeculativeHistory(self.turn, self.on_question, (*self.own_questions, vector))

    def nearest_similarity(self, vector: Vector) -> float | None:
        self.on_question(self.turn, vector)
        return self.turn.look_up_nearest(vector, self.own_questions)


class Engine:
    """Executes one run until it has enough examples or reaches its turn limit.

    `committed_turns` are the turns that earlier processes committed, in order. `capacity` is the number of concurrent
    requests that the endpoints can process. `prepare` is awaited before the first turn.
    """

    def __init__(
        self,
        ledger: Ledger,
        run: str,
        rules: Rules,
        calls: CachedCalls,
        committed_turns: list[TurnRecord],
        on_progress: Callable[[RunProgress], None] = lambda _: None,
        capacity: int = 1024,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._rules = rules
        self._config = rules.config
        self._calls = calls
        self._on_progress = on_progress
        self._capacity = capacity
        self._prepare = prepare
        self._turns = len(committed_turns)
        self._kept = sum(record.kept for record in committed_turns)
        self._index = NoveltyIndex()
        self._committed_turns = committed_turns
        self._streaks, self._recent_attempts = Streaks(), RecentAttempts()
        for record in committed_turns:
            self._streaks.add(record, self._config.pause_after_unread)
            self._recent_attempts.add(record, self._config)
        self._any_reply_readable = any(has_readable_reply(record) for record in committed_turns)
        self._last_reason = committed_turns[-1].last_attempt.reason if committed_turns else ""
        self._speculative_turns: dict[int, SpeculativeTurn] = {}
        self._confirmed_count = self._refuted_count = 0
        self._drain_at: int | None = None  # once draining: the number of committed turns at which `run` returns
        self._all_started = False  # whether all turns that the run is likely to need have started

    @property
    def finished(self) -> bool:
        """Whether the run has reached its target or its turn limit."""
        return self._kept >= self._config.target or self._turns >= self._config.max_turns

    @property
    def draining(self) -> bool:
        """Whether `drain` was called, so that no more turns start."""
        return self._drain_at is not None

    @property
    def _last_started_turn(self) -> int:
        """The largest number of a speculative turn; if there is none, the number of the next turn to commit."""
        return max([self._turns, *self._speculative_turns])

    def reconfigure(self, config: RunConfig) -> None:
        """Apply the settings that may change during a run (`config.LIVE`), from the next turn on."""
        self._config = config
        self._start_speculative_turns()

    def drain(self) -> None:
        """Start no more turns, and let `run` return after it has committed at most `concurrency` of the turns in
        progress. The other turns are cancelled; the replies that they have received stay in the ledger.
        """
        if self._drain_at is None:
            self._drain_at = min(self._last_started_turn + 1, self._turns + self._config.concurrency)
            for number, turn in self._speculative_turns.items():
                if number >= self._drain_at:
                    turn.cancel()

    async def run(self) -> None:
        """Commit turns until the run is finished or drained.

        Raises:
            NanofluxError: an endpoint, the sandbox or a rule stopped the run, which keeps its committed turns. If the
                error's `pauses` is set (a spent budget, a busy server, unreadable replies), the run is paused, not
                failed.
        """
        try:
            await self._restore_index()
            if self._prepare is not None:
                await self._prepare()
            while not self.finished and (self._drain_at is None or self._turns < self._drain_at):
                self._start_speculative_turns()
                await self._commit_next_turn()
            self._refuse_unreadable_run()
        finally:
            await self._stop()

    def _refuse_unreadable_run(self) -> None:
        """Raise UnreadableReplyError if the run has reached its turn limit without a single readable reply. Does
        nothing if `pause_after_unread` is 0.
        """
        limit_reached = 0 < self._config.max_turns <= self._turns
        if limit_reached and not self._any_reply_readable and self._config.pause_after_unread:
            raise UnreadableReplyError(
                f"no reply was readable before the turn limit ({self._turns}) was reached: {self._last_reason}",
                "correct the model's settings, then start another run",
            )

    async def _restore_index(self) -> None:
        """Rebuild the novelty index of the committed turns. The embeddings come from stored calls."""
        traced_calls = TracedCalls(self._calls)
        await index_questions_of_other_runs(self._rules, self._index, traced_calls)
        for record in self._committed_turns:
            await index_questions(self._rules, self._index, record, traced_calls)
        self._committed_turns = []  # frees memory: the records of a long run are large, and no longer needed

    async def _commit_next_turn(self) -> None:
        """Commit the next turn, and report the progress.

        Raises:
            UnreadableReplyError: the turn completes a streak of unreadable replies, which pauses the run.
            SaturatedError: nearly all recent attempts were rejected for the same reason, which pauses the run.
            NanofluxError: the turn failed.
        """
        record, traced_calls = await self._run_next_turn()
        call_ids = list(traced_calls.ids)  # a copy, since `index_questions` adds its calls to the list
        await index_questions(self._rules, self._index, record, traced_calls)
        self._ledger.commit_turn(self._run, record, call_ids)
        self._turns += 1
        self._kept += record.kept
        self._any_reply_readable = self._any_reply_readable or has_readable_reply(record)
        self._last_reason = record.last_attempt.reason
        self._speculative_turns.pop(record.number, None)
        if self._all_started:
            self._calls.limiter.reorder()
        self._on_progress(RunProgress(record, self._turns, self._kept, self._config.target))
        streak = self._streaks.add(record, self._config.pause_after_unread)
        saturation = self._recent_attempts.add(record, self._config)
        if streak is not None:
            raise self._make_pause_error(streak, call_ids)
        if saturation is not None and not self.finished:
            raise SaturatedError(saturation.describe(), saturation.advise(self._run))

    async def _run_next_turn(self) -> tuple[TurnRecord, TracedCalls]:
        """Finish or replay the next turn to commit. Returns its record and the calls that it uses."""
        history = self._index.history()
        turn = self._speculative_turns.get(self._turns)
        if turn is not None and turn.task is not None:
            if turn.confirm(history):
                self._confirmed_count += 1
                record = await turn.task
                if record is not None:
                    return record, turn.traced_calls
            else:
                self._refuted_count += 1
            turn.cancel()
        traced_calls = TracedCalls(self._calls)
        return await run_turn(self._rules, self._turns, history, traced_calls), traced_calls

    def _make_pause_error(self, streak: Streak, call_ids: Sequence[int]) -> UnreadableReplyError:
        """The error that pauses the run because of a streak, with the beginning of the last unreadable reply.
        `call_ids` are the calls of the last turn.
        """
        reply_in_one_line = " ".join(self._ledger.find_last_reply(call_ids).split())
        excerpt = redact(reply_in_one_line)[:EXCERPT_CHARACTERS]
        quotation = f" The last reply begins: {excerpt!r}" if excerpt else ""
        attempts = format_quantity(streak.attempts, "consecutive attempt")
        return UnreadableReplyError(
            f"{attempts} got no readable reply at the {streak.step} from {streak.endpoint}:"
            f" {streak.reason}.{quotation}",
            f"correct the model's settings, then `nanoflux run resume {self._run}`; it pauses again after as many"
            f" attempts (to never pause: `nanoflux run set {self._run} pause_after_unread=0`)",
        )

    def _start_speculative_turns(self) -> None:
        """Start speculative turns: enough to make as many concurrent requests as allowed, but no more than the run is
        likely to need. The larger the share of speculative turns refuted so far, the fewer are started.
        """
        if self._drain_at is not None:
            return
        config = self._config
        # The endpoints process at most `capacity` requests at a time. Half as many more wait, so that no server idles.
        most_useful_requests = max(2, self._capacity + self._capacity // 2)
        request_limit = min(config.concurrency, most_useful_requests)
        self._calls.limiter.resize(request_limit)
        if request_limit == 1:
            return
        # The share is 1 before the first turn is confirmed or refuted.
        confirmed_share = (self._confirmed_count + 1) / (self._confirmed_count + self._refuted_count + 1)
        max_ahead = request_limit * max(1, math.ceil(MAX_AHEAD_PER_REQUEST * confirmed_share))
        max_active = ACTIVE_PER_REQUEST * request_limit
        likely_end = self._estimate_end()
        startable_numbers = [
            number
            for number in range(self._turns, min(self._turns + max_ahead, likely_end))
            if number not in self._speculative_turns
        ]
        if self._all_started and not startable_numbers:
            return
        active_count = sum(turn.in_progress for turn in self._speculative_turns.values())
        free_slots = max(0, min(max_ahead, max_active) - active_count)
        left_after_free_slots = likely_end - self._last_started_turn - free_slots
        start_all = left_after_free_slots <= max_active
        all_started = start_all and self._turns > 0  # before the first commit, the end of the run is only a guess
        if all_started != self._all_started:
            self._all_started = all_started
            self._calls.limiter.reorder()
        numbers_to_start = startable_numbers if start_all else startable_numbers[:free_slots]
        for number in numbers_to_start:
            self._start_turn(number)

    def _estimate_end(self) -> int:
        """The number of turns after which the run will end if later turns are kept as often as those so far. Finished
        turns count even if they still wait for a slow earlier turn to be committed.
        """
        records = [record for turn in self._speculative_turns.values() if (record := turn.find_record()) is not None]
        finished_count = self._turns + len(records)
        kept_count = self._kept + sum(record.kept for record in records)
        turns_per_example = (finished_count + 1) / (kept_count + 1)  # 1 before the first turn
        turns_needed = math.ceil((self._config.target - self._kept) * turns_per_example)
        return min(self._turns + turns_needed, self._config.max_turns)

    def _start_turn(self, number: int) -> None:
        """Start a speculative turn in place of any earlier one with this number."""
        turn = SpeculativeTurn(number, self._index, self._speculative_turns, self._calls)
        self._speculative_turns[number] = turn
        turn.task = asyncio.create_task(self._run_speculatively(turn))
        turn.task.add_done_callback(self._replace_finished_turn)

    def _replace_finished_turn(self, task: asyncio.Task[TurnRecord | None]) -> None:
        """Start more turns once a turn has finished, so that as many are in progress as before."""
        if not task.cancelled():
            self._start_speculative_turns()

    def _restart_contradicted(self, turn: SpeculativeTurn, question: Vector) -> None:
        """Restart the later turns that `turn` contradicts by asking `question`. The restarted turns reuse stored
        replies up to their first request that differs.
        """
        threshold = self._config.novelty.question
        for later_turn in list(self._speculative_turns.values()):
            if later_turn.number > turn.number and later_turn.is_contradicted_by(question, threshold):
                later_turn.cancel()
                self._start_turn(later_turn.number)

    def _rank(self, turn: SpeculativeTurn) -> tuple[int, int, int, int]:
        """The priority of a turn's requests; the smallest goes first.

        Normally earlier turns go first, since they are committed first. Once all remaining turns have started, the run
        ends with its slowest turn. The next turn to commit then goes first, followed by the turns that are likely to
        end last: those in later attempts, then those with fewer changes of role in their attempt, then those that have
        made more calls, since a judge that has to be asked repeatedly is likely to reject. Before the first
        commit, earlier turns always go first, since it is not known how many turns remain.
        """
        if turn.number == self._turns or not self._all_started:
            return (0, turn.number, 0, 0)
        return (1, -turn.attempt_count, turn.role_changes, -len(turn.traced_calls.ids))

    async def _run_speculatively(self, turn: SpeculativeTurn) -> TurnRecord | None:
        """Run a turn ahead of the committer. Returns its record, or None if it failed. The committer then runs the turn
        again, and the run fails only if that fails too.
        """
        RANK.set(lambda: self._rank(turn))  # applies to this turn alone, since each turn runs in a separate task
        try:
            history = SpeculativeHistory(turn, self._restart_contradicted)
            return await run_turn(self._rules, turn.number, history, turn.call)
        except NanofluxError:
            return None

    async def _stop(self) -> None:
        """Cancel all speculative turns, and wait until they and the calls in flight have ended."""
        self._drain_at = self._turns  # so that no turn starts when a cancelled turn ends
        for turn in self._speculative_turns.values():
            turn.cancel()
        tasks = [turn.task for turn in self._speculative_turns.values() if turn.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._calls.close()
