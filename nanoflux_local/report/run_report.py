"""Writes the report of a run: the result, the outcomes of attempts, the loss curves, the comparison, three examples,
and the commands that repeat the run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local import __version__
from nanoflux_local.evaluate.comparison import Pair, compare
from nanoflux_local.evaluate.items import find_base_evaluation
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.quantities import format_quantity
from nanoflux_local.report import plots
from nanoflux_local.report.flips import gather_flips
from nanoflux_local.report.page import render_page, write_atomically
from nanoflux_local.run.rule_sets import describe_rules
from nanoflux_local.run.trials.result import Rates, summarize_trial
from nanoflux_local.transcript import KEPT, OUTCOMES, Finding, verdict_from_json

SHOWN_EXAMPLES = 3
"""Number of examples that the report shows in full."""
OUTCOME_TEXT = {
    "unparsed": "no readable question",
    "novelty_rejected": "too similar to an earlier question",
    "contaminated": "repeats a held-out evaluation item",
    "invalid": "failed validation",
    "low_confidence": "the judge remained in doubt",
    "defender_right": "solved by the defender in a familiar way",
    "unproven": "its answer is unproven",
    "kept_failed": "kept: the defender failed",
    "kept_novel": "kept: solved in a new way",
    "failed": "a reply could not be read",
}
"""Each outcome of an attempt in words."""


def write_report(ledger: Path, run: str, out: Path) -> Path:
    """Write `out/index.html` for a run, completely or not at all, and return its path.

    Raises:
        NothingMatchedError: the run is unknown.
        NanofluxError: the directory is not writable.
    """
    with LedgerView(ledger) as view:
        page = render_page("run.html", gather_contents(view, run))
    return write_atomically(out / "index.html", page)


def gather_contents(view: LedgerView, run: str) -> dict[str, Any]:
    """The values that the report shows, by their names in the template `run.html`."""
    summary = view.summarize_run(run)
    run_row = view.find_run(run)
    config = json.loads(run_row["config"])
    training = _load_training(view, summary.run)
    evaluations = _load_evaluations(view, training.adapter if training else "")
    evaluation_ids = [evaluation.id for evaluation in evaluations]
    bars = [evaluation.bar for evaluation in evaluations]
    return {
        "version": __version__,
        "run": summary,
        "config": config,
        "environment": json.loads(run_row["environment"]),
        "rules": describe_rules(config),
        "pass_rates": _describe_pass_rates(summary.pass_rates),
        "funnel": list_outcomes(summary.funnel),
        "trial": summarize_trial(view, summary.run),
        "rates": Rates.describe,
        "training": training,
        "evaluations": evaluations,
        "comparison": _compare_evaluations(view, evaluations),
        "flips": gather_flips(view, *evaluation_ids) if len(evaluation_ids) == 2 else None,
        "accuracy_plot": plots.draw_accuracies(bars) if bars else "",
        "examples": _choose_examples(view, summary.run),
    }


def _describe_pass_rates(count_by_rate: dict[str, int]) -> str:
    """How many questions have each pass rate, such as "0 of 4 for 12 questions, 1 of 4 for 1 question"; "" if the
    defender answered each question only once.
    """
    if set(count_by_rate) <= {"0 of 1", "1 of 1"}:
        return ""
    return ", ".join(f"{rate} for {format_quantity(count, 'question')}" for rate, count in count_by_rate.items())


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One outcome of a run's attempts: how many attempts had it, their share of all attempts, and whether the outcome
    is a reason to keep the question (`kept`).
    """

    text: str
    count: int
    share: float
    kept: bool


def list_outcomes(counts: dict[str, int]) -> list[OutcomeRow]:
    """Each possible outcome of a run's attempts, with its count and its share of all attempts. `counts` has a count for
    each outcome, and the number of all attempts under "attempts".
    """
    total = max(1, counts["attempts"])  # a run without attempts has only shares of 0
    return [OutcomeRow(OUTCOME_TEXT[name], counts[name], counts[name] / total, name in KEPT) for name in OUTCOMES]


