"""Rounds (self-improvement): the examples of each round train an adapter, and the tuned model is the defender in the
next round. The series ends when an adapter does not improve accuracy on dev items.

Every step is recorded in the ledger before it starts, so that a killed series resumes at the step it had reached. Each
adapter is trained from the base model on the examples of all rounds so far. The questions of a round must also be novel
compared with those of all earlier rounds.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field

from nanoflux_local import jobs
from nanoflux_local.config import RunConfig, Settings, Strict, validate_model
from nanoflux_local.endpoints.kinds.base import list_adapter_kinds
from nanoflux_local.errors import NanofluxError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.evaluate.evaluation import evaluate, make_plan
from nanoflux_local.evaluate.summary import EvaluationSummary
from nanoflux_local.jobs import (
    RUN,
    SERIES,
    TRAINING,
    Job,
    StopRequest,
    heartbeat_thread,
    hold_lock,
    load_job_state,
    record_execution,
    status_after,
)
from nanoflux_local.ledger.earlier_questions import freeze_questions
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import runs
from nanoflux_local.run.binding import bind
from nanoflux_local.run.configs import derive_config
from nanoflux_local.seeds.datasets import load_available_items, load_items
from nanoflux_local.train import trainings
from nanoflux_local.train.settings import parse_train_settings
from nanoflux_local.transcript import Seed

TUNED = "tuned"
"""The name of the endpoint that serves the defender with an adapter."""
OnStep = Callable[[str, int, int], None]
"""Called with a description of the step in progress, the units of work done in the step, and their total number."""


class SeriesSettings(Strict):
    """The settings of a series. `config` configures the first round's run, and `rounds` is the maximum number of
    rounds. Dev items of the benchmark `dev` decide whether a round helped; `dev_items` limits their number (0: all).
    `train` holds training settings; `name` is an optional name that the user chose.
    """

    config: RunConfig
    rounds: int = Field(ge=1)
    dev: str
    dev_items: int = Field(default=0, ge=0)
    train: dict[str, Any] = Field(default={})
    name: str = ""

    @property
    def base(self) -> str:
        """The model to tune, which is the defender's."""
        return self.config.endpoints[self.config.roles.defender.endpoint].model


def create(home: Home, settings: SeriesSettings) -> str:
    """Create a series and return its id; `execute` executes it.

    Raises:
        UsageError: the defender cannot use an adapter, or there are no dev items.
    """
    interface = settings.config.endpoints[settings.config.roles.defender.endpoint].interface
    suitable_interfaces = list_adapter_kinds(in_profiles=True)
    if interface not in suitable_interfaces:
        fix = f"bind the defender to an endpoint whose interface is {' or '.join(suitable_interfaces)}"
        raise UsageError(
            f"rounds train an adapter for the defender, but its interface {interface} cannot use adapters", fix
        )
    parse_train_settings(settings.train)
    _load_dev_items(home, settings)
    series = f"series-{secrets.token_hex(4)}"
    with Ledger(home.ledger) as ledger:
        ledger.start_series(series, settings.model_dump(mode="json"))
    return series


