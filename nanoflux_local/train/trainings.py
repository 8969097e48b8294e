"""Trainings: examples to an adapter, with every curve point and the outcome in the ledger.

A training's id follows from all that decides it, and its rows are kept in its folder: whoever asks for the same again,
or has its id, goes on with it where it stopped, whatever has become of the run, the file or the process since. One
process works on a training at a time.
"""

import _thread
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanoflux_local.domains.base import Domain, load_built_in
from nanoflux_local.domains.own import load_domain
from nanoflux_local.errors import LedgerError, NanofluxError, NothingMatchedError, UsageError
from nanoflux_local.evaluate.evaluation import format_question
from nanoflux_local.jobs import TRAINING, Wish, Work, boot_id, is_worked_on, status_of, watched, with_worker, working_on
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import canonical_json, digest
from nanoflux_local.roles.defender import defender_messages
from nanoflux_local.roles.sections import sections_text
from nanoflux_local.seeds.datasets import items_here, seed_datasets
from nanoflux_local.train.choice import Choice, choose
from nanoflux_local.train.data import TrainingExample, data_digest
from nanoflux_local.train.rows import read_rows, write_rows
from nanoflux_local.train.settings import TrainSettings, train_settings
from nanoflux_local.train.team import follows
from nanoflux_models.manifest import load_manifest as load_model
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

if TYPE_CHECKING:
    from nanoflux_local.train.events import OnEvent, TrainEvent, TrainResult

VALIDATION_ITEMS = 12
USUAL_TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""All linear layers of most text models: there a manifest that names these says what `all-linear` does."""
TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Rows with where they come from: `run` ("" for a file), `source` as it is recorded with the adapter, and the test
    questions that none of them may hold.
    """

    rows: Sequence[TrainingExample]
    validation: Sequence[TrainingExample] = ()
    run: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    held_out: Sequence[str] = ()


def data_of_run(home: Home, run: str, choice: Choice | None = None) -> TrainingData:
    """A run's kept examples, all or as chosen, with its domain's dev items for validation.

    Raises:
        NothingMatchedError: there is no such run, it kept nothing, or nothing answers to the choice.
    """
    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
        if not view.row("SELECT 1 FROM examples WHERE run = ?", row["id"]):
            raise NothingMatchedError(f"run {run} has kept no examples", f"see `nanoflux run show {run}`")
        examples, chosen = choose(view, row["id"], choice or Choice())
    domain = load_domain(row["domain"], home.root)
    budgets = json.loads(row["config"])["budgets"]
    rows = [
        training_example(domain, budgets, example.question, example.solution, example.answer, f"turn-{example.turn}")
        for example in examples
    ]
    source = {"run": row["id"], "domain": row["domain"], **chosen}
    return TrainingData(rows, validation_examples(home, domain), row["id"], source, held_out_questions(home, domain))


def data_of_file(home: Home, path: Path, choice: Choice | None = None) -> TrainingData:
    """The rows of a file (docs/how-to/training.md), chosen and checked for leaked benchmark items.

    Raises:
        DataError: the file or a row of it cannot be read.
        UsageError: the choice is one that only the ledger can answer.
    """
    choice = choice or Choice()
    if choice.reason or choice.level or choice.where:
        raise UsageError("rows of a file have no reason, no level and no query", "choose by --size, or name a run")
    found = read_rows(path)
    rows = choice.drawn(found)
    source = {"file": path.name, "matched": len(found), "size": choice.size, "seed": choice.seed, "rows": len(rows)}
    return TrainingData(rows, source=source, held_out=_all_test_questions(home))


def run_examples(home: Home, run: str) -> tuple[str, Domain, list[TrainingExample]]:
    """A run's id, its domain, and its kept examples as rows to train on."""
    data = data_of_run(home, run)
    return data.run, load_domain(data.source["domain"], home.root), list(data.rows)


def training_example(
    domain: Domain, budgets: dict[str, int], question: str, solution: str, answer: str, name: str
) -> TrainingExample:
    """The defender's own conversation as the prompt, the verified solution and answer as the completion."""
    completion = sections_text({"SOLUTION": solution, "ANSWER": answer})
    return TrainingExample(defender_messages(domain, budgets, question), completion, name)


