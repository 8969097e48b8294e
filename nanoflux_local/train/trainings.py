"""Creates, starts, resumes and lists training runs, and records their loss curves and outcomes in the ledger.

The id of a training run is derived from everything that determines its weights, so repeating the command resumes the
training run. Its rows are stored in its folder, so `trainings resume ID` works even if the run or file that supplied
the examples no longer exists. Only one process at a time executes a training run.
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
from nanoflux_local.errors import LedgerError, NanofluxError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.jobs import (
    TRAINING,
    Job,
    StopRequest,
    boot_id,
    has_worker,
    heartbeat_thread,
    hold_lock,
    status_after,
)
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import canonical_json, digest
from nanoflux_local.seeds.datasets import list_seed_datasets, load_available_items
from nanoflux_local.suggestions import make_ambiguity_error
from nanoflux_local.train.choice import Choice
from nanoflux_local.train.conversation import build_item_example
from nanoflux_local.train.data import TrainingExample, data_digest
from nanoflux_local.train.distributed import is_main_process
from nanoflux_local.train.mixing import Mix, draw_mixed_rows
from nanoflux_local.train.rows import read_rows, write_rows
from nanoflux_local.train.run_rows import OnScore, load_run_rows
from nanoflux_local.train.settings import TrainSettings, parse_train_settings
from nanoflux_local.train.summary import StoredTraining, TrainingOutcome, TrainingSummary, summarize_stored
from nanoflux_models.manifest import load_manifest
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

if TYPE_CHECKING:
    from nanoflux_local.train.events import OnEvent, TrainEvent, TrainResult

MAX_VALIDATION_ITEMS = 12
"""The maximum number of validation items from one benchmark. The number is small because the loss on these items is
measured after every epoch.
"""
USUAL_TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""All linear layers of most text models. A manifest that names exactly these layers means `all-linear`."""
TRAIN_FILE, VALIDATION_FILE = "train.jsonl", "validation.jsonl"
"""The files of the training rows and the validation rows in the folder of a training run."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The rows of a training run and their origin: `run` is "" for the rows of a file, and `source` is the record of
    how the rows were chosen. `held_out` are the test questions that no row may contain.
    """

    rows: Sequence[TrainingExample]
    validation: Sequence[TrainingExample] = ()
    run: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    held_out: Sequence[str] = ()


def load_run_data(
    home: Home,
    run: str,
    choice: Choice | None = None,
    base: str = "",
    mixes: Sequence[Mix] = (),
    on_score: OnScore = lambda _done, _total: None,
) -> TrainingData:
    """Load a run's kept examples (all, or those that `choice` selects), add the benchmark rows of `mixes`, and load the
    domain's dev items for validation. If `choice.solution` is "likeliest", each row has the example's likeliest
    solution under the model `base`. `choice.seed` also determines which benchmark rows are drawn.

    Raises:
        NothingMatchedError: the run is unknown, it kept no examples, none matches the choice, or a mix has too few
            rows.
    """
    choice = choice or Choice()
    run_rows = load_run_rows(home, run, choice, base, on_score=on_score)
    domain, rows = run_rows.domain, run_rows.examples
    source = {"run": run_rows.run["id"], "domain": domain.name, **run_rows.record}
    if mixes:
        held_out = run_rows.config.get("held_out", ())
        drawn_mixes = draw_mixed_rows(home, mixes, domain, run_rows.budgets, held_out, len(rows), choice.seed)
        for mixed_rows in drawn_mixes:
            rows += mixed_rows.rows
        source["mix"] = [mixed_rows.to_json() for mixed_rows in drawn_mixes]
    validation = load_validation_examples(home, domain)
    return TrainingData(rows, validation, run_rows.run["id"], source, list_held_out_questions(home, domain))


def load_file_data(home: Home, path: Path, choice: Choice | None = None) -> TrainingData:
    """Load the rows of a file (docs/how-to/training.md), and all test questions as held-out questions.

    Raises:
        DataError: the file or one of its rows cannot be read.
        UsageError: `choice` has a condition that applies only to the examples of a run.
    """
    choice = choice or Choice()
    if choice.reason or choice.level or choice.where or choice.solution != "author":
        raise UsageError(
            "--reason, --level, --where and --solution apply only to the examples of a run, not to a file",
            "drop these options (--size is allowed), or train on a run",
        )
    all_rows = read_rows(path)
    rows = choice.draw(all_rows)
    source = {"file": path.name, "matched": len(all_rows), "size": choice.size, "seed": choice.seed, "rows": len(rows)}
    return TrainingData(rows, source=source, held_out=_list_all_test_questions(home))