def execute(home: Home, series: str, on_step: OnStep = lambda *_: None) -> None:
    """Execute the remaining rounds of a series, until a round does not help.

    Raises:
        RefusedError: another process is executing the series, or a round's run or training was stopped.
        NanofluxError: the series stopped; it can be resumed.
    """
    job = Job(SERIES, series)
    with hold_lock(home, job), Ledger(home.ledger) as ledger:
        ledger.close_dead_executions(SERIES.name, SERIES.table, series)
        _SeriesWorker(home, ledger, series, on_step).execute(job)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a series; `number` counts from 0. The round `helped` if its adapter improved strict accuracy on dev
    items. `result` is {} until the round is done.
    """

    number: int
    run: str
    adapter: str
    result: dict[str, Any]

    @property
    def helped(self) -> bool:
        return bool(self.result.get("helped"))


class _SeriesWorker:
    """Executes one series in this process."""

    def __init__(self, home: Home, ledger: Ledger, series: str, on_step: OnStep) -> None:
        self.home, self.ledger, self.id, self.on_step = home, ledger, series, on_step
        with LedgerView(home.ledger) as view:
            self.settings = find(view, series).settings
        self.stop_requests: list[StopRequest] = []
        self.current_step: Job | None = None

    def execute(self, job: Job) -> None:
        """Execute the remaining rounds, and record this execution, even if it fails."""
        with record_execution(self.ledger, job) as execution:
            try:
                with heartbeat_thread(self.home.ledger, execution.id, job, self._handle_request):
                    execution.message = self._run_rounds()
            except NanofluxError:
                if not self.stop_requests:  # a run or training that was asked to stop raises an error too
                    raise
            execution.status = status_after(self.stop_requests[-1]) if self.stop_requests else "done"

    def _run_rounds(self) -> str:
        """Execute round after round; returns why the series ended early, or ""."""
        for number in range(self.settings.rounds):
            rounds = self._load_rounds()
            previous_round_helped = number == 0 or rounds[number - 1].helped
            if not previous_round_helped:
                return f"round {number} did not help on dev items; its adapter is not used"
            is_done = number < len(rounds) and bool(rounds[number].result)
            if is_done:
                continue
            if self.stop_requests:
                return ""
            self._run_round(number, rounds)
        return ""

    def _run_round(self, number: int, rounds: list[Round]) -> None:
        """Execute one round: its run, its training, and its evaluations on dev items."""
        earlier_rounds = rounds[:number]
        has_started = number < len(rounds)
        run = rounds[number].run if has_started else self._start_run(number, earlier_rounds)
        self.ledger.start_round(self.id, number, run)
        self._finish_step(Job(RUN, run), lambda: self._generate(number, run))
        training = self._create_training(number, [*(round_.run for round_ in earlier_rounds), run])
        self._finish_step(Job(TRAINING, training), lambda: self._train(number, training))
        with LedgerView(self.home.ledger) as view:
            adapter = trainings.find_training(view, training).adapter
        self.ledger.set_round_adapter(self.id, number, adapter)
        before = self._measure_on_dev(number, earlier_rounds[-1].adapter if earlier_rounds else "")
        after = self._measure_on_dev(number, adapter)
        assert before.strict and after.strict, "strict accuracy is missing only for free text, which needs a judge"
        result = {
            "training": training,
            "before": before.to_json(),
            "after": after.to_json(),
            "helped": after.strict.mean > before.strict.mean,
        }
        self.ledger.finish_round(self.id, number, after.id, result)

    def _finish_step(self, job: Job, execute: Callable[[], None]) -> None:
        """Execute one step, and check that it is done.

        Raises:
            RefusedError: the step was paused or stopped before its end, so the series cannot continue.
        """
        self.current_step = job
        try:
            if not self.stop_requests:
                execute()
        finally:
            self.current_step = None
        with LedgerView(self.home.ledger) as view:
            row = view.row(f"SELECT status FROM {job.kind.table} WHERE id = ?", job.id)
        status = row["status"] if row else "deleted"
        if status != "done":
            raise RefusedError(
                f"{job} is {status}, but the series needs its result",
                f"resume both with `nanoflux {SERIES.command} resume {self.id}`",
            )

    def _generate(self, number: int, run: str) -> None:
        """Execute the round's run to its end."""
        label = f"round {number + 1}: examples"
        asyncio.run(runs.execute(self.home, run, lambda progress: self.on_step(label, progress.kept, progress.target)))

    def _train(self, number: int, training: str) -> None:
        """Execute the round's training to its end."""

        def report_step(event: Any) -> None:
            if hasattr(event, "steps"):  # only the events of training steps have this attribute
                self.on_step(f"round {number + 1}: steps", event.step, event.steps)

        trainings.resume_training(self.home, training, report_step)

    def _start_run(self, number: int, earlier_rounds: list[Round]) -> str:
        """Start the round's run and return its id. A run that an earlier process started before it was killed is
        reused.
        """
        name = f"{self.id}-round-{number + 1}"
        with LedgerView(self.home.ledger) as view:
            row = view.row("SELECT id FROM runs WHERE name = ?", name)
        if row is not None:
            return str(row["id"])
        return asyncio.run(runs.start(self.home, self._derive_config(number, earlier_rounds), name))

    def _derive_config(self, number: int, earlier_rounds: list[Round]) -> RunConfig:
        """The configuration of a round's run: a different seed, the defender with the preceding round's adapter, and
        questions that are novel compared with those of all earlier rounds.
        """
        config = self.settings.config
        changes: dict[str, Any] = {"seed": config.seed + number}
        if earlier_rounds:
            changes |= self._bind_tuned_defender(earlier_rounds[-1].adapter)
            with LedgerView(self.home.ledger) as view:
                questions_by_run = freeze_questions(view, [round_.run for round_ in earlier_rounds])
            changes["novel_against"] = {run: questions.model_dump() for run, questions in questions_by_run.items()}
        return derive_config(config, changes, self.home)

    def _bind_tuned_defender(self, adapter: str) -> Settings:
        """Settings that bind the defender to a separate endpoint with the adapter, so that the same model plays other
        roles without the adapter.
        """
        config = self.settings.config
        endpoint = config.endpoints[config.roles.defender.endpoint].model_dump(mode="json")
        return {"endpoints": {TUNED: {**endpoint, "adapter": adapter}}, "roles": {"defender": {"endpoint": TUNED}}}

    def _create_training(self, number: int, run_ids: list[str]) -> str:
        """Create a training run on the examples of these runs, and return its id. The validation data are those of the
        newest run.
        """
        run_datasets = [trainings.load_run_data(self.home, run) for run in run_ids]
        rows = [row for run_data in run_datasets for row in run_data.rows]
        newest_data = run_datasets[-1]
        origin = {"series": self.id, "round": number + 1, "runs": run_ids}
        data = trainings.TrainingData(rows, newest_data.validation, newest_data.run, origin, newest_data.held_out)
        return trainings.create_training(self.home, self.settings.base, parse_train_settings(self.settings.train), data)

    def _measure_on_dev(self, number: int, adapter: str) -> EvaluationSummary:
        """Evaluate the base model with `adapter` ("": without an adapter) on the dev items."""
        label = f"round {number + 1}: dev items {'with' if adapter else 'without'} an adapter"
        return asyncio.run(self._evaluate(adapter, lambda done, total: self.on_step(label, done, total)))

    async def _evaluate(self, adapter: str, on_progress: Callable[[int, int], None]) -> EvaluationSummary:
        """Evaluate the defender's model with `adapter` on the dev items, as `_measure_on_dev` describes."""
        config = derive_config(self.settings.config, self._bind_tuned_defender(adapter), self.home)
        run_endpoints = bind(config, self.home)
        try:
            endpoint = run_endpoints.endpoints[TUNED]
            items = _load_dev_items(self.home, self.settings)
            plan = make_plan(
                endpoint.identity, self.settings.dev, "dev", items, runs=1, temperature=0.0, root=self.home.root,
                domain_name=self.settings.config.domain, reasoning_tokens=endpoint.context.reasoning,
            )  # fmt: skip
            summary = await evaluate(self.ledger, endpoint, plan, on_progress)
            summary.require_all_replies(allow_refused=True)
            return summary
        finally:
            await run_endpoints.close()

    def _load_rounds(self) -> list[Round]:
        with LedgerView(self.home.ledger) as view:
            return load_rounds(view, self.id)

    def _handle_request(self, request: StopRequest) -> None:
        """Pass a stop request on to the current run or training. Called from the heartbeat's thread."""
        if not request:
            return
        self.stop_requests.append(request)
        step = self.current_step
        if step is not None:
            step_request: Literal["pause", "stop"] = "pause" if request == "pause" else "stop"
            with suppress(NanofluxError):  # the step may have ended in the meantime
                jobs.request_stop(self.home, step, step_request)


