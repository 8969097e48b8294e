"""Trainings: a run's examples to an adapter, with every curve point and the outcome in the ledger."""

import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nanoflux_local.domains.base import Domain, load_domain
from nanoflux_local.errors import NanofluxError, NothingMatchedError
from nanoflux_local.evaluate.evaluation import with_options
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import digest
from nanoflux_local.roles.defender import defender_messages, sections_text
from nanoflux_local.seeds.benchmarks import load_items
from nanoflux_local.train.data import TrainingExample, data_digest
from nanoflux_local.train.settings import TrainSettings
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

if TYPE_CHECKING:
    from nanoflux_local.train.events import TrainEvent

VALIDATION_ITEMS = 12


def run_examples(home: Home, run: str) -> tuple[str, Domain, list[TrainingExample]]:
    """A run's id, its domain, and its kept examples as rows to train on.

    Raises:
        NothingMatchedError: there is no such run, or it kept nothing.
    """
    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
        kept = view.examples(row["id"])
    if not kept:
        raise NothingMatchedError(f"run {run} has kept no examples", f"see `nanoflux run show {run}`")
    domain = load_domain(row["domain"])
    budgets = json.loads(row["config"])["budgets"]
    rows = [
        training_example(domain, budgets, example.question, example.solution, example.answer, f"turn-{example.turn}")
        for example in kept
    ]
    return row["id"], domain, rows


def training_example(
    domain: Domain, budgets: dict[str, int], question: str, solution: str, answer: str, name: str
) -> TrainingExample:
    """The defender's own conversation as the prompt, the verified solution and answer as the completion."""
    completion = sections_text({"SOLUTION": solution, "ANSWER": answer})
    return TrainingExample(defender_messages(domain, budgets, question), completion, name)


def validation_examples(home: Home, domain: Domain) -> list[TrainingExample]:
    """Items of the domain's dev split, where they carry solutions; never test items. [] where there are none."""
    rows: list[TrainingExample] = []
    for dataset in domain.datasets:
        items = [item for item in load_items(home.ledger, dataset, "dev") if item.solution]
        rows += [
            training_example(domain, domain.budgets, with_options(item), item.solution, item.answer, item.id)
            for item in items[:VALIDATION_ITEMS]
        ]
    return rows


def held_out_questions(home: Home, domain: Domain) -> list[str]:
    """The questions of the test splits that an adapter of this domain will be measured on, where they are here."""
    found: list[str] = []
    for dataset in (*domain.datasets, *domain.evaluates):
        with suppress(NothingMatchedError):  # a benchmark that was not imported can leak nothing
            found += [item.question for item in load_items(home.ledger, dataset, "test")]
    return found


def train_adapter(
    home: Home,
    run: str,
    base: str,
    settings: TrainSettings,
    rows: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    on_event: Callable[["TrainEvent"], None],
) -> dict[str, Any]:
    """Train, publish the adapter under its hash, and return what `train --json` prints.

    A training of the same rows, settings and base that was killed goes on from its last checkpoint.

    Raises:
        NanofluxError: what stopped it; the last good checkpoint is kept.
    """
    from nanoflux_local.train.adapters import publish
    from nanoflux_local.train.lora import train

    weights = weights_dir(base, home.root)
    revision = read_record(weights).revision
    data = data_digest(rows)
    training = f"train-{secrets.token_hex(4)}"
    place = home.root / "trainings" / _place_name(settings, data, data_digest(validation), revision)
    with Ledger(home.ledger) as ledger:
        ledger.start_training(training, run, base, data, settings.model_dump(mode="json"))

        def told(event: "TrainEvent") -> None:
            kind = type(event).__name__.removesuffix("Event").lower()
            ledger.add_training_event(training, kind, event.step, asdict(event))
            on_event(event)

        status, adapter, result = "interrupted", "", {}
        try:
            outcome = train(settings, rows, validation, weights, place, told)
            folder = publish(outcome, settings, home.adapters, base, revision, {"run": run, "training": training})
            status, adapter = "done", folder.name
            result = {"adapter": adapter, "base": base, "run": run, "training": training, **outcome.to_json()}
            result.pop("adapter_dir")
        except NanofluxError:
            status = "failed"
            raise
        finally:
            ledger.finish_training(training, status, adapter, result)
    return result


def _place_name(settings: TrainSettings, data: str, validation: str, revision: str) -> str:
    return digest([settings.model_dump(mode="json"), data, validation, revision])[:16]
