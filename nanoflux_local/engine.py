"""The engine: runs turns ahead of one committer (turn order is the truth, SPEC §6).

Guesses play turns ahead with the questions known so far, which only fills the ledger. The committer plays the same
turns again in order with the true history: where a guess held, every call is remembered; where it did not, only what
differs is called anew. So the result is the one that running the turns one after another would give.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from nanoflux_local.config import RunConfig
from nanoflux_local.errors import NanofluxError
from nanoflux_local.ledger.calls import EARLIER, Call, RememberedCalls, TracedCalls, acting_as
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.novelty import NoveltyIndex
from nanoflux_local.records import Vector
from nanoflux_local.transcript import TurnRecord
from nanoflux_local.turn import Rules, embed, run_turn

DEEPEST = 8
"""Guesses that are done wait for the committer: at most this many times as many as are under way."""

TOGETHER = 64
"""Questions of other runs that are embedded at once, and share a commit where that is called for."""


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
            index.append(await embed(rules, attempt.attack.question, call))


async def index_earlier(rules: Rules, index: NoveltyIndex, call: Call) -> None:
    """Begin an index with what other runs asked, and embed the items that are held out: remembered calls, or made
    anew where others had another embedder.
    """
    with acting_as(EARLIER):
        for start in range(0, len(rules.before), TOGETHER):
            questions = rules.before[start : start + TOGETHER]
            for vector in await asyncio.gather(*(embed(rules, question, call) for question in questions)):
                index.append(vector)
    await rules.held_out.embed(rules.embedder, call)


class Guessed:
    """The questions that turns under way have asked so far: what later turns will probably be held against."""

    def __init__(self, threshold: float, again: Callable[[int], None]) -> None:
        self._threshold = threshold
        self._again = again
        self._by_turn: dict[int, list[Vector]] = {}

    def before(self, turn: int) -> list[Vector]:
        return [vector for number, known in self._by_turn.items() if number < turn for vector in known]

    def add(self, turn: int, vector: Vector) -> None:
        """Note a question; a later turn that has passed one too much like it is played again, ahead of its commit."""
        mine = self._by_turn.setdefault(turn, [])
        if any(vector is known for known in mine):
            return
        mine.append(vector)
        for number, known in list(self._by_turn.items()):
            if number > turn and any(float(vector @ other) > self._threshold for other in known):
                self._again(number)

    def forget(self, turn: int) -> None:
        self._by_turn.pop(turn, None)


@dataclass(frozen=True, slots=True, eq=False)
class LikelyHistory:
    """A `History` for a guess: it looks at what is known when it is asked, the guesses of earlier turns included."""

    turn: int
    index: NoveltyIndex
    guessed: Guessed
    own: tuple[Vector, ...] = ()

    def plus(self, vector: Vector) -> "LikelyHistory":
        return LikelyHistory(self.turn, self.index, self.guessed, (*self.own, vector))

    def nearest(self, vector: Vector) -> float | None:
        earlier = (*self.guessed.before(self.turn), *self.own)
        self.guessed.add(self.turn, vector)
        return self.index.history().plus(*earlier).nearest(vector)


class Engine:
    """Plays one run to its target or its turn limit. `committed` are the turns of an earlier start, in order.

    `capacity` is how many requests the endpoints can usefully hold at once.
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
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._rules = rules
        self._config = rules.config
        self._calls = calls
        self._on_progress = on_progress
        self._capacity = capacity
        self._turns = len(committed)
        self._kept = sum(record.kept for record in committed)
        self._index = NoveltyIndex()
        self._committed = committed
        self._ahead: dict[int, asyncio.Task[TurnRecord | None]] = {}
        self._guessed = Guessed(rules.config.novelty.question, self._guess_again)
        self._held = self._failed = 0
        self._drain_at: int | None = None

    @property
    def finished(self) -> bool:
        return self._kept >= self._config.target or self._turns >= self._config.max_turns

    def steer(self, config: RunConfig) -> None:
        """Other values of what may change while a run is played (`config.LIVE`), from the next turn on."""
        self._config = config
        self._run_ahead()

    def drain(self) -> None:
        """Begin no new turn: commit those under way, then return from `play`."""
        if self._drain_at is None:
            self._drain_at = max([self._turns, *self._ahead]) + 1

    async def play(self) -> None:
        """Commit turns until the run is finished or drained.

        Raises:
            NanofluxError: an endpoint, the sandbox or a rule stopped the run; what was committed stays.
        """
        try:
            await self._recall_history()
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
        trace = TracedCalls(self._calls)
        record = await run_turn(self._rules, self._turns, self._index.history(), trace)
        used = list(trace.ids)
        await index_questions(self._rules, self._index, record, trace)
        self._ledger.commit_turn(self._run, record, used)
        self._turns += 1
        self._kept += record.kept
        self._judge_guess(record)
        self._on_progress(Progress(record, self._turns, self._kept, self._config.target))

    def _judge_guess(self, record: TurnRecord) -> None:
        """Whether the guess held decides how far ahead the next ones are worth their calls."""
        self._guessed.forget(record.number)
        guess = self._ahead.pop(record.number, None)
        if guess is None:
            return
        held = guess.done() and not guess.cancelled() and guess.result() == record
        self._held, self._failed = self._held + held, self._failed + (not held)
        if not guess.done():
            guess.cancel()

    def _run_ahead(self) -> None:
        """Keep turns under way, the committer's own among them: as many as were asked for and the endpoints can hold,
        but no more than are likely needed, and the less deep the more guesses failed.
        """
        if self._drain_at is not None:
            return
        config = self._config
        width = min(config.concurrency, max(2, self._capacity + self._capacity // 2))
        needed = math.ceil((config.target - self._kept) * (self._turns + 1) / (self._kept + 1))
        held = (self._held + 1) / (self._held + self._failed + 1)
        deep = width if width == 1 else width * max(1, math.ceil(DEEPEST * held))
        room = width - 1 - sum(not task.done() for number, task in self._ahead.items() if number != self._turns)
        for number in range(self._turns + 1, min(self._turns + min(deep, needed), config.max_turns)):
            if room <= 0:
                return
            if number not in self._ahead:
                self._start(number)
                room -= 1

    def _start(self, number: int) -> None:
        task = asyncio.create_task(self._guess(number))
        task.add_done_callback(lambda done: None if done.cancelled() else self._run_ahead())
        self._ahead[number] = task

    def _guess_again(self, number: int) -> None:
        """An earlier turn asked nearly the same: the guess is played anew, from memory up to where it differs."""
        if number in self._ahead and number > self._turns and self._drain_at is None:
            self._ahead[number].cancel()
            self._guessed.forget(number)
            self._start(number)

    async def _guess(self, number: int) -> TurnRecord | None:
        """Play a turn with what is known so far. Its failure is not the run's: the committer will meet it itself."""
        try:
            history = LikelyHistory(number, self._index, self._guessed)
            return await run_turn(self._rules, number, history, TracedCalls(self._calls))
        except NanofluxError:
            return None

    async def _stop(self) -> None:
        self._drain_at = self._turns
        for task in self._ahead.values():
            task.cancel()
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)
        await self._calls.close()
