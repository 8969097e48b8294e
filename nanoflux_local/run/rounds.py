"""Rounds (self-improvement): what a run kept trains an adapter, which is the defender of the next round's run, for as
long as it helps on dev items.

Every step has an id in the ledger before it is begun, so that a series that was killed goes on where it was. An adapter
learns from all rounds so far and starts from the base, and a round's questions are novel against those of all before.
"""

import asyncio
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from nanoflux_local import jobs
from nanoflux_local.config import RunConfig, Strict, validated
from nanoflux_local.endpoints.kinds.base import adapter_kinds
from nanoflux_local.errors import NanofluxError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.evaluate.evaluation import evaluate, make_plan
from nanoflux_local.jobs import (
    RUN,
    SERIES,
    TRAINING,
    StopRequest,
    Work,
    check_work,
    heartbeat_thread,
    hold_lock,
    record_job,
    status_after,
)
from nanoflux_local.ledger.asked import freeze
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import runs
from nanoflux_local.run.binding import bind
from nanoflux_local.run.configs import derive_config
from nanoflux_local.seeds.datasets import items_here, load_items
from nanoflux_local.train import trainings
from nanoflux_local.train.settings import train_settings

TUNED = "tuned"
"""The endpoint that plays the defender once there is an adapter."""
OnStep = Callable[[str, int, int], None]
"""Told what is being done, and how much of it: (what, done, total)."""


class Rounds(Strict):
    """What decides a series: the first round's run, how many rounds at most, the benchmark whose dev items say whether
    a round helped, how many of them (0: all), and what is set of the training. `name` is for people.
    """

    config: RunConfig
    rounds: int = Field(ge=1)
    dev: str
    dev_items: int = Field(default=0, ge=0)
    train: dict[str, Any] = Field(default={})
    name: str = ""

    @property
    def base(self) -> str:
        """The model that is tuned: the defender's."""
        return self.config.endpoints[self.config.roles.defender.endpoint].model


def create(home: Home, plan: Rounds) -> str:
    """Write a series down, and return its id; `carry_on` plays it.

    Raises:
        UsageError: the defender takes no adapter, or there are no dev items.
    """
    interface = plan.config.endpoints[plan.config.roles.defender.endpoint].interface
    choices = adapter_kinds(in_profiles=True)
    if interface not in choices:
        fix = f"bind the defender to an endpoint whose interface is {' or '.join(choices)}"
        raise UsageError(f"rounds tune the defender, and an endpoint of {interface} takes no adapter", fix)
    train_settings(plan.train)
    _dev_items(home, plan)
    series = f"series-{secrets.token_hex(4)}"
    with Ledger(home.ledger) as ledger:
        ledger.start_series(series, plan.model_dump(mode="json"))
    return series


def carry_on(home: Home, series: str, on_step: OnStep = lambda *_: None) -> None:
    """Play the rounds that are left, until one does not help.

    Raises:
        RefusedError: another process works on it, or a round's run or training was stopped.
        NanofluxError: what stopped it; it can be resumed.
    """
    work = Work(SERIES, series)
    with hold_lock(home, work), Ledger(home.ledger) as ledger:
        ledger.close_dead_jobs(SERIES.name, SERIES.table, series)
        _Series(home, ledger, series, on_step).play(work)


@dataclass(frozen=True, slots=True)
class Round:
    """What is known of one round; `result` is {} until it is done."""

    number: int
    run: str
    adapter: str
    result: dict[str, Any]

    @property
    def helped(self) -> bool:
        return bool(self.result.get("helped"))