def load_validation_examples(home: Home, domain: Domain) -> list[TrainingExample]:
    """Validation rows from the domain's dev split: at most `MAX_VALIDATION_ITEMS` items with a solution from each
    benchmark. [] if there are none.
    """
    rows: list[TrainingExample] = []
    for dataset in list_seed_datasets(domain):
        items = [item for item in load_available_items(home.ledger, dataset, "dev") if item.solution]
        rows += [build_item_example(domain, domain.budgets, item) for item in items[:MAX_VALIDATION_ITEMS]]
    return rows


def list_held_out_questions(home: Home, domain: Domain) -> list[str]:
    """The questions of the test splits on which an adapter of this domain is evaluated, if they are imported."""
    datasets = (*list_seed_datasets(domain), *domain.evaluates)
    return [item.question for dataset in datasets for item in load_available_items(home.ledger, dataset, "test")]


def _list_all_test_questions(home: Home) -> list[str]:
    """The test questions of all imported benchmarks and of the built-in benchmark "starter"."""
    questions = list_held_out_questions(home, load_built_in("starter"))
    with suppress(NothingMatchedError), LedgerView(home.ledger) as view:  # raised if there is no ledger yet
        questions += [item.question for dataset in view.datasets() for item in view.items(dataset.name, "test")]
    return questions


def apply_manifest_targets(home: Home, base: str, settings: TrainSettings) -> TrainSettings:
    """`settings` with the LoRA targets of the base's manifest. Targets that were set explicitly are kept.

    Raises:
        ModelsError: the base has no manifest.
    """
    lora = load_manifest(base, home.root).lora
    if lora is None or "target_modules" in settings.model_fields_set or set(lora.targets) == USUAL_TARGETS:
        return settings
    return settings.model_copy(update={"target_modules": lora.targets})


def create_training(
    home: Home, base: str, settings: TrainSettings, data: TrainingData, tensorboard_dir: str = ""
) -> str:
    """Record a training run with its rows and return its id. A training run that exists already is not changed.

    Raises:
        ModelsError: the base is not installed.
        OSError: the rows cannot be written.
    """
    revision = read_record(weights_dir(base, home.root)).revision
    settings = apply_manifest_targets(home, base, settings)
    rows_digest, validation_digest = data_digest(data.rows), data_digest(data.validation)
    # The id does not depend on the number of rows with the verdict `fix`, because that verdict changes no row.
    source_without_fix = {key: value for key, value in data.source.items() if key != "fix"}
    inputs = [base, revision, settings.model_dump(mode="json"), rows_digest, validation_digest, source_without_fix]
    training = f"train-{digest(inputs)[:12]}"
    folder = _training_folder(home, training)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / TRAIN_FILE, data.rows)
    write_rows(folder / VALIDATION_FILE, data.validation)
    plan = {
        "source": data.source,
        "revision": revision,
        "validation_digest": validation_digest,
        "tensorboard": tensorboard_dir,
    }
    with Ledger(home.ledger) as ledger:
        ledger.create_training(training, data.run, base, rows_digest, settings.model_dump(mode="json"), plan)
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
) -> TrainingOutcome:
    """Train on `rows` and publish the adapter under its hash.

    `run` is the run that the rows come from ("" for none), `source` is recorded with the adapter. If this function is
    called again with the same arguments, it resumes a killed or stopped training run from its last checkpoint, and
    reads the outcome of a finished training run from the ledger.

    Raises:
        RefusedError: another process executes the training run or requested to pause or stop it; the last checkpoint is
            kept.
        NanofluxError: the training failed; the last good checkpoint is kept.
    """
    data = TrainingData(rows, validation, run, source or {"run": run})
    training = create_training(home, base, settings, data)
    outcome = resume_training(home, training, on_event)
    if isinstance(outcome, TrainingSummary):
        raise RefusedError(
            f"{training} is {outcome.status} at step {outcome.step}, as requested from another process",
            f"resume it with `nanoflux trainings resume {training}`",
        )
    return outcome