def validation_examples(home: Home, domain: Domain) -> list[TrainingExample]:
    """Items of the domain's dev split, where they carry solutions; never test items. [] where there are none."""
    rows: list[TrainingExample] = []
    for dataset in seed_datasets(domain):
        items = [item for item in items_here(home.ledger, dataset, "dev") if item.solution]
        rows += [
            training_example(
                domain.lettered(item.options),
                domain.budgets,
                format_question(item),
                item.solution,
                item.answer,
                item.id,
            )
            for item in items[:VALIDATION_ITEMS]
        ]
    return rows


def held_out_questions(home: Home, domain: Domain) -> list[str]:
    """The questions of the test splits that an adapter of this domain will be measured on, where they are here."""
    names = (*seed_datasets(domain), *domain.evaluates)
    return [item.question for name in names for item in items_here(home.ledger, name, "test")]


def _all_test_questions(home: Home) -> list[str]:
    """The test questions of every benchmark that was imported, and of the built-in one."""
    found = held_out_questions(home, load_built_in("starter"))
    with suppress(NothingMatchedError), LedgerView(home.ledger) as view:
        found += [item.question for entry in view.datasets() for item in view.items(entry["name"], "test")]
    return found


def with_targets(home: Home, base: str, settings: TrainSettings) -> TrainSettings:
    """`settings` with the layers that the base's manifest names for a LoRA, unless they state some themselves.

    Raises:
        ModelsError: the base has no manifest.
    """
    lora = load_model(base, home.root).lora
    if lora is None or "target_modules" in settings.model_fields_set or set(lora.targets) == USUAL_TARGETS:
        return settings
    return settings.model_copy(update={"target_modules": lora.targets})


def create(home: Home, base: str, settings: TrainSettings, data: TrainingData, tensorboard: str = "") -> str:
    """Write a training down with its rows, and return its id; `carry_on` trains. What is there already stays.

    Raises:
        ModelsError: the base is not here.
        OSError: the rows cannot be written.
    """
    revision = read_record(weights_dir(base, home.root)).revision
    settings = with_targets(home, base, settings)
    rows, validation = data_digest(data.rows), data_digest(data.validation)
    decisive = [base, revision, settings.model_dump(mode="json"), rows, validation, data.source]
    training = f"train-{digest(decisive)[:12]}"
    folder = _folder(home, training)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / TRAIN, data.rows)
    write_rows(folder / VALIDATION, data.validation)
    plan = {"source": data.source, "revision": revision, "validation_digest": validation, "tensorboard": tensorboard}
    with Ledger(home.ledger) as ledger:
        ledger.create_training(training, data.run, base, rows, settings.model_dump(mode="json"), plan)
    return training