def _load_dev_items(home: Home, settings: SeriesSettings) -> list[Seed]:
    """The first `settings.dev_items` dev items of the benchmark, or all if that is 0."""
    items = load_items(home.ledger, settings.dev, "dev")
    if not items:
        raise UsageError(f"{settings.dev} has no dev items", "pass another benchmark with --dev")
    return items[: settings.dev_items] if settings.dev_items else items


# An id takes precedence over a name, a name over the beginning of an id, and a newer series over an older one.
_FIND_SERIES_QUERY = """
    SELECT * FROM series
    WHERE id = ?1 OR json_extract(settings, '$.name') = ?1 OR substr(id, 1, length(?1)) = ?1
    ORDER BY id = ?1 DESC, json_extract(settings, '$.name') = ?1 DESC, rowid DESC
"""


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """A series as stored in the ledger."""

    id: str
    status: str
    message: str
    seconds: float
    settings_json: str

    @property
    def settings(self) -> SeriesSettings:
        """The parsed settings. Raises ConfigError if another version stored settings that are not valid here."""
        return validate_model(SeriesSettings, json.loads(self.settings_json), f"series {self.id}")


def find(view: LedgerView, series: str) -> StoredSeries:
    """Find a series by its id, its name (the newest of that name), or the beginning of its id.

    Raises:
        NothingMatchedError: there is no such series.
    """
    row = view.row(_FIND_SERIES_QUERY, series)
    if row is None or not series:  # every id begins with ""
        raise NothingMatchedError(f"there is no series of rounds {series!r}", "see `nanoflux rounds list`")
    return StoredSeries(row["id"], row["status"], row["message"], row["seconds"], row["settings"])


