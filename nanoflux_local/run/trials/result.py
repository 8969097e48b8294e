"""The result of a run's trial: error rates of the judge's own decision, of each check, and of the judge with its
checks, by kind of solution.

Sensitivity is the share of wrong solutions that are rejected, specificity the share of right ones that are accepted,
each with its 95% Wilson interval. Solutions without a verdict count in neither and are reported separately.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanoflux_local.config import PROGRAM, JudgeRules, validate_model
from nanoflux_local.evaluate.statistics import Prevalence, predict_right_share, wilson_interval
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.run.trials.solutions import PLANTED_KINDS, RIGHT_KINDS
from nanoflux_local.transcript import PROVING_CHECKS, Conclusion, Finding, verdict_from_json

KIND_DESCRIPTIONS = {
    "reference": "solutions of the dataset",
    "own": "right replies of the run's models",
    "slip": "changed results",
    "answer": "contradicting answers",
    "mistake": "real mistakes",
    "removed": "questions without a needed quantity",
    "changed": "questions with a changed quantity",
}
"""A description of the solutions of each kind."""
CONCLUSIONS: tuple[Conclusion, ...] = ("supports", "contradicts", "not checked")
"""The possible conclusions of a check, in the order in which tables list them."""


@dataclass(frozen=True, slots=True)
class JudgedSolution:
    """A solution of the trial with the judge's own decision (None if the judge made none) and the checks' findings."""

    kind: str
    decision: bool | None
    findings: tuple[Finding, ...]

    @property
    def right(self) -> bool:
        return self.kind in RIGHT_KINDS

    @property
    def accepted(self) -> bool | None:
        """Whether the judge accepts the solution and no check contradicts it; None if the judge made no decision."""
        return self.accepted_with(finding.check for finding in self.findings)

    def passes(self, must_support: bool) -> bool | None:
        """Whether `accepted` is true and, if the answer must be supported, a proving check supports it; None if the
        judge made no decision.
        """
        is_supported = any(self.conclusion_of(check) == "supports" for check in PROVING_CHECKS)
        return None if self.accepted is None else self.accepted and (is_supported or not must_support)

    def accepted_with(self, checks: Iterable[str]) -> bool | None:
        """Whether the judge accepts the solution and none of these checks contradicts it; None if the judge made no
        decision.
        """
        if self.decision is None:
            return None
        is_contradicted = any(self.conclusion_of(check) == "contradicts" for check in checks)
        return self.decision and not is_contradicted

    def conclusion_of(self, check: str) -> Conclusion:
        """What a check concluded about the solution; "not checked" if the check did not examine it."""
        for finding in self.findings:
            if finding.check == check:
                return finding.conclusion
        return "not checked"


@dataclass(frozen=True, slots=True)
class Share:
    """A share of `n` solutions, from 0 to 1, with its 95% Wilson interval; `share` and `ci95` are None if `n` is 0."""

    n: int
    share: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Rates:
    """The error rates of one rule for accepting solutions, and the number of its errors. `caught` is the share of each
    kind of wrong solution that the rule rejects, `passed` the share of each kind of right solution that it accepts.
    """

    sensitivity: Share
    specificity: Share
    errors: int
    caught: dict[str, Share]
    passed: dict[str, Share]

    def describe(self) -> str:
        """Sensitivity and specificity in words, with their intervals."""
        rejected, accepted = describe_share(self.sensitivity, "wrong"), describe_share(self.specificity, "right")
        return f"rejects {rejected}, accepts {accepted}"

    def describe_kinds(self) -> list[tuple[str, str]]:
        """Two pairs of a title and a text: the accepted share of each kind of right solution, and the rejected share of
        each kind of wrong solution. Empty if all wrong solutions have planted errors.
        """
        if set(self.caught) <= set(PLANTED_KINDS):
            return []
        return [("accepted", _describe_shares(self.passed)), ("rejected", _describe_shares(self.caught))]


@dataclass(frozen=True, slots=True)
class CheckRates(Rates):
    """The rates of one check alone, among the `concluded` solutions that it supports or contradicts.

    `findings` counts its conclusions by kind of solution. Two rules apply the check to all solutions:
    `unless_contradicted` accepts those that the check does not contradict, `if_supported` only those that it supports.
    """

    concluded: int
    findings: dict[str, dict[str, int]]
    unless_contradicted: Rates
    if_supported: Rates


@dataclass(frozen=True, slots=True)
class Prediction:
    """The share of right examples that the trial predicts among the questions that passed validation (`accepted` of
    `judged`), and among those that were kept. Both are None until they can be predicted.
    """

    judged: int
    accepted: int
    among_accepted: Prevalence | None
    among_kept: Prevalence | None


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of a run's trial. `judge` has the rates of the judge as the run uses it. `without_check` and
    `with_check` have the judge's rates without and with its checks; both are None if the judge has no checks, or is a
    program. `checked` counts the solutions on which the code check reached a conclusion, `unjudged` those without a
    decision of the judge, `kinds` the solutions by kind.
    """

    solutions: int
    unjudged: int
    checked: int
    without_check: Rates | None
    with_check: Rates | None
    judge: Rates
    checks: dict[str, CheckRates]
    kinds: dict[str, int] = field(default_factory=dict)
    predicted: Prediction | None = None

    def tabulate_kinds(self) -> tuple[list[str], list[list[str]]]:
        """A table of the kinds of solutions, as headings and rows: how many the judge accepts alone and with the
        checks, and how many each check supports, contradicts and does not check.
        """
        titled_rates = [("judge", self.judge)]
        if self.without_check and self.with_check:
            titled_rates = [("judge alone", self.without_check), ("with the checks", self.with_check)]
        headings = ["solutions", "number", *(title for title, _ in titled_rates)]
        headings += [f"{name}: supports, contradicts, not checked" for name in self.checks]
        rows = []
        for kind, count in self.kinds.items():
            accepted_cells = [_describe_accepted(rates, kind) for _, rates in titled_rates]
            conclusion_counts = [check.findings.get(kind, {}).values() for check in self.checks.values()]
            check_cells = [", ".join(map(str, counts)) for counts in conclusion_counts]
            rows.append([KIND_DESCRIPTIONS.get(kind, kind), str(count), *accepted_cells, *check_cells])
        return headings, rows

    def describe_prediction(self) -> list[tuple[str, str]]:
        """The predicted shares of right examples, as pairs of a title and a text. Empty until they can be predicted."""
        if self.predicted is None:
            return []
        shares = [
            (f"of {self.predicted.accepted} that passed", self.predicted.among_accepted),
            ("of those kept", self.predicted.among_kept),
        ]
        texts = [f"{_describe_prevalence(share)} {group}" for group, share in shares if share]
        return [("predicted right", ", ".join(texts))] if texts else []