def resume_training(
    home: Home, training: str, on_event: "OnEvent" = lambda _: None
) -> TrainingOutcome | TrainingSummary:
    """Train from the last checkpoint, or from the start, until the end or until a pause or stop is requested.

    Returns the outcome of a finished training run, or the state of a paused or stopped training run.

    Raises:
        RefusedError: another process executes the training run.
        NanofluxError: the training failed; the last good checkpoint is kept.
    """
    if not is_main_process():  # only the main process writes to the ledger
        _run_loop(home, _load_stored(home, training), lambda _: None, lambda: False)
        return summarize_training(home, training)
    job = Job(TRAINING, training)
    with hold_lock(home, job), Ledger(home.ledger) as ledger:
        stored = _load_stored(home, training)
        outcome = _load_outcome(home, stored)
        if outcome is None:
            outcome = _TrainingWorker(home, stored, ledger, on_event).run(job)
    return summarize_training(home, training) if outcome is None else outcome


def _run_loop(
    home: Home, stored: StoredTraining, on_event: "OnEvent", should_stop: Callable[[], bool]
) -> "TrainResult":
    """Run the training loop on the stored rows and settings, until the end or until `should_stop` returns True."""
    from nanoflux_local.train.lora import train

    rows, validation = _load_rows(home, stored)
    settings, base_dir = parse_train_settings(stored.settings), weights_dir(stored.base, home.root)
    return train(settings, rows, validation, base_dir, _training_folder(home, stored.id), on_event, should_stop)


def launch_processes(home: Home, training: str, arguments: str) -> TrainingOutcome | TrainingSummary:
    """Resume a training run in the processes that `accelerate launch ARGUMENTS` starts on this machine or several.
    Returns the outcome of a finished training run, or the state of a paused or stopped training run.

    Raises:
        RefusedError: another process executes the training run.
        NanofluxError: the processes failed; the last good checkpoint is kept.
    """
    from nanoflux_local.train.launch import launch

    job = Job(TRAINING, training)
    if has_worker(home, job):
        raise job.busy_error()
    if outcome := _load_outcome(home, _load_stored(home, training)):
        return outcome
    exit_code = launch(home.root, training, arguments)
    if outcome := _load_outcome(home, _load_stored(home, training)):
        return outcome
    summary = summarize_training(home, training)
    if exit_code:
        fix = f"read the messages above; resume with `nanoflux trainings resume {training}` or the same command"
        cause = summary.message or summary.status
        raise NanofluxError(f"accelerate launch exited with code {exit_code}: {cause}", fix)
    return summary


def _load_stored(home: Home, training: str) -> StoredTraining:
    """The ledger's row of a training run."""
    with LedgerView(home.ledger) as view:
        return find_training(view, training)


def _load_outcome(home: Home, stored: StoredTraining) -> TrainingOutcome | None:
    """The outcome of a training run that is done and whose adapter is present; otherwise None."""
    if stored.status != "done" or not (home.adapters / stored.adapter).is_dir():
        return None
    return TrainingOutcome.from_json(stored.result)


