"""Experiments on the judge: error rates of its word, of all checks together and of each check, on known solutions.

Reads the judge trial of each run (see `trial`); it asks no judge itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.generation import runs_of
from nanoflux_local.experiments.grid import Condition, Plan, Scale
from nanoflux_local.experiments.kinds.base import NO_COMPARISON, CellResult, ExperimentKind, OnStep, Reading
from nanoflux_local.experiments.tables import TableColumn, percent
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run.trials.result import Rates, TrialResult, summarize_trial

KEYS = ("rates", "solutions", "unjudged", "findings")
BROKEN = ("removed", "changed")


class JudgeKind:
    """Reads the judge's error rates off the trial of a run."""

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

    def seeds(self, condition: Condition, scale: Scale) -> Sequence[int]:
        del condition, scale  # nothing is trained
        return (0,)

    def run_cell(self, home: Home, plan: Plan, condition: Condition, seed: int, on_step: OnStep) -> CellResult:
        del seed, on_step  # one look at the ledger
        return judge_rates(home, condition, runs_of(home, plan)[0])

    def condition_entry(self, reading: Reading, condition: Condition) -> dict[str, Any]:
        done = reading.done_cells(condition.name)
        return {key: done[0][key] for key in KEYS if done and key in done[0]}

    def comparison(self, reading: Reading, entries: list[dict[str, Any]]) -> dict[str, Any]:
        del reading, entries  # two verdicts of one judge on the same solutions are not a pair of conditions
        return NO_COMPARISON

    def rows(self, results: Mapping[str, Any]) -> list[list[object]]:
        return [_row(entry) for entry in results["conditions"]]

    def answer(self, results: Mapping[str, Any]) -> list[str]:
        return [_sentence(entry) for entry in results["conditions"] if "rates" in entry]


def judge_rates(home: Home, condition: Condition, run: str) -> CellResult:
    """The rates of a condition's rule in a run's trial, with Wilson intervals. A check by itself accepts what it does
    not contradict; `findings` counts its conclusions by kind of solution.

    Raises:
        NothingMatchedError: the run has no judge trial, or its judge lacks the checks.
    """
    with LedgerView(home.ledger) as view:
        trial = summarize_trial(view, run)
    if trial is None:
        fix = "generate with a model as judge, and set judge.trial and judge.code_check"
        raise NothingMatchedError(f"run {run} has no judge trial", fix)
    check = trial.checks.get(condition.check)
    return {
        "run": run,
        "solutions": trial.solutions,
        "unjudged": trial.unjudged,
        "rates": asdict(_select_rates(trial, condition, run)),
        **({"findings": check.findings} if check else {}),
    }


def _select_rates(trial: TrialResult, condition: Condition, run: str) -> Rates:
    """The rates of a condition's rule.

    Raises:
        NothingMatchedError: the judge lacks the checks, or they reached no conclusion.
    """
    if condition.check:
        check = trial.checks.get(condition.check)
        if check is None:
            fix = f"generate with judge.checks = [{condition.check!r}]"
            raise NothingMatchedError(
                f"the {condition.check} check reached no conclusion in the trial of run {run}", fix
            )
        return check.unless_contradicted
    rates = trial.with_check if condition.code_check else trial.without_check
    if rates is None:
        fix = "generate with a model as judge, and set judge.code_check or judge.checks"
        raise NothingMatchedError(f"the judge of run {run} has no checks, so there is nothing to compare", fix)
    return rates


def _row(entry: Mapping[str, Any]) -> list[object]:
    rates = entry.get("rates")
    if not rates:
        return [entry["title"], "not done yet", "", "", "", "", ""]
    shares = [_share(rates[name]) for name in ("sensitivity", "specificity")]
    kinds = [_counts(rates["caught"], names) for names in (("mistake",), BROKEN)]
    return [entry["title"], *shares, *kinds, rates["errors"], entry.get("unjudged", "")]


def _counts(caught: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """The rejected solutions of some kinds and their number, "" if the trial has none."""
    shares = [caught[kind] for kind in kinds if kind in caught and caught[kind]["n"]]
    rejected = sum(round(share["share"] * share["n"]) for share in shares)
    return f"{rejected} of {sum(share['n'] for share in shares)}" if shares else ""


def _share(share: Mapping[str, Any]) -> str:
    if not share["n"]:
        return "none judged"
    low, high = share["ci95"]
    return f"{share['share']:.0%} of {share['n']} ({low:.0%} to {high:.0%})"


def _sentence(entry: Mapping[str, Any]) -> str:
    rates = entry["rates"]
    shares = [rates[name] for name in ("sensitivity", "specificity")]
    caught, passed = (f"{percent(share['share'])} of {share['n']}" if share["n"] else "none of 0" for share in shares)
    return f"{entry['title']}: rejects {caught} wrong solutions, accepts {passed} right ones; {rates['errors']} errors."


KIND: ExperimentKind = JudgeKind()