def _describe_prevalence(share: Prevalence) -> str:
    """A predicted share with its interval, for instance "90% (80% to 95%)"."""
    low, high = share.ci95
    return f"{share.estimate:.0%} ({low:.0%} to {high:.0%})"


def summarize_trial(view: LedgerView, run: str) -> TrialResult | None:
    """The result of a run's trial, as in `judge_trial` of `run show --json`. None if the run has held no trial."""
    judged_solutions = load_judged(view, run)
    if not judged_solutions:
        return None
    config = json.loads(view.find_run(run)["config"])
    rules = validate_model(JudgeRules, config["judge"], f"run {run}: judge")
    has_checks = bool(rules.check_names) and config["roles"]["judge"]["endpoint"] != PROGRAM
    concluding_checks = _list_checks(judged_solutions)
    funnel = view.funnel(run)
    # A check that concludes nothing about benchmark items, such as a comparison with seeds, has no rates in the trial,
    # so the questions that it rejected in the run do not count as judged.
    funnel["invalid"] -= view.count_rejections(run, rules.check_names.difference(concluding_checks))
    # A check that concludes nothing in a trial, such as one that needs passages, cannot be required there.
    has_proving_check = not set(PROVING_CHECKS).isdisjoint(concluding_checks)
    must_support = has_checks and config.get("keep", "failed") == "confirmed" and has_proving_check
    rates = measure_rates(judged_solutions, lambda solution: solution.passes(must_support))
    return TrialResult(
        solutions=len(judged_solutions),
        unjudged=sum(solution.decision is None for solution in judged_solutions),
        checked=sum(solution.conclusion_of("code") != "not checked" for solution in judged_solutions),
        without_check=measure_rates(judged_solutions, lambda solution: solution.decision) if has_checks else None,
        with_check=rates if has_checks else None,
        judge=rates,
        checks={name: _measure_check(judged_solutions, name) for name in concluding_checks},
        kinds=dict(Counter(solution.kind for solution in judged_solutions)),
        predicted=_predict(judged_solutions, funnel, config.get("keep", "failed"), must_support),
    )