class _TrainingWorker:
    """Executes one training run in this process, and records its events and outcome in the ledger."""

    def __init__(self, home: Home, stored: StoredTraining, ledger: Ledger, on_event: "OnEvent") -> None:
        self.home, self.stored, self.ledger, self.on_event = home, stored, ledger, on_event
        self.id, self.plan = stored.id, stored.plan
        self.settings = parse_train_settings(stored.settings)
        self.requests: list[StopRequest] = []
        self.in_main_thread = threading.current_thread() is threading.main_thread()

    def run(self, job: Job) -> TrainingOutcome | None:
        """Train, and record the execution and outcome even after an error. Returns None if a pause or stop was
        requested.
        """
        execution_id = self.ledger.start_execution("training", self.id, os.getpid(), boot_id())
        self.ledger.set_status("trainings", self.id, "running")
        start = time.monotonic()
        status, message = "interrupted", ""
        outcome: TrainingOutcome | None = None
        try:
            with heartbeat_thread(self.home.ledger, execution_id, job, self._handle_request):
                result = self._train_and_record()
            outcome = self._publish(result) if result.finished else None
            status = "done" if outcome else status_after(self.requests[-1])
        except KeyboardInterrupt:
            if "end" not in self.requests:
                raise
            status = status_after("end")
        except NanofluxError as error:
            status, message = "failed", error.message
            raise
        finally:
            seconds = time.monotonic() - start
            adapter, document = (outcome.adapter, dict(outcome.document)) if outcome else ("", {})
            self.ledger.finish_training(self.id, status, adapter, document, message, seconds)
            self.ledger.finish_execution(execution_id, status, message)
        return outcome

    def _train_and_record(self) -> "TrainResult":
        """Train, and report each event to the ledger, to TensorBoard and to the caller."""
        with _open_board(self.plan["tensorboard"], self.id) as write_to_board:

            def report_event(event: "TrainEvent") -> None:
                kind = type(event).__name__.removesuffix("Event").lower()
                self.ledger.add_training_event(self.id, kind, event.step, asdict(event))
                write_to_board(event)
                self.on_event(event)

            return _run_loop(self.home, self.stored, report_event, lambda: bool(self.requests))

    def _publish(self, result: "TrainResult") -> TrainingOutcome:
        """Publish the adapter and return the outcome in the form that it has when it is read from the ledger."""
        from nanoflux_local.train.publishing import publish

        base, run = self.stored.base, self.stored.run
        extra = {"run": run, "training": self.id, "source": self.plan["source"]}
        folder = publish(result, self.settings, self.home.adapters, base, self.plan["revision"], extra)
        document = {"adapter": folder.name, "base": base, "run": run, "training": self.id, **result.to_json()}
        document.pop("adapter_dir")
        # The round trip through JSON turns tuples into lists, as in the ledger.
        return TrainingOutcome.from_json(json.loads(canonical_json(document)))

    def _handle_request(self, request: StopRequest) -> None:
        """Record another process's request; the heartbeat's thread calls this method. A pause or stop takes effect
        after the current step. If training runs in the main thread, "end" interrupts the step as Ctrl-C does.
        """
        if request:
            self.requests.append(request)
        if request == "end" and self.in_main_thread:
            _thread.interrupt_main()


def _training_folder(home: Home, training: str) -> Path:
    return home.root / "trainings" / training


def _load_rows(home: Home, stored: StoredTraining) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """The rows and validation rows of a training run, checked against the digests from its creation.

    Raises:
        LedgerError: the files are missing or were changed.
    """
    folder = _training_folder(home, stored.id)
    try:
        rows = read_rows(folder / TRAIN_FILE)
        validation = read_rows(folder / VALIDATION_FILE) if (folder / VALIDATION_FILE).stat().st_size else []
    except (NanofluxError, OSError) as error:
        fix = "train again from the run or the file"
        raise LedgerError(f"the rows of {stored.id} cannot be read: {error}", fix) from error
    recorded_digests = (stored.data_hash, stored.plan["validation_digest"])
    if (data_digest(rows), data_digest(validation)) != recorded_digests:
        raise LedgerError(
            f"the rows in {folder} differ from those recorded for {stored.id}", "train again from the run or the file"
        )
    return rows, validation


def _open_board(folder: str, training: str) -> Any:
    """The context manager `board.open_board` for `folder/training`; if `folder` is "", no events are written."""
    from nanoflux_local.train.board import open_board

    return open_board(Path(folder) / training if folder else None)


def find_training(view: LedgerView, name: str) -> StoredTraining:
    """The training run whose id is `name`, or the only training run whose id starts with `name`.

    Raises:
        NothingMatchedError: no training run matches, or several do.
    """
    if exact_match := view.row("SELECT * FROM trainings WHERE id = ?", name):
        return StoredTraining.from_row(exact_match)
    matches = view.list_by_id_prefix("trainings", name)
    if not matches:
        raise NothingMatchedError(f"there is no training run {name!r}", "see `nanoflux trainings list`")
    if len(matches) > 1:
        raise make_ambiguity_error(name, "training", [match["id"] for match in matches])
    return StoredTraining.from_row(matches[0])


def summarize_training(home: Home, name: str) -> TrainingSummary:
    """The state of the training run that `find_training` finds. Raises NothingMatchedError if it finds none."""
    with LedgerView(home.ledger) as view:
        return summarize_stored(home, view, find_training(view, name))


def list_trainings(home: Home) -> list[TrainingSummary]:
    """The state of all training runs, newest first."""
    with LedgerView(home.ledger) as view:
        rows = view.rows("SELECT * FROM trainings ORDER BY rowid DESC")
        return [summarize_stored(home, view, StoredTraining.from_row(row)) for row in rows]