def train_adapter(
    home: Home,
    run: str,
    base: str,
    settings: TrainSettings,
    rows: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    on_event: Callable[["TrainEvent"], None] = lambda _: None,
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train on these rows, publish the adapter under its hash, and return what `train --json` prints.

    `run` names the run that the rows come from ("" for none), `source` is recorded with the adapter. The same arguments
    again go on where a training that was killed or stopped had its last checkpoint, and a training that is done is
    answered from the ledger.

    Raises:
        NanofluxError: what stopped it; the last good checkpoint is kept.
    """
    data = TrainingData(rows, validation, run, source or {"run": run})
    return carry_on(home, create(home, base, settings, data), on_event)


def carry_on(home: Home, training: str, on_event: "OnEvent" = lambda _: None) -> dict[str, Any]:
    """Train from the last checkpoint to the end, or until someone wishes otherwise; returns what `train --json` prints
    once it is done, and `show` until then.

    Raises:
        RefusedError: another process works on it.
        NanofluxError: what stopped it; the last good checkpoint is kept.
    """
    if follows():
        return _beside(home, training)
    work = Work(TRAINING, training)
    with working_on(home, work), Ledger(home.ledger) as ledger:
        row = _row(home, training)
        if result := _stored_result(home, row):
            return result
        found = _Training(home, row, ledger, on_event).play(work)
    return found or show(home, training)


def _beside(home: Home, training: str) -> dict[str, Any]:
    """Train in a process that follows another, which writes down what comes of it."""
    _train(home, _row(home, training), lambda _: None, lambda: False)
    return {}


def _train(home: Home, row: dict[str, Any], on_event: "OnEvent", should_stop: Callable[[], bool]) -> "TrainResult":
    from nanoflux_local.train.lora import train

    rows, validation = _kept_rows(home, row, json.loads(row["plan"]))
    settings, weights = train_settings(json.loads(row["settings"])), weights_dir(row["base"], home.root)
    return train(settings, rows, validation, weights, _folder(home, row["id"]), on_event, should_stop)


def carry_on_launched(home: Home, training: str, arguments: str) -> dict[str, Any]:
    """`carry_on` in the processes that `accelerate launch ARGUMENTS` starts, here and perhaps on other machines.

    Raises:
        RefusedError: another process works on it.
        NanofluxError: they failed; the last good checkpoint is kept.
    """
    from nanoflux_local.train.launch import launch

    work = Work(TRAINING, training)
    if is_worked_on(home, work):
        raise work.busy_error()
    if not (result := _stored_result(home, _row(home, training))):
        code = launch(home.root, training, arguments)
        result, found = _stored_result(home, _row(home, training)), show(home, training)
        if code and not result:
            fix = f"what they said is above; go on with `nanoflux trainings resume {training}` or the same command"
            raise NanofluxError(f"accelerate launch ended with {code}: {found['message'] or found['status']}", fix)
    return result or show(home, training)


def _row(home: Home, training: str) -> dict[str, Any]:
    with LedgerView(home.ledger) as view:
        return find_training(view, training)


def _stored_result(home: Home, row: dict[str, Any]) -> dict[str, Any]:
    """What came of a training that is done and whose adapter is here; {} of any other."""
    if row["status"] != "done" or not (home.adapters / row["adapter"]).is_dir():
        return {}
    result: dict[str, Any] = json.loads(row["result"])
    return result


class _Training:
    """One training while this process works on it."""

    def __init__(self, home: Home, row: dict[str, Any], ledger: Ledger, on_event: "OnEvent") -> None:
        self.home, self.row, self.ledger, self.on_event = home, row, ledger, on_event
        self.id, self.plan = str(row["id"]), json.loads(row["plan"])
        self.settings = train_settings(json.loads(row["settings"]))
        self.wished: list[Wish] = []
        self.is_main = threading.current_thread() is threading.main_thread()

    def play(self, work: Work) -> dict[str, Any]:
        """Train, with status, job and outcome written down whatever happens; {} where someone wished it to end."""
        job = self.ledger.start_job("training", self.id, os.getpid(), boot_id())
        self.ledger.set_status("trainings", self.id, "running")
        status, message, began = "interrupted", "", time.monotonic()
        result: dict[str, Any] = {}
        try:
            with watched(self.home.ledger, job, work, self._wish):
                outcome = self._train()
            status, result = self._publish_outcome(outcome)
        except KeyboardInterrupt:
            if "end" not in self.wished:
                raise
            status = status_of("end")
        except NanofluxError as error:
            status, message = "failed", error.message
            raise
        finally:
            seconds = time.monotonic() - began
            self.ledger.finish_training(self.id, status, str(result.get("adapter", "")), result, message, seconds)
            self.ledger.finish_job(job, status, message)
        return result

    def _train(self) -> "TrainResult":
        with _board(self.plan["tensorboard"], self.id) as told:

            def tell(event: "TrainEvent") -> None:
                kind = type(event).__name__.removesuffix("Event").lower()
                self.ledger.add_training_event(self.id, kind, event.step, asdict(event))
                told(event)
                self.on_event(event)

            return _train(self.home, self.row, tell, lambda: bool(self.wished))

    def _publish_outcome(self, outcome: "TrainResult") -> tuple[str, dict[str, Any]]:
        """(status, result) of a training that came to an end or was asked to pause or stop."""
        if not outcome.finished:
            return status_of(self.wished[-1]), {}
        from nanoflux_local.train.publishing import publish

        base, run = self.row["base"], self.row["run"]
        extra = {"run": run, "training": self.id, "source": self.plan["source"]}
        folder = publish(outcome, self.settings, self.home.adapters, base, self.plan["revision"], extra)
        result = {"adapter": folder.name, "base": base, "run": run, "training": self.id, **outcome.to_json()}
        result.pop("adapter_dir")
        return "done", json.loads(canonical_json(result))  # as it will be read from the ledger: lists, not tuples

    def _wish(self, wish: Wish) -> None:
        """Called from the watching thread. A drain is seen after the step; an end interrupts the step, as Ctrl-C would,
        where it is the main thread that trains."""
        if wish:
            self.wished.append(wish)
        if wish == "end" and self.is_main:
            _thread.interrupt_main()


def _folder(home: Home, training: str) -> Path:
    return home.root / "trainings" / training


def _kept_rows(
    home: Home, row: dict[str, Any], plan: dict[str, Any]
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """The rows of a training as they were when it was created.

    Raises:
        LedgerError: its files are gone or were changed.
    """
    folder = _folder(home, row["id"])
    try:
        rows = read_rows(folder / TRAIN)
        validation = read_rows(folder / VALIDATION) if (folder / VALIDATION).stat().st_size else []
        same = (data_digest(rows), data_digest(validation)) == (row["data_hash"], plan["validation_digest"])
    except (NanofluxError, OSError) as error:
        raise LedgerError(
            f"the rows of {row['id']} are gone: {error}", "train again from the run or the file"
        ) from error
    if not same:
        raise LedgerError(f"the rows in {folder} are not those of {row['id']}", "train again from the run or the file")
    return rows, validation


def _board(folder: str, training: str) -> Any:
    """TensorBoard's files beside the ledger, where they are asked for."""
    from nanoflux_local.train.board import board

    return board(Path(folder) / training if folder else None)


def find_training(view: LedgerView, name: str) -> dict[str, Any]:
    """A training by its id or the beginning of it.

    Raises:
        NothingMatchedError: there is none, or several.
    """
    found = view.row("SELECT * FROM trainings WHERE id = ?", name)
    begun = [] if found else list(view.rows("SELECT * FROM trainings WHERE substr(id, 1, ?) = ?", len(name), name))
    if found is None and len(begun) != 1:
        raise NothingMatchedError(f"there is no training {name!r}", "see `nanoflux trainings list`")
    return dict(found or begun[0])


def show(home: Home, name: str) -> dict[str, Any]:
    """What `trainings show --json` prints."""
    with LedgerView(home.ledger) as view:
        return _summary(home, view, find_training(view, name))


def list_trainings(home: Home) -> list[dict[str, Any]]:
    """All trainings, newest first, each as `show` has it."""
    with LedgerView(home.ledger) as view:
        return [_summary(home, view, dict(row)) for row in view.rows("SELECT * FROM trainings ORDER BY rowid DESC")]


def _summary(home: Home, view: LedgerView, row: dict[str, Any]) -> dict[str, Any]:
    curve = view.training_curve(row["id"])
    steps = [event for kind, event in curve if kind == "step"]
    epochs = [event for kind, event in curve if kind == "epoch"]
    last: dict[str, Any] = steps[-1] if steps else {}
    found = {
        "training": row["id"],
        "run": row["run"],
        "base": row["base"],
        "status": row["status"],
        "message": row["message"],
        "adapter": row["adapter"],
        "step": last.get("step", 0),
        "steps": last.get("steps", 0),
        **{key: last.get(key) for key in ("epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s")},
        "val_losses": [event["val_loss"] for event in epochs],
        "seconds": round(row["seconds"], 3),
        "settings": json.loads(row["settings"]),
        "source": json.loads(row["plan"]).get("source", {}),
        "started_at": row["started_at"],
    }
    return with_worker(home, view, Work(TRAINING, row["id"]), found)