def load_judged(view: LedgerView, run: str) -> list[JudgedSolution]:
    """The judged solutions of a run's trial, in order."""
    rows = view.rows("SELECT record FROM trials WHERE run = ? ORDER BY number", run)
    return [read_record(json.loads(row["record"])) for row in rows]


def read_record(record: Mapping[str, Any]) -> JudgedSolution:
    """Parse a stored record of a trial. A record of an older version has no kind and no decision: its `fault` is the
    kind of a wrong solution, and the decision is derived from the verdict.
    """
    kind = record.get("kind") or record["fault"] or "reference"
    if record["verdict"] is None:
        return JudgedSolution(kind, None, ())
    verdict = verdict_from_json(**record["verdict"])
    return JudgedSolution(kind, record.get("word", verdict.accepted_by_judge), verdict.findings)


def _list_checks(judged_solutions: Sequence[JudgedSolution]) -> list[str]:
    """The names of the checks that reached a conclusion on any solution of the trial, sorted."""
    findings = [finding for solution in judged_solutions for finding in solution.findings]
    return sorted({finding.check for finding in findings if finding.conclusion != "not checked"})


def _measure_check(judged_solutions: Sequence[JudgedSolution], check: str) -> CheckRates:
    """The rates of one check."""
    concluded = [solution for solution in judged_solutions if solution.conclusion_of(check) != "not checked"]
    if_supported = measure_rates(judged_solutions, lambda solution: solution.conclusion_of(check) == "supports")
    rates = measure_rates(concluded, lambda solution: solution.conclusion_of(check) == "supports")
    counts = Counter((solution.kind, solution.conclusion_of(check)) for solution in judged_solutions)
    findings_by_kind = {
        kind: {conclusion.replace(" ", "_"): counts[kind, conclusion] for conclusion in CONCLUSIONS}
        for kind in dict.fromkeys(solution.kind for solution in judged_solutions)
    }
    return CheckRates(
        sensitivity=rates.sensitivity,
        specificity=rates.specificity,
        errors=rates.errors,
        caught=rates.caught,
        passed=rates.passed,
        concluded=len(concluded),
        findings=findings_by_kind,
        unless_contradicted=measure_rates(
            judged_solutions, lambda solution: solution.conclusion_of(check) != "contradicts"
        ),
        if_supported=if_supported,
    )


def measure_rates(judged_solutions: Sequence[JudgedSolution], accept: Callable[[JudgedSolution], bool | None]) -> Rates:
    """The rates of the rule `accept`. Solutions for which it returns None are not counted."""
    accepted_by_right_kind: dict[str, list[bool]] = {}
    rejected_by_wrong_kind: dict[str, list[bool]] = {kind: [] for kind in PLANTED_KINDS}
    for solution in judged_solutions:
        accepted = accept(solution)
        if accepted is None:
            continue
        if solution.right:
            accepted_by_right_kind.setdefault(solution.kind, []).append(accepted)
        else:
            rejected_by_wrong_kind.setdefault(solution.kind, []).append(not accepted)
    right_accepted = [accepted for decisions in accepted_by_right_kind.values() for accepted in decisions]
    wrong_rejected = [rejected for decisions in rejected_by_wrong_kind.values() for rejected in decisions]
    return Rates(
        sensitivity=measure_share(wrong_rejected),
        specificity=measure_share(right_accepted),
        errors=wrong_rejected.count(False) + right_accepted.count(False),
        caught={kind: measure_share(decisions) for kind, decisions in rejected_by_wrong_kind.items()},
        passed={kind: measure_share(decisions) for kind, decisions in accepted_by_right_kind.items()},
    )


