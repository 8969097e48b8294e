"""The engine: runs turns ahead of one committer (turn order is the truth, SPEC §6).

Guesses play turns ahead with the questions known so far. The committer takes them in order and holds what each was told
of earlier questions against the true history: where all was true, the guess is the turn; where it was not, the turn is
played again, and only what differs is called anew. So the result is the one that running the turns one after another
would give.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from nanoflux_local.config import RunConfig
from nanoflux_local.errors import NanofluxError, PromptRefusedError, UnreadError
from nanoflux_local.ledger.calls import ROLE, Call, R, RememberedCalls, TracedCalls, embed_texts
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.limiter import RANK
from nanoflux_local.records import Request, Vector
from nanoflux_local.redaction import redact
from nanoflux_local.run.novelty import History, NoveltyIndex
from nanoflux_local.run.streaks import Streak, Streaks
from nanoflux_local.run.turn import Rules, embed, run_turn
from nanoflux_local.transcript import TurnRecord

DEEPEST = 8
"""Turns ahead of the committer, those that wait for it included: at most so many for each request under way."""

UNDER_WAY = 3
"""Turns under way for each request that may be: a turn asks for one thing at a time, and the servers shall have work
between two of them too. When the last turns come near, all that are left begin: a turn that started late and had to
try again would be waited for alone.
"""


EXCERPT = 200
"""Characters of an unread reply that are shown."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after each committed turn."""

    record: TurnRecord
    turns: int
    kept: int
    target: int


async def index_questions(rules: Rules, index: NoveltyIndex, record: TurnRecord, call: Call) -> None:
    """Add a turn's questions to the index: every one that passed parsing, kept or not (SPEC §6)."""
    for attempt in record.attempts:
        if attempt.attack is not None:
            with suppress(PromptRefusedError):  # what has no vector is like nothing
                index.append(await embed(rules, attempt.attack.question, call))


async def index_earlier(rules: Rules, index: NoveltyIndex, call: Call) -> None:
    """Begin an index with what other runs asked, and embed the items that are held out: remembered calls, or made
    anew where others had another embedder.
    """
    async for vector in embed_texts(rules.embedder, rules.before, call):
        if vector is not None:
            index.append(vector)
    await rules.held_out.embed(rules.embedder, call)


class Guess:
    """A turn that is played before those ahead of it are committed: what it was told of them, and what it comes to.

    `ahead` are all guesses by their turns, this one among them once it plays.
    """

    def __init__(self, number: int, index: NoveltyIndex, ahead: Mapping[int, "Guess"], calls: RememberedCalls) -> None:
        self.number = number
        self.trace = TracedCalls(calls)
        self.task: asyncio.Task[TurnRecord | None] | None = None
        self.asked: list[Vector] = []
        self.attempts = self.stage = 0
        self._role = ""
        self._index = index
        self._ahead = ahead
        self._truth: History | None = None
        self._told: list[tuple[Vector, tuple[Vector, ...], float | None]] = []

    @property
    def under_way(self) -> bool:
        return self.task is not None and not self.task.done()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def call(self, request: Request[R]) -> R:
        """Ask, and note how far the turn is: its attempts, and in the last one how often another role came on."""
        role = ROLE.get()
        if role and role != self._role:
            self.attempts += role == "attacker"
            self.stage = 0 if role == "attacker" else self.stage + 1
            self._role = role
        return await self.trace(request)

    def nearest(self, vector: Vector, own: tuple[Vector, ...]) -> float | None:
        """As far as is known now, the guesses of earlier turns included; once those are committed, as it is."""
        self.asked.append(vector)
        if self._truth is not None:
            return self._truth.plus(*own).nearest(vector)
        earlier = [asked for number, guess in self._ahead.items() if number < self.number for asked in guess.asked]
        nearest = self._index.history().plus(*earlier, *own).nearest(vector)
        self._told.append((vector, own, nearest))
        return nearest

    def holds(self, truth: History) -> bool:
        """Whether it was told nothing but the truth so far; it is from here on. Then the turn is what it comes to,
        since a turn depends on earlier ones by these answers alone.
        """
        self._truth = truth
        return all(truth.plus(*own).nearest(vector) == nearest for vector, own, nearest in self._told)

    def misled(self, vector: Vector, threshold: float) -> bool:
        """Whether a question of an earlier turn came too late for it: it passed one that is too much like it."""
        passed = (mine for mine, _, nearest in self._told if nearest is None or nearest <= threshold)
        return any(float(mine @ vector) > threshold for mine in passed)


