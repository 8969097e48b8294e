"""Experiments on the judge: the error rates of the judge alone, with its checks, and of each check by itself.

The rates are read from the trial of a run, which judged solutions known to be right or wrong (see `run.trials`). This
module calls no judge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.generation import find_runs
from nanoflux_local.experiments.grid import DEFAULT_RUN, Condition, GridPlan, Scale
from nanoflux_local.experiments.kinds.base import (
    NO_COMPARISON,
    CellResult,
    ConditionComparison,
    ConditionEntry,
    ExperimentKind,
    OnStep,
    RecordedExperiment,
)
from nanoflux_local.experiments.tables import TableColumn, format_percent
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.run.trials.result import JudgedSolution, load_judged, measure_rates, summarize_trial

KEYS = ("rates", "solutions", "unjudged", "findings")
"""The keys of a cell's result that `experiment show --json` includes."""
MISTAKE_KINDS = ("mistake",)
"""The kinds of a trial's solutions in which a model made a mistake."""
BROKEN_KINDS = ("removed", "changed")
"""The kinds of a trial's solutions whose question was broken on purpose."""
ALL = "all"
"""The `check` of a condition that combines the judge's own verdict with all checks."""
SUPPORTS = " supports"
"""The end of a condition's `check` that accepts only what the check supports."""


class JudgeKind:
    """Reads the judge's error rates from the trial of a run."""

    name: ClassVar[str] = "judge"
    measures_accuracy: ClassVar[bool] = False
    columns: ClassVar[tuple[TableColumn, ...]] = (
        TableColumn("judge", 16, share=1),
        TableColumn("wrong ones rejected", 22),
        TableColumn("right ones accepted", 22),
        TableColumn("real mistakes rejected", 22, from_width=126),
        TableColumn("broken questions rejected", 25, from_width=152),
        TableColumn("errors", 6, right=True, from_width=80),
        TableColumn("unjudged", 8, right=True, from_width=90),
    )

    def list_seeds(self, condition: Condition, scale: Scale) -> Sequence[int]:
        del condition, scale  # nothing is trained, so one cell is enough
        return (0,)

    def run_cell(self, home: Home, plan: GridPlan, condition: Condition, seed: int, on_step: OnStep) -> CellResult:
        del seed, on_step  # the rates are only read from the ledger, so no progress is reported
        return load_judge_rates(home, condition, find_runs(home, plan)[DEFAULT_RUN])

    def measure_condition(self, experiment: RecordedExperiment, condition: Condition) -> Mapping[str, Any]:
        done_cells = experiment.done_cells(condition.name)
        result = done_cells[0].result if done_cells else {}
        return {key: result[key] for key in KEYS if key in result}

    def compare_conditions(
        self, experiment: RecordedExperiment, entries: Sequence[ConditionEntry]
    ) -> ConditionComparison:
        del experiment, entries  # the conditions are rules over the same verdicts, so their differences are not tested
        return NO_COMPARISON

    def list_rows(self, experiment_json: Mapping[str, Any]) -> list[list[object]]:
        return [_format_row(entry) for entry in experiment_json["conditions"]]

    def write_answer(self, experiment_json: Mapping[str, Any]) -> list[str]:
        return [_format_sentence(entry) for entry in experiment_json["conditions"] if "rates" in entry]


def load_judge_rates(home: Home, condition: Condition, run: str) -> CellResult:
    """The rates of a condition's rule in the trial of a run, with Wilson intervals. A check that is measured alone
    accepts every solution that it does not contradict, or only those that it supports; `findings` counts the check's
    conclusions by kind of solution.

    Raises:
        NothingMatchedError: the run has no trial, its judge has no checks, or the condition's check has no conclusion.
    """
    with LedgerView(home.ledger) as view:
        trial, judged_solutions = summarize_trial(view, run), load_judged(view, run)
    if trial is None:
        fix = "generate with a model as judge, and set judge.trial and judge.code_check"
        raise NothingMatchedError(f"run {run} has no judge trial", fix)
    if trial.with_check is None:
        fix = "generate with a model as judge, and set judge.code_check or judge.checks"
        raise NothingMatchedError(f"the judge of run {run} has no checks, so there is nothing to compare", fix)
    for name in _list_checks(condition):
        if name not in trial.checks:
            fix = f"generate with judge.checks = [{name!r}]"
            raise NothingMatchedError(f"the {name} check reached no conclusion in the trial of run {run}", fix)
    result: CellResult = {"run": run, "solutions": trial.solutions, "unjudged": trial.unjudged}
    check = trial.checks.get(condition.check.removesuffix(SUPPORTS))
    if check is None:
        return {**result, "rates": asdict(measure_rates(judged_solutions, _make_rule(condition)))}
    rates = check.if_supported if condition.check.endswith(SUPPORTS) else check.unless_contradicted
    return {**result, "rates": asdict(rates), "findings": check.findings}


def _list_checks(condition: Condition) -> list[str]:
    """The checks that a condition's `check` names."""
    return condition.check.removesuffix(SUPPORTS).split("+") if condition.check not in ("", ALL) else []


def _make_rule(condition: Condition) -> Callable[[JudgedSolution], bool | None]:
    """The rule that decides which solutions a condition accepts: the judge's own verdict, together with the checks that
    the condition names.
    """
    if condition.check == ALL:
        return lambda solution: solution.accepted
    checks = ("code",) if condition.code_check else tuple(_list_checks(condition))
    return lambda solution: solution.accepted_with(checks)


def _format_row(entry: Mapping[str, Any]) -> list[object]:
    """A condition's row in the table of conditions."""
    rates = entry.get("rates")
    if not rates:
        return [entry["title"], "not done yet", "", "", "", "", ""]
    shares = [_format_share(rates[name]) for name in ("sensitivity", "specificity")]
    rejected_mistakes = _format_rejected(rates["caught"], MISTAKE_KINDS)
    rejected_broken = _format_rejected(rates["caught"], BROKEN_KINDS)
    return [entry["title"], *shares, rejected_mistakes, rejected_broken, rates["errors"], entry.get("unjudged", "")]


def _format_rejected(share_by_kind: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """How many solutions of `kinds` are rejected, as "3 of 4"; "" if the trial has no such solution."""
    shares = [share_by_kind[kind] for kind in kinds if kind in share_by_kind and share_by_kind[kind]["n"]]
    if not shares:
        return ""
    rejected_count = sum(round(share["share"] * share["n"]) for share in shares)
    return f"{rejected_count} of {sum(share['n'] for share in shares)}"


def _format_share(share: Mapping[str, Any]) -> str:
    """A share with its number of solutions and its 95% interval."""
    if not share["n"]:
        return "none judged"
    low, high = share["ci95"]
    return f"{share['share']:.0%} of {share['n']} ({low:.0%} to {high:.0%})"


def _format_sentence(entry: Mapping[str, Any]) -> str:
    """A sentence with the rates of a condition, as in the experiment's answer."""

    def format_count(share: Mapping[str, Any], noun: str) -> str:
        numerator = format_percent(share["share"]) if share["n"] else "none"
        return f"{numerator} of {format_quantity(share['n'], noun)}"

    rates = entry["rates"]
    rejected = format_count(rates["sensitivity"], "wrong solution")
    accepted = format_count(rates["specificity"], "right one")
    errors = format_quantity(rates["errors"], "error")
    return f"{entry['title']}: rejects {rejected}, accepts {accepted}; {errors}."


KIND: ExperimentKind = JudgeKind()