def measure_share(decisions: Sequence[bool]) -> Share:
    """The share of true values among `decisions`, with its Wilson interval."""
    if not decisions:
        return Share(0, None, None)
    total, true_count = len(decisions), sum(decisions)
    return Share(total, true_count / total, wilson_interval(true_count, total))


def _describe_shares(shares: Mapping[str, Share]) -> str:
    """The shares by kind of solution, each with its counts and interval; kinds without solutions are left out."""
    return "; ".join(describe_share(share, KIND_DESCRIPTIONS[kind]) for kind, share in shares.items() if share.n)


def describe_share(share: Share, noun: str) -> str:
    """A share as counts with its interval, for instance "9 of 10 wrong (60% to 98%)"."""
    if share.share is None or share.ci95 is None:
        return f"0 of 0 {noun}"
    low, high = share.ci95
    return f"{round(share.share * share.n)} of {share.n} {noun} ({low:.0%} to {high:.0%})"


def _describe_accepted(rates: Rates, kind: str) -> str:
    """How many of the decided solutions of a kind are accepted, for instance "accepts 9 of 10"."""
    if kind in rates.passed:
        accepted_share = rates.passed[kind]
        return f"accepts {_count(accepted_share)} of {accepted_share.n}"
    rejected_share = rates.caught.get(kind, Share(0, None, None))
    return f"accepts {rejected_share.n - _count(rejected_share)} of {rejected_share.n}"


def _count(share: Share) -> int:
    """The numerator of a share, as a number of solutions."""
    return 0 if share.share is None else round(share.share * share.n)


def _predict(
    judged_solutions: Sequence[JudgedSolution], funnel: Mapping[str, int], keep: str, must_support: bool
) -> Prediction | None:
    """Predict the share of right examples from the trial's rates and the run's acceptance rate. None if the trial has
    no decisions on right or on wrong solutions.

    Solutions with planted errors are left out if there are other wrong solutions, since planted errors are easier to
    catch than an attacker's real mistakes and incomplete questions. If `keep` is "failed", every wrong question that
    passes validation is assumed to be kept; otherwise wrong questions are assumed to be kept as often as right ones.
    With `must_support`, only supported questions pass.
    """
    decided = [solution for solution in judged_solutions if solution.accepted is not None]
    right = [solution for solution in decided if solution.right]
    wrong = [solution for solution in decided if not solution.right]
    not_planted = [solution for solution in wrong if solution.kind not in PLANTED_KINDS]
    if not_planted:
        wrong = not_planted
    kept = funnel["kept_failed"] + funnel["kept_novel"]
    unproven = funnel.get("unproven", 0)
    accepted = kept + funnel["defender_right"] + (0 if must_support else unproven)
    if not right or not wrong:
        return None
    judged = accepted + funnel["invalid"] + (unproven if must_support else 0)
    if not accepted:
        return Prediction(judged, 0, None, None)
    right_accepted = sum(bool(solution.passes(must_support)) for solution in right)
    wrong_rejected = sum(not solution.passes(must_support) for solution in wrong)
    kept_of_accepted = (kept, accepted) if kept and keep == "failed" else None
    among_accepted, among_kept = predict_right_share(
        (right_accepted, len(right)), (wrong_rejected, len(wrong)), (accepted, judged), kept_of_accepted
    )
    return Prediction(judged, accepted, among_accepted, among_kept if kept else None)
