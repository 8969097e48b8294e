"""The engine: runs turns ahead of one committer (turn order is the truth, SPEC §6).

Workers play turns ahead with the questions known so far, which only fills the ledger. The committer plays the same
turns again in order with the true history: where a guess held, every call is remembered; where it did not, only what
differs is called anew. So the result is the one that running the turns one after another would give.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from nanoflux_local.errors import NanofluxError
from nanoflux_local.ledger.calls import Call, RememberedCalls, TracedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.novelty import NoveltyIndex
from nanoflux_local.transcript import TurnRecord
from nanoflux_local.turn import Rules, embed, run_turn


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


class Engine:
    """Plays one run to its target or its turn limit. `committed` are the turns of an earlier start, in order."""

    def __init__(
        self,
        ledger: Ledger,
        run: str,
        rules: Rules,
        calls: RememberedCalls,
        committed: list[TurnRecord],
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._rules = rules
        self._calls = calls
        self._on_progress = on_progress
        self._turns = len(committed)
        self._kept = sum(record.kept for record in committed)
        self._index = NoveltyIndex()
        self._committed = committed
        self._ahead: dict[int, asyncio.Task[None]] = {}

    @property
    def finished(self) -> bool:
        config = self._rules.config
        return self._kept >= config.target or self._turns >= config.max_turns

    async def play(self) -> None:
        """Commit turns until the run is finished.

        Raises:
            NanofluxError: an endpoint, the sandbox or a rule stopped the run; what was committed stays.
        """
        try:
            await self._recall_history()
            while not self.finished:
                self._run_ahead()
                await self._commit_next()
        finally:
            await self._stop()

    async def _recall_history(self) -> None:
        """The index of an earlier start: its embeddings are remembered calls."""
        trace = TracedCalls(self._calls)
        for record in self._committed:
            await index_questions(self._rules, self._index, record, trace)

    async def _commit_next(self) -> None:
        trace = TracedCalls(self._calls)
        record = await run_turn(self._rules, self._turns, self._index.history(), trace)
        used = list(trace.ids)
        await index_questions(self._rules, self._index, record, trace)
        self._ledger.commit_turn(self._run, record, used)
        self._turns += 1
        self._kept += record.kept
        self._ahead.pop(record.number, None)
        self._on_progress(Progress(record, self._turns, self._kept, self._rules.config.target))

    def _run_ahead(self) -> None:
        """Keep turns under way, the committer's own among them: `concurrency`, but no more than are likely needed."""
        config = self._rules.config
        needed = math.ceil((config.target - self._kept) * (self._turns + 1) / (self._kept + 1))
        last = min(self._turns + min(config.concurrency, needed), config.max_turns)
        for number in range(self._turns + 1, last):
            if number not in self._ahead:
                self._ahead[number] = asyncio.create_task(self._guess(number))

    async def _guess(self, number: int) -> None:
        """Play a turn with what is known so far. Its failure is not the run's: the committer will meet it itself."""
        try:
            await run_turn(self._rules, number, self._index.history(), TracedCalls(self._calls))
        except NanofluxError:
            return

    async def _stop(self) -> None:
        for task in self._ahead.values():
            task.cancel()
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)
        await self._calls.close()