def load_rounds(view: LedgerView, series: str) -> list[Round]:
    """Load the rounds of a series that have started, in order."""
    rows = view.rows("SELECT * FROM rounds WHERE series = ? ORDER BY number", series)
    return [Round(row["number"], row["run"], row["adapter"], json.loads(row["result"])) for row in rows]


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """The state of one round; `round` counts from 1. `kept` is the number of examples that its run kept; `before` and
    `after` are the strict accuracies on dev items before and after its training (None until both are measured).
    """

    round: int
    run: str
    kept: int
    adapter: str
    helped: bool | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """The state of a series of at most `of` rounds. `adapter` is the adapter of the last round that helped, or ""."""

    series: str
    name: str
    status: str
    message: str
    base: str
    dev: str
    of: int
    rounds: tuple[RoundSummary, ...]
    adapter: str
    seconds: float
    worker: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rounds": [asdict(round_) for round_ in self.rounds]}


def summarize_series(home: Home, series: str) -> SeriesSummary:
    """Summarize a series by its id, its name, or the beginning of its id.

    Raises:
        NothingMatchedError: there is no such series.
    """
    with LedgerView(home.ledger) as view:
        stored = find(view, series)
        settings = stored.settings
        rounds = tuple(_summarize_round(view, round_) for round_ in load_rounds(view, stored.id))
        helpful_adapters = [round_.adapter for round_ in rounds if round_.helped]
        values = {
            "series": stored.id, "name": settings.name, "status": stored.status, "message": stored.message,
            "base": settings.base, "dev": settings.dev, "of": settings.rounds, "rounds": rounds,
            "adapter": helpful_adapters[-1] if helpful_adapters else "", "seconds": round(stored.seconds, 3),
        }  # fmt: skip
        state = load_job_state(home, view, Job(SERIES, stored.id), values)
        return SeriesSummary(**{**values, **state.to_json()})  # the state has the current status, message and seconds


def _summarize_round(view: LedgerView, round_: Round) -> RoundSummary:
    """The state of a round as stored in the ledger."""
    result = round_.result
    return RoundSummary(
        round=round_.number + 1,
        run=round_.run,
        kept=len(view.examples(round_.run)),
        adapter=round_.adapter,
        helped=result.get("helped"),
        before=result["before"]["strict"] if result else None,
        after=result["after"]["strict"] if result else None,
    )


def summarize_all_series(home: Home) -> list[SeriesSummary]:
    """Summarize all series, newest first."""
    with LedgerView(home.ledger) as view:
        ids = [row["id"] for row in view.rows("SELECT id FROM series ORDER BY rowid DESC")]
    return [summarize_series(home, series) for series in ids]


def choose_dev(home: Home, config: RunConfig, datasets: tuple[str, ...]) -> str:
    """The first of `datasets` that has dev items.

    Raises:
        UsageError: none of the datasets has dev items.
    """
    for name in datasets:
        if load_available_items(home.ledger, name, "dev"):
            return name
    raise UsageError(f"no installed benchmark of {config.domain} has dev items", "pass one with --dev, or import one")