@dataclass(frozen=True, slots=True)
class ReportedTraining:
    """A finished training run: its adapter's hash, its base model, its settings, its result, and the plot of its losses
    as SVG.
    """

    adapter: str
    base: str
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    plot: str


def _load_training(view: LedgerView, run: str) -> ReportedTraining | None:
    """The newest finished training run on the examples of `run`; None if there is none."""
    row = view.row("SELECT * FROM trainings WHERE run = ? AND status = 'done' ORDER BY rowid DESC", run)
    if row is None:
        return None
    curve = view.training_curve(row["id"])
    train_losses = [(step.step, step.loss) for step in curve.steps]
    settings, result = json.loads(row["settings"]), json.loads(row["result"])
    plot = plots.draw_losses_by_step(train_losses, curve.dev_losses)
    return ReportedTraining(row["adapter"], row["base"], settings, result, plot)


@dataclass(frozen=True, slots=True)
class ReportedEvaluation:
    """An evaluation with its result as `eval --json` prints it."""

    id: str
    result: Mapping[str, Any]

    @property
    def bar(self) -> tuple[str, float, float, float]:
        """The label "tuned" or "untuned", the accuracy, and the bounds of its interval."""
        strict = self.result["strict"]
        return "tuned" if self.result["adapter"] else "untuned", strict["mean"], *strict["ci95"]


def _load_evaluations(view: LedgerView, adapter: str) -> list[ReportedEvaluation]:
    """The newest evaluation of the model with `adapter`, preceded by the untuned model's evaluation of the same items
    if there is one; [] if the adapter is "" or was not evaluated.
    """
    if not adapter:
        return []
    tuned = view.row(
        "SELECT * FROM evaluations WHERE adapter = ? AND status IN ('done', 'partial') ORDER BY updated_at DESC",
        adapter,
    )
    if tuned is None:
        return []
    base = view.row("SELECT * FROM evaluations WHERE id = ?", find_base_evaluation(view, dict(tuned)))
    rows = [row for row in (base, tuned) if row is not None]
    return [ReportedEvaluation(row["id"], json.loads(row["result"])) for row in rows]


def _compare_evaluations(view: LedgerView, evaluations: list[ReportedEvaluation]) -> Pair | None:
    """The comparison of the tuned with the untuned model; None if an evaluation is missing or has fewer than two items,
    the minimum for a paired test.
    """
    if len(evaluations) != 2 or evaluations[0].result["n"] < 2:
        return None
    (pair,) = compare(view, [evaluation.id for evaluation in evaluations], partial=True).pairs
    return pair


@dataclass(frozen=True, slots=True)
class ReportedExample:
    """An example: the reason for keeping it (in words), the records of its turn and of its last attempt, and the
    findings of the checks.
    """

    id: str
    reason: str
    turn: Mapping[str, Any]
    last_attempt: Mapping[str, Any]
    findings: tuple[Finding, ...]


def _choose_examples(view: LedgerView, run: str) -> list[ReportedExample]:
    """Up to `SHOWN_EXAMPLES` examples, evenly spaced from the first to the last example of the run."""
    rows = list(view.rows(
        "SELECT examples.id, examples.reason, turns.record FROM examples JOIN turns"
        " ON turns.run = examples.run AND turns.number = examples.turn WHERE examples.run = ? ORDER BY turn",
        run,
    ))  # fmt: skip
    if not rows:
        return []
    spacing = (len(rows) - 1) / max(1, SHOWN_EXAMPLES - 1)
    # A set, since several of these indices are equal if the run kept fewer examples than are shown.
    indices = sorted({round(number * spacing) for number in range(SHOWN_EXAMPLES)})
    examples = []
    for index in indices:
        row = rows[index]
        turn = json.loads(row["record"])
        last_attempt = turn["attempts"][-1]
        validation = verdict_from_json(**last_attempt["validation"]) if last_attempt["validation"] else None
        reason = OUTCOME_TEXT[row["reason"]].removeprefix("kept: ")
        findings = validation.findings if validation else ()
        examples.append(ReportedExample(row["id"], reason, turn, last_attempt, findings))
    return examples
