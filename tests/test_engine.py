"""The engine: concurrency does not change the dataset, interruptions lose no stored call, and no call is made twice."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.errors import EndpointError
from nanoflux_local.ledger.calls import CachedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Reply, Request, derive_seed
from nanoflux_local.run import binding, configs, runs
from nanoflux_local.run.engine import Engine, RunProgress
from nanoflux_local.transcript import OUTCOMES, TurnRecord

REACHABLE_OUTCOMES = [outcome for outcome in OUTCOMES if outcome not in ("contaminated", "unproven")]
"""The outcomes that can occur here, since there are no held-out items and no check is enabled."""
BeforeCall = Callable[[Request[Any]], Awaitable[None]]
"""A function that is awaited before a request is sent: it can delay the request, or make it fail."""
STRICT_SETTINGS = {"seeds": {"min": 2}, "judge": {"strikes": 1}, "retries": {"parse": 0}}
"""One strike, and no retry of an unreadable reply, so that every outcome occurs within a few dozen turns."""


async def send_at_once(request: Request[Any]) -> None:
    """The `BeforeCall` that does nothing."""


@dataclass
class RunHarness:
    """A home with one scripted run. Records the keys of the requests that are sent, the progress that is reported, and
    how many turns were committed at each report.
    """

    home: Home
    run: str
    seed: int = 0
    sent_keys: list[str] = field(default_factory=list)
    progress_reports: list[RunProgress] = field(default_factory=list)
    committed_counts: list[int] = field(default_factory=list)

    @classmethod
    async def make(cls, root: Path, **settings: Any) -> "RunHarness":
        """Start a run with these settings in a new home."""
        home = Home(root).prepare()
        config = configs.resolve("starter-genetics", "scripted", {**STRICT_SETTINGS, **settings}, home)
        return cls(home, await runs.start(home, config), config.seed)

    @contextlib.asynccontextmanager
    async def open_engine(self, before_call: BeforeCall) -> AsyncIterator[Engine]:
        """The engine as `runs.execute` builds it, except that it awaits `before_call` before each request is sent."""
        config, identities, committed_turns = runs.load_run(self.home, self.run)
        run_endpoints = binding.bind(config, self.home)

        def record_requests(answer: Callable[[Any], Awaitable[Reply]]) -> Callable[[Any], Awaitable[Reply]]:
            async def record_and_answer(request: Request[Any]) -> Reply:
                self.sent_keys.append(request.key())
                await before_call(request)
                return await answer(request)

            return record_and_answer

        answers = {kind: record_requests(answer) for kind, answer in run_endpoints.answers().items()}
        with Ledger(self.home.ledger) as ledger:
            rules = binding.build_rules(config, identities, self.home)
            calls = CachedCalls(ledger, self.run, answers)
            yield Engine(ledger, self.run, rules, calls, committed_turns, self.record_progress)
        await run_endpoints.close()

    def record_progress(self, progress: RunProgress) -> None:
        self.progress_reports.append(progress)
        self.committed_counts.append(len(self.read_records()))

    async def execute(self, before_call: BeforeCall = send_at_once) -> None:
        """Execute the run from its first uncommitted turn to its end."""
        async with self.open_engine(before_call) as engine:
            await engine.run()

    def open_view(self) -> LedgerView:
        return LedgerView(self.home.ledger)

    def read_records(self) -> list[TurnRecord]:
        with self.open_view() as view:
            return view.turn_records(self.run)

    def read_summary(self) -> dict[str, Any]:
        with self.open_view() as view:
            return view.summarize_run(self.run).to_json()

    def read_stored_keys(self) -> set[str]:
        """The keys of the requests whose replies are in the ledger."""
        with self.open_view() as view:
            return {row["key"] for row in view.rows("SELECT key FROM calls")}


def make_random_delays(seed: int) -> BeforeCall:
    """A `BeforeCall` that delays requests at random, so that replies arrive in a different order for each `seed`."""
    rng = random.Random(seed)

    async def before_call(request: Request[Any]) -> None:
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.004]))

    return before_call


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> RunHarness:
    """A finished run of forty turns at concurrency 1, in which every reachable outcome occurs. Runs at other
    concurrencies are compared with it.
    """

    async def run_sequentially(seed: int) -> RunHarness:
        harness = await RunHarness.make(tmp_path_factory.mktemp("sequential"), seed=seed, max_turns=40, concurrency=1)
        await harness.execute()
        return harness

    for seed in range(12):  # which outcomes occur depends on the wording of the prompts
        harness = asyncio.run(run_sequentially(seed))
        funnel = harness.read_summary()["funnel"]
        if all(funnel[outcome] for outcome in REACHABLE_OUTCOMES):
            return harness
    raise AssertionError("no seed gives a run with every reachable outcome")


async def test_sequential_run_has_every_outcome_and_makes_each_call_once(sequential: RunHarness) -> None:
    funnel = sequential.read_summary()["funnel"]
    assert all(funnel[outcome] for outcome in REACHABLE_OUTCOMES), funnel
    assert len(sequential.sent_keys) == len(set(sequential.sent_keys)) == sequential.read_summary()["calls"]["made"]
    assert sequential.read_summary()["calls"]["wasted"] == 0


@pytest.mark.parametrize("concurrency", [2, 8, 64])
async def test_concurrency_does_not_change_the_dataset(
    sequential: RunHarness, tmp_path: Path, concurrency: int
) -> None:
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, max_turns=40, concurrency=concurrency)
    await harness.execute(make_random_delays(concurrency))
    assert harness.read_records() == sequential.read_records()
    actual, expected = harness.read_summary(), sequential.read_summary()
    for key in ("digest", "funnel", "kept", "turns"):
        assert actual[key] == expected[key]
    assert harness.read_stored_keys() >= sequential.read_stored_keys()
    assert len(harness.sent_keys) == len(set(harness.sent_keys)), "the same call was made twice"
    with harness.open_view() as view:
        assert list(verify_run(view, harness.run)) == []
    if concurrency == 64:
        assert actual["calls"]["wasted"] > 0, (
            "no speculative turn was contradicted, so the test covers no repeated turn"
        )


async def test_requests_of_the_next_turn_to_commit_have_priority(sequential: RunHarness, tmp_path: Path) -> None:
    async def wait_before_call(_: Request[Any]) -> None:
        await asyncio.sleep(0.01)

    # With so few turns, all are in progress at once.
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, max_turns=20, concurrency=4)
    await harness.execute(wait_before_call)
    with harness.open_view() as view:
        rows = view.rows(
            "SELECT calls.key FROM turn_calls JOIN turns ON turns.id = turn_calls.turn JOIN calls ON calls.id = call"
            " WHERE turns.number = 0 ORDER BY position"
        )
        positions = [harness.sent_keys.index(row["key"]) for row in rows]  # of turn 0's requests among all requests
    assert len(positions) > 2
    # Without priority, each of the 19 later turns could send a request between two requests of turn 0.
    assert all(later - earlier < 14 for earlier, later in pairwise(positions)), positions


async def test_earlier_turns_have_priority_until_the_first_commit(sequential: RunHarness, tmp_path: Path) -> None:
    """All 20 turns are in progress at once. Until the end of the run can be estimated, four concurrent requests finish
    the first turns instead of beginning all of them.
    """
    turn_by_seed = {derive_seed(sequential.seed, turn, 0, "attack", 0): turn for turn in range(20)}
    turns_begun_before_first_commit: set[int] = set()
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, max_turns=20, concurrency=4)

    async def before_call(request: Request[Any]) -> None:
        turn = turn_by_seed.get(getattr(request, "seed", 0))
        if turn is not None and not harness.progress_reports:
            turns_begun_before_first_commit.add(turn)
        await asyncio.sleep(0.01)

    await harness.execute(before_call)
    assert turns_begun_before_first_commit <= set(range(10)), turns_begun_before_first_commit


class SimulatedTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with simulated time: a sleep takes no real time, and work takes no simulated time."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        select = self._selector.select

        def select_without_waiting(timeout: float | None = None) -> Any:
            self._now += timeout or 0.0
            return select(0.0)

        self._selector.select = select_without_waiting

    def time(self) -> float:
        return self._now


def test_turns_with_many_attempts_have_priority_near_the_end_of_a_run(tmp_path: Path) -> None:
    """With 200 turns of up to six attempts, 32 request slots and one second per request, a run takes at most 6
    percent longer than the shortest possible time. Without the priority, it would end with a few long turns.
    """
    request_slots, request_count = asyncio.Semaphore(32), 0

    async def before_call(request: Request[Any]) -> None:
        nonlocal request_count
        if request.kind == "chat":
            async with request_slots:
                request_count += 1
                await asyncio.sleep(1)

    async def run_and_time() -> float:
        settings = {"novelty": {"question": 0.88}, "judge": {}, "retries": {}}
        harness = await RunHarness.make(tmp_path, seed=5, max_turns=200, target=200, concurrency=32, **settings)
        start = asyncio.get_running_loop().time()
        await harness.execute(before_call)
        assert max(len(record.attempts) for record in harness.read_records()) > 3
        return asyncio.get_running_loop().time() - start

    loop = SimulatedTimeLoop()
    try:
        seconds = loop.run_until_complete(run_and_time())
    finally:
        loop.close()
    shortest_possible_s = request_count / 32
    assert 1.0 <= seconds / shortest_possible_s < 1.06


async def test_number_of_concurrent_requests_reaches_but_never_exceeds_the_concurrency(tmp_path: Path) -> None:
    harness = await RunHarness.make(tmp_path, max_turns=6, concurrency=4)
    in_flight, max_in_flight = 0, 0

    async def before_call(request: Request[Any]) -> None:
        nonlocal in_flight, max_in_flight
        in_flight += 1
        max_in_flight = max(max_in_flight, in_flight)
        await asyncio.sleep(0.005)
        in_flight -= 1

    await harness.execute(before_call)
    assert max_in_flight == 4
    assert [progress.turns for progress in harness.progress_reports] == [1, 2, 3, 4, 5, 6]


async def test_drain_near_the_end_does_not_wait_for_every_started_turn(sequential: RunHarness, tmp_path: Path) -> None:
    # With so few turns, all start together.
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, max_turns=20, concurrency=4)
    async with harness.open_engine(make_random_delays(0)) as engine:
        engine_task = asyncio.create_task(engine.run())
        while not harness.progress_reports:
            await asyncio.sleep(0)
        turns_before_drain = len(harness.progress_reports)
        engine.drain()
        await engine_task
    assert turns_before_drain < len(harness.progress_reports) <= turns_before_drain + 4
    await harness.execute()
    assert harness.read_records() == sequential.read_records()[:20]
    assert len(harness.sent_keys) == len(set(harness.sent_keys)), "the same call was made twice"


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_engine_stops_at_the_target(sequential: RunHarness, tmp_path: Path, concurrency: int) -> None:
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, target=5, max_turns=40, concurrency=concurrency)
    await harness.execute(make_random_delays(1))
    records = harness.read_records()
    assert sum(record.kept for record in records) == 5 and records[-1].kept
    assert records == sequential.read_records()[: len(records)]
    progress = harness.progress_reports[-1]
    assert (progress.kept, progress.target, progress.turns, progress.record) == (5, 5, len(records), records[-1])


async def test_more_turns_start_while_a_slow_turn_delays_the_commits(sequential: RunHarness, tmp_path: Path) -> None:
    records = sequential.read_records()
    # As many examples as turns are needed if all are kept; turn `target` starts only once a turn before it was not.
    target = next(record.number for record in records[1:] if not record.kept) + 1
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, target=target, max_turns=40, concurrency=16)
    attack_seed = derive_seed(sequential.seed, target, 0, "attack", 0)
    later_turn_started = asyncio.Event()

    async def before_call(request: Request[Any]) -> None:
        if getattr(request, "seed", None) == attack_seed:
            later_turn_started.set()
        if getattr(request, "seed", None) == derive_seed(sequential.seed, 0, 0, "attack", 0):
            await asyncio.wait_for(later_turn_started.wait(), timeout=60)

    await harness.execute(before_call)
    assert harness.read_records() == records[: len(harness.read_records())]


async def test_engine_runs_no_turn_beyond_the_turn_limit(sequential: RunHarness, tmp_path: Path) -> None:
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, max_turns=6, concurrency=64)
    sampling_seeds: set[int] = set()

    async def before_call(request: Request[Any]) -> None:
        sampling_seeds.add(getattr(request, "seed", 0))  # only requests to chat models have a seed

    await harness.execute(before_call)
    assert harness.read_records() == sequential.read_records()[:6]
    attack_seeds_by_turn = {}
    for turn in range(70):
        attack_seeds_by_turn[turn] = {derive_seed(sequential.seed, turn, attempt, "attack", 0) for attempt in range(6)}
    turns_with_an_attack = [
        turn for turn, attack_seeds in attack_seeds_by_turn.items() if attack_seeds & sampling_seeds
    ]
    assert turns_with_an_attack == list(range(6))


async def test_finished_run_executed_again_makes_no_call(tmp_path: Path) -> None:
    harness = await RunHarness.make(tmp_path, max_turns=4)
    await harness.execute()
    records_before, harness.sent_keys = harness.read_records(), []
    await harness.execute()
    assert harness.sent_keys == [] and harness.read_records() == records_before


async def test_funnel_adds_up_to_the_attempts(sequential: RunHarness) -> None:
    funnel = sequential.read_summary()["funnel"]
    assert sum(funnel[outcome] for outcome in OUTCOMES) == funnel["attempts"]
    count_by_outcome = Counter(attempt.outcome for record in sequential.read_records() for attempt in record.attempts)
    assert funnel == {
        "attempts": sum(count_by_outcome.values()),
        **{outcome: count_by_outcome[outcome] for outcome in OUTCOMES},
    }
    assert sequential.read_summary()["kept"] == funnel["kept_failed"] + funnel["kept_novel"]


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_resume_after_failures_repeats_no_call(sequential: RunHarness, tmp_path: Path, concurrency: int) -> None:
    """Five times, the endpoint fails after some calls and the run is resumed."""
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, max_turns=40, concurrency=concurrency)
    for call_limit in (0, 1, 17, 40, 90):
        stored_keys_before, harness.sent_keys, calls_left = harness.read_stored_keys(), [], call_limit

        async def before_call(request: Request[Any]) -> None:
            nonlocal calls_left
            calls_left -= 1
            if calls_left < 0:
                raise EndpointError("gone")

        with pytest.raises(EndpointError, match="gone"):
            await harness.execute(before_call)
        assert not stored_keys_before & set(harness.sent_keys), "a call whose reply was stored was made again"
        assert harness.read_stored_keys() - stored_keys_before <= set(harness.sent_keys)
        assert harness.read_records() == sequential.read_records()[: len(harness.read_records())]
    stored_keys_before, harness.sent_keys = harness.read_stored_keys(), []
    await harness.execute()
    assert not stored_keys_before & set(harness.sent_keys)
    assert harness.read_records() == sequential.read_records()
    assert harness.read_summary()["digest"] == sequential.read_summary()["digest"]


async def test_examples_kept_before_a_failure_count_towards_the_target(sequential: RunHarness, tmp_path: Path) -> None:
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, target=6, max_turns=40, concurrency=1)
    calls_left = 30

    async def before_call(request: Request[Any]) -> None:
        nonlocal calls_left
        calls_left -= 1
        if calls_left < 0:
            raise EndpointError("gone")

    with pytest.raises(EndpointError):
        await harness.execute(before_call)
    kept_count = harness.read_summary()["kept"]
    assert 0 < kept_count < 6
    await harness.execute()
    assert harness.read_summary()["kept"] == 6
    assert harness.read_records() == sequential.read_records()[: len(harness.read_records())]


async def test_failure_of_a_speculative_turn_does_not_fail_the_run(sequential: RunHarness, tmp_path: Path) -> None:
    """The first call of each of seven speculative turns fails. It is made again when the turn is to be committed."""
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, max_turns=12, concurrency=8)
    failed_keys: set[str] = set()

    async def before_call(request: Request[Any]) -> None:
        await asyncio.sleep(0.001)
        if request.key() in harness.sent_keys[1:8] and request.key() not in failed_keys:
            failed_keys.add(request.key())
            raise EndpointError("not yet")

    await harness.execute(before_call)
    assert len(failed_keys) == 7
    assert harness.read_records() == sequential.read_records()[:12]


async def test_cancel_leaves_no_task_and_keeps_committed_turns(sequential: RunHarness, tmp_path: Path) -> None:
    harness = await RunHarness.make(tmp_path, seed=sequential.seed, max_turns=40, concurrency=8)
    task = asyncio.create_task(harness.execute(make_random_delays(3)))
    while len(harness.progress_reports) < 5:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert 5 <= len(harness.read_records()) < 40
    await harness.execute()
    assert harness.read_records() == sequential.read_records()


async def test_progress_is_reported_after_the_commit_of_each_turn(tmp_path: Path) -> None:
    harness = await RunHarness.make(tmp_path, max_turns=5)
    await harness.execute()
    assert [progress.record for progress in harness.progress_reports] == harness.read_records()
    assert harness.committed_counts == [1, 2, 3, 4, 5]