@dataclass(frozen=True, slots=True, eq=False)
class LikelyHistory:
    """The `History` that a guess is played with; `own` are the questions of its earlier attempts, and `tell` hears of
    every question.
    """

    guess: Guess
    tell: Callable[[Guess, Vector], None]
    own: tuple[Vector, ...] = ()

    def plus(self, vector: Vector) -> "LikelyHistory":
        return LikelyHistory(self.guess, self.tell, (*self.own, vector))

    def nearest(self, vector: Vector) -> float | None:
        self.tell(self.guess, vector)
        return self.guess.nearest(vector, self.own)


class Engine:
    """Plays one run to its target or its turn limit. `committed` are the turns of an earlier start, in order.

    `capacity` is how many requests the endpoints can usefully hold at once; `first` is done before any turn.
    """

    def __init__(
        self,
        ledger: Ledger,
        run: str,
        rules: Rules,
        calls: RememberedCalls,
        committed: list[TurnRecord],
        on_progress: Callable[[Progress], None] = lambda _: None,
        capacity: int = 1024,
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._rules = rules
        self._config = rules.config
        self._calls = calls
        self._on_progress = on_progress
        self._capacity = capacity
        self._first = first
        self._turns = len(committed)
        self._kept = sum(record.kept for record in committed)
        self._index = NoveltyIndex()
        self._committed = committed
        self._streaks = Streaks()
        for record in committed:
            self._streaks.add(record, self._config.pause_after_unread)
        self._ahead: dict[int, Guess] = {}
        self._held = self._failed = 0
        self._drain_at: int | None = None
        self._ending = False

    @property
    def finished(self) -> bool:
        return self._kept >= self._config.target or self._turns >= self._config.max_turns

    @property
    def draining(self) -> bool:
        return self._drain_at is not None

    def steer(self, config: RunConfig) -> None:
        """Other values of what may change while a run is played (`config.LIVE`), from the next turn on."""
        self._config = config
        self._run_ahead()

    def drain(self) -> None:
        """Begin no new turn: commit as many of those under way as requests may be, then return from `play`. More have
        begun when the last turns run out; what these asked is remembered.
        """
        if self._drain_at is None:
            self._drain_at = min(max([self._turns, *self._ahead]) + 1, self._turns + self._config.concurrency)
            for number, guess in self._ahead.items():
                if number >= self._drain_at:
                    guess.cancel()

    async def play(self) -> None:
        """Commit turns until the run is finished or drained.

        Raises:
            NanofluxError: an endpoint, the sandbox or a rule stopped the run; what was committed stays.
            An error that `pauses` leaves it paused: a spent budget, a busy server, replies that cannot be read.
        """
        try:
            await self._recall_history()
            if self._first is not None:
                await self._first()
            while not self.finished and (self._drain_at is None or self._turns < self._drain_at):
                self._run_ahead()
                await self._commit_next()
        finally:
            await self._stop()

    async def _recall_history(self) -> None:
        """The index of an earlier start: its embeddings are remembered calls."""
        trace = TracedCalls(self._calls)
        await index_earlier(self._rules, self._index, trace)
        for record in self._committed:
            await index_questions(self._rules, self._index, record, trace)
        self._committed = []  # long runs: only the index is needed from here on

    async def _commit_next(self) -> None:
        record, trace = await self._next()
        used = list(trace.ids)
        await index_questions(self._rules, self._index, record, trace)
        self._ledger.commit_turn(self._run, record, used)
        self._turns += 1
        self._kept += record.kept
        self._ahead.pop(record.number, None)
        if self._ending:
            self._calls.room.reorder()
        self._on_progress(Progress(record, self._turns, self._kept, self._config.target))
        streak = self._streaks.add(record, self._config.pause_after_unread)
        if streak is not None:
            raise self._unread(streak, used)

    def _unread(self, streak: Streak, calls: Sequence[int]) -> UnreadError:
        """Why the run pauses, with the beginning of the reply that it came to."""
        reply = redact(" ".join(self._ledger.last_reply(calls).split()))
        excerpt = f" The last reply begins: {reply[:EXCERPT]!r}" if reply else ""
        return UnreadError(
            f"{streak.attempts} attempts in a row got nothing to read at the {streak.step} from {streak.player}:"
            f" {streak.reason}.{excerpt}",
            f"correct the model's settings, then `nanoflux run resume {self._run}`; it pauses again after as many"
            f" (`nanoflux run set {self._run} pause_after_unread=0`: never)",
        )

    async def _next(self) -> tuple[TurnRecord, TracedCalls]:
        """The next turn as the true history has it, and the calls that it rests on."""
        truth, guess = self._index.history(), self._ahead.get(self._turns)
        if guess is not None and guess.task is not None:
            held = guess.holds(truth)
            self._held, self._failed = self._held + held, self._failed + (not held)
            record = await guess.task if held else None
            if record is not None:
                return record, guess.trace
            guess.cancel()
        trace = TracedCalls(self._calls)
        return await run_turn(self._rules, self._turns, truth, trace), trace

    def _run_ahead(self) -> None:
        """Keep turns under way: enough for the requests that were asked for and that the endpoints can hold, but no
        more than are likely needed, and the fewer the more guesses failed.
        """
        if self._drain_at is not None:
            return
        config = self._config
        requests = min(config.concurrency, max(2, self._capacity + self._capacity // 2))
        self._calls.room.resize(requests)
        if requests == 1:
            return
        needed = math.ceil((config.target - self._kept) * (self._turns + 1) / (self._kept + 1))
        held = (self._held + 1) / (self._held + self._failed + 1)
        deep = requests * max(1, math.ceil(DEEPEST * held))
        last = min(self._turns + needed, config.max_turns)
        new = [number for number in range(self._turns, min(self._turns + deep, last)) if number not in self._ahead]
        if self._ending and not new:
            return
        room = max(0, min(deep, UNDER_WAY * requests) - sum(guess.under_way for guess in self._ahead.values()))
        ending = last - max([self._turns, *self._ahead]) - room <= UNDER_WAY * requests
        if ending != self._ending:
            self._ending = ending
            self._calls.room.reorder()
        for number in new if ending else new[:room]:
            self._start(number)

    def _start(self, number: int) -> None:
        guess = self._ahead[number] = Guess(number, self._index, self._ahead, self._calls)
        guess.task = asyncio.create_task(self._guess(guess))
        guess.task.add_done_callback(lambda done: None if done.cancelled() else self._run_ahead())

    def _heard(self, guess: Guess, vector: Vector) -> None:
        """A guess asks. Later ones that it comes too late for are played anew, from memory up to where they differ."""
        for later in list(self._ahead.values()):
            if later.number > guess.number and later.misled(vector, self._config.novelty.question):
                later.cancel()
                self._start(later.number)

    def _rank(self, guess: Guess) -> tuple[int, int, int, int]:
        """Who goes first where requests wait: earlier turns, so that they can be committed. Once all that are left have
        begun, the next one to commit, so that it never waits for those after it; then those with the longest way to go,
        since all wait for the last one: later attempts, in these the roles that come first, and of equals who needed
        more calls for as much, since a judge in doubt is likely to reject.
        """
        if guess.number == self._turns or not self._ending:
            return (0, guess.number, 0, 0)
        return (1, -guess.attempts, guess.stage, -len(guess.trace.ids))

    async def _guess(self, guess: Guess) -> TurnRecord | None:
        """Play a turn with what is known so far. Its failure is not the run's: the committer will meet it itself."""
        RANK.set(lambda: self._rank(guess))  # a task of its own, so nobody else's
        try:
            return await run_turn(self._rules, guess.number, LikelyHistory(guess, self._heard), guess.call)
        except NanofluxError:
            return None

    async def _stop(self) -> None:
        self._drain_at = self._turns
        for guess in self._ahead.values():
            guess.cancel()
        tasks = [guess.task for guess in self._ahead.values() if guess.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._calls.close()