class _Series:
    """One series while this process works on it."""

    def __init__(self, home: Home, ledger: Ledger, series: str, on_step: OnStep) -> None:
        self.home, self.ledger, self.id, self.on_step = home, ledger, series, on_step
        with LedgerView(home.ledger) as view:
            row = find(view, series)
        self.plan = validated(Rounds, json.loads(row["settings"]), f"series {series}")
        self.requests: list[StopRequest] = []
        self.under_way: Work | None = None

    def play(self, work: Work) -> None:
        with record_job(self.ledger, work) as job:
            try:
                with heartbeat_thread(self.home.ledger, job.id, work, self._handle_request):
                    job.message = self._play()
            except NanofluxError:
                if not self.requests:  # a run or training that was asked to stop raises an error too
                    raise
            job.status = status_after(self.requests[-1]) if self.requests else "done"

    def _play(self) -> str:
        """Round after round; returns why no further one is played."""
        for number in range(self.plan.rounds):
            done = self._rounds()
            if number and not done[number - 1].helped:
                return f"round {number} did not help on dev; its adapter is not used"
            if number < len(done) and done[number].result:
                continue
            if self.requests:
                return ""
            self._round(number, done)
        return ""

    def _round(self, number: int, done: list[Round]) -> None:
        earlier = done[:number]
        run = done[number].run if number < len(done) else self._new_run(number, earlier)
        self.ledger.start_round(self.id, number, run)
        self._finish(Work(RUN, run), lambda: self._generate(number, run))
        training = self._training(number, [*(each.run for each in earlier), run])
        self._finish(Work(TRAINING, training), lambda: self._train(number, training))
        with LedgerView(self.home.ledger) as view:
            adapter = str(trainings.find_training(view, training)["adapter"])
        self.ledger.set_round_adapter(self.id, number, adapter)
        before = self._measure_on_dev(number, earlier[-1].adapter if earlier else "")
        after = self._measure_on_dev(number, adapter)
        means = [evaluation["strict"]["mean"] for evaluation in (before, after)]
        result = {"training": training, "before": before, "after": after, "helped": means[1] > means[0]}
        self.ledger.finish_round(self.id, number, after["eval"], result)

    def _finish(self, work: Work, play: Callable[[], None]) -> None:
        """Do one step; whoever stops it, or the series meanwhile, stops the series."""
        self.under_way = work
        try:
            if not self.requests:
                play()
        finally:
            self.under_way = None
        with LedgerView(self.home.ledger) as view:
            row = view.row(f"SELECT status FROM {work.kind.table} WHERE id = ?", work.id)
        if row is None or row["status"] != "done":
            state = row["status"] if row else "gone"
            fix = f"`nanoflux {SERIES.command} resume {self.id}` goes on with it"
            raise RefusedError(f"{work} is {state}, and the series waits for it", fix)

    def _generate(self, number: int, run: str) -> None:
        label = f"round {number + 1}: examples"
        asyncio.run(runs.carry_on(self.home, run, lambda progress: self.on_step(label, progress.kept, progress.target)))

    def _train(self, number: int, training: str) -> None:
        def tell(event: Any) -> None:
            if hasattr(event, "steps"):
                self.on_step(f"round {number + 1}: steps", event.step, event.steps)

        trainings.carry_on(self.home, training, tell)

    def _new_run(self, number: int, earlier: list[Round]) -> str:
        """The round's run, by its name: one that was made a moment before a kill is found again."""
        name = f"{self.id}-round-{number + 1}"
        with LedgerView(self.home.ledger) as view:
            row = view.row("SELECT id FROM runs WHERE name = ?", name)
        if row is not None:
            return str(row["id"])
        return asyncio.run(runs.start(self.home, self._config(number, earlier), name))

    def _config(self, number: int, earlier: list[Round]) -> RunConfig:
        config = self.plan.config
        changes: dict[str, Any] = {"seed": config.seed + number}
        if earlier:
            changes |= self._tuned_defender(earlier[-1].adapter)
            with LedgerView(self.home.ledger) as view:
                asked = freeze(view, [each.run for each in earlier])
            changes["novel_against"] = {run: before.model_dump() for run, before in asked.items()}
        return derive_config(config, changes, self.home)

    def _tuned_defender(self, adapter: str) -> dict[str, Any]:
        """An endpoint of its own for the adapter: what else uses the model plays on without it."""
        base = self.plan.config.endpoints[self.plan.config.roles.defender.endpoint].model_dump(mode="json")
        return {"endpoints": {TUNED: {**base, "adapter": adapter}}, "roles": {"defender": {"endpoint": TUNED}}}

    def _training(self, number: int, made: list[str]) -> str:
        parts = [trainings.data_of_run(self.home, run) for run in made]
        data = trainings.TrainingData(
            [row for each in parts for row in each.rows], parts[-1].validation, parts[-1].run,
            {"series": self.id, "round": number + 1, "runs": made}, parts[-1].held_out,
        )  # fmt: skip
        return trainings.create(self.home, self.plan.base, train_settings(self.plan.train), data)

    def _measure_on_dev(self, number: int, adapter: str) -> dict[str, Any]:
        label = f"round {number + 1}: dev items {'with' if adapter else 'without'} an adapter"
        return asyncio.run(self._evaluate(adapter, lambda done, total: self.on_step(label, done, total)))

    async def _evaluate(self, adapter: str, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
        config = derive_config(self.plan.config, self._tuned_defender(adapter), self.home)
        bound = bind(config, self.home)
        try:
            endpoint = bound.endpoints[TUNED]
            items = _dev_items(self.home, self.plan)
            domain = self.plan.config.domain
            dev, home = self.plan.dev, self.home.root
            room = endpoint.context.reasoning
            plan = make_plan(
                endpoint.identity, dev, "dev", items, 1, 0.0, root=home, domain_name=domain, reasoning_tokens=room
            )
            summary = await evaluate(self.ledger, endpoint, plan, on_progress)
            summary.require_whole(allow_refused=True)
            return summary.as_json()
        finally:
            await bound.close()

    def _rounds(self) -> list[Round]:
        with LedgerView(self.home.ledger) as view:
            return rounds_of(view, self.id)

    def _handle_request(self, request: StopRequest) -> None:
        """Pass the request on to the current run or training. Called from the heartbeat's thread."""
        if not request:
            return
        self.requests.append(request)
        step = self.under_way
        if step is not None:
            with suppress(NanofluxError):  # it has just ended by itself
                jobs.request_stop(self.home, step, "pause" if request == "pause" else "stop")


def _dev_items(home: Home, plan: Rounds) -> list[Any]:
    items = load_items(home.ledger, plan.dev, "dev")
    if not items:
        raise UsageError(f"{plan.dev} has no dev items", "name another benchmark with --dev")
    return items[: plan.dev_items or None]


_FIND = """
    SELECT * FROM series
    WHERE id = ?1 OR json_extract(settings, '$.name') = ?1 OR substr(id, 1, length(?1)) = ?1
    ORDER BY id = ?1 DESC, json_extract(settings, '$.name') = ?1 DESC, rowid DESC
"""


def find(view: LedgerView, series: str) -> dict[str, Any]:
    """A series by its id, its name (the newest that has it), or the beginning of its id.

    Raises:
        NothingMatchedError: there is none.
    """
    row = view.row(_FIND, series)
    if row is None:
        raise NothingMatchedError(f"there is no series of rounds {series!r}", "see `nanoflux rounds list`")
    return dict(row)


def rounds_of(view: LedgerView, series: str) -> list[Round]:
    """The rounds that were begun, in order."""
    rows = view.rows("SELECT * FROM rounds WHERE series = ? ORDER BY number", series)
    return [Round(row["number"], row["run"], row["adapter"], json.loads(row["result"])) for row in rows]


def show(home: Home, series: str) -> dict[str, Any]:
    """A series with its curve: what each round kept, and strict accuracy on dev before and after it. `adapter` is that
    of the last round that helped.
    """
    with LedgerView(home.ledger) as view:
        row = find(view, series)
        plan = validated(Rounds, json.loads(row["settings"]), f"series {row['id']}")
        rounds = [
            {
                "round": each.number + 1, "run": each.run, "kept": len(view.examples(each.run)),
                "adapter": each.adapter, "helped": each.result.get("helped"),
                **{key: each.result[key]["strict"] if each.result else None for key in ("before", "after")},
            }
            for each in rounds_of(view, row["id"])
        ]  # fmt: skip
        helped = [each["adapter"] for each in rounds if each["helped"]]
        values = {
            "series": row["id"], "name": plan.name, "status": row["status"], "message": row["message"],
            "base": plan.base, "dev": plan.dev, "of": plan.rounds, "rounds": rounds,
            "adapter": helped[-1] if helped else "", "seconds": round(row["seconds"], 3),
        }  # fmt: skip
        return {**values, **check_work(home, view, Work(SERIES, row["id"]), values).to_json()}


def list_series(home: Home) -> list[dict[str, Any]]:
    """All series, newest first."""
    with LedgerView(home.ledger) as view:
        ids = [row["id"] for row in view.rows("SELECT id FROM series ORDER BY rowid DESC")]
    return [show(home, series) for series in ids]


def default_dev(home: Home, config: RunConfig, datasets: tuple[str, ...]) -> str:
    """The first benchmark of a domain that has dev items.

    Raises:
        UsageError: none has.
    """
    for name in datasets:
        if items_here(home.ledger, name, "dev"):
            return name
    raise UsageError(f"no benchmark of {config.domain} has dev items here", "name one with --dev, or import one")
