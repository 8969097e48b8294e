"""Prints the overview of a run, for `nanoflux run show`, `run start` and `run resume`."""

from typing import TYPE_CHECKING

from nanoflux_local.cli.common import print_json, print_table
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.run.rule_sets import format_rule_changes

if TYPE_CHECKING:
    from nanoflux_local.evaluate.agreement import ReviewAgreement
    from nanoflux_local.ledger.summary import RunSummary
    from nanoflux_local.run.agreement import PanelAgreement
    from nanoflux_local.run.forecast import Forecast
    from nanoflux_local.run.overview import RunOverview
    from nanoflux_local.run.trials.result import CheckRates, TrialResult

MAX_LISTED = 10
"""Maximum number of attempts or reasons in a table; `--json` prints all of them."""
OUTCOME_LABELS = {
    "kept_failed": "kept: defender failed",
    "kept_novel": "kept: new solution",
    "failed": "no verdict",
}
"""Labels for the outcomes whose keys are unclear; the other outcomes are labelled with their keys."""


def show_run(home: Home, run: str, as_json: bool) -> None:
    """Print a run as a table or as JSON."""
    from nanoflux_local.examples.review import summarize_agreement
    from nanoflux_local.ledger.views import LedgerView
    from nanoflux_local.run.overview import load_overview

    with LedgerView(home.ledger) as view:
        review = summarize_agreement(view, view.find_run(run)["id"])
        overview = load_overview(home, view, run, review)
        has_prices = view.is_priced(overview.summary.run)
    if as_json:
        print_json(overview.to_json())
    else:
        print_table(("run", overview.summary.run), _overview_rows(overview, has_prices))


def _overview_rows(overview: "RunOverview", has_prices: bool) -> list[tuple[str, object]]:
    """The labels and values in the table of `run show`."""
    run = overview.summary
    calls = f"{run.calls.made} sent, {run.calls.remembered} cached, {run.calls.wasted} discarded"
    return [
        ("name", run.name),
        ("domain", run.domain),
        ("rules", run.rules + format_rule_changes(overview.rule_changes)),
        *([("fork of", run.forked_from)] if run.forked_from else []),
        ("status", f"{run.status} {run.message}".strip()),
        ("kept", f"{run.kept} of {run.target} in {format_quantity(run.turns, 'turn')}"),
        *(
            (f"  {OUTCOME_LABELS.get(outcome, outcome.replace('_', ' '))}", count)
            for outcome, count in run.funnel.items()
        ),
        *((f"  turn {attempt.turn}", attempt.reason) for attempt in run.contaminated[:MAX_LISTED]),
        *_reason_rows("unreadable replies", overview.unread),
        *_reason_rows("refused prompts", overview.refused),
        *_truncated_reasoning_rows(len(run.cut_in_reasoning)),
        ("calls", f"{calls} ({run.wasted_share:.1%})"),
        ("tokens", _describe_usage(run)),
        *([("dollars", _describe_dollars(run))] if has_prices else []),
        *((f"  fault: {kind.replace('_', ' ')}", count) for kind, count in run.faults.items()),
        ("seconds", run.seconds),
        *_pass_rate_rows(run.pass_rates),
        *_level_rows(run.levels),
        *_trial_rows(overview.judge_trial),
        *_panel_rows(overview.panel),
        *_review_rows(overview.review),
        *_forecast_rows(overview.forecast),
        ("repeatable", "yes" if run.repeatable else "no: an endpoint does not guarantee equal replies"),
        ("digest", run.digest),
        *([("note", run.note)] if run.note else []),
    ]


def _describe_usage(run: "RunSummary") -> str:
    """The prompt and completion tokens and, if the endpoints report any, the reasoning tokens among the completion
    tokens.
    """
    usage = run.usage
    reasoning = f" ({usage.reasoning_tokens} of them reasoning)" if usage.reasoning_tokens else ""
    return f"{usage.prompt_tokens} prompt, {usage.completion_tokens} completion{reasoning}"


def _describe_dollars(run: "RunSummary") -> str:
    """The cost of the calls, and an upper bound on the cost of failed requests."""
    lost = f", and at most {run.lost.usd:.4f} for lost replies" if run.lost.usd else ""
    return f"{run.usage.usd:.4f}{lost}"


def _reason_rows(title: str, count_by_reason: dict[str, int]) -> list[tuple[str, object]]:
    """How many attempts failed for each reason, the most frequent reason first; no row if there are no reasons."""
    if not count_by_reason:
        return []
    rows = [(f"  {count}", reason) for reason, count in list(count_by_reason.items())[:MAX_LISTED]]
    return [(title, str(sum(count_by_reason.values()))), *rows]


def _truncated_reasoning_rows(attempts: int) -> list[tuple[str, object]]:
    if not attempts:
        return []
    affected = format_quantity(attempts, "attempt")
    return [("out of tokens", f"in {affected}, the token limit ended a reply during its reasoning")]


def _pass_rate_rows(pass_rates: dict[str, int]) -> list[tuple[str, object]]:
    """How many kept examples have each pass rate; no row if the defender answered each example only once."""
    if not set(pass_rates) - {"0 of 1", "1 of 1"}:
        return []
    return [("pass rates", ", ".join(f"{rate}: {count}" for rate, count in pass_rates.items()))]


def _level_rows(levels: dict[str, int]) -> list[tuple[str, object]]:
    """How many kept examples have each quality level; no row if none is rated."""
    if not set(levels) - {"unrated"}:
        return []
    return [("quality levels", ", ".join(f"{count} {name}" for name, count in levels.items()))]


def _panel_rows(panel: "PanelAgreement | None") -> list[tuple[str, object]]:
    if panel is None:
        return []
    alpha = "undefined" if panel.alpha is None else f"{panel.alpha:.2f}"
    judgements = format_quantity(panel.judgements, "judgement")
    return [("panel", f"disagreed on {panel.split} of {judgements}, Krippendorff's alpha {alpha}")]


def _review_rows(review: "ReviewAgreement | None") -> list[tuple[str, object]]:
    if review is None:
        return []
    from nanoflux_local.cli.examples import describe_agreement

    return [(f"review by {name}", describe_agreement(agreement)) for name, agreement in review.reviewers.items()]


def _trial_rows(trial: "TrialResult | None") -> list[tuple[str, object]]:
    """The judge's error rates on solutions known to be right or wrong: without checks and, if the judge has checks,
    also with them.
    """
    if trial is None:
        return []
    unjudged = f", {trial.unjudged} not judged" if trial.unjudged else ""
    if trial.without_check is None or trial.with_check is None:
        rows: list[tuple[str, object]] = [("judge's trial", trial.judge.describe() + unjudged)]
    else:
        rows = [
            ("judge's trial", f"{format_quantity(trial.solutions, 'known solution')}{unjudged}"),
            ("  without the checks", trial.without_check.describe()),
            ("  with the checks", trial.with_check.describe()),
        ]
    check_rows = [
        (f"  {name} check alone", _describe_check(rates)) for name, rates in trial.checks.items() if trial.with_check
    ]
    kind_rows = [(f"  {title}", share) for title, share in trial.judge.describe_kinds()]
    prediction_rows = [(f"  {title}", share) for title, share in trial.describe_prediction()]
    return [*rows, *check_rows, *kind_rows, *prediction_rows]


def _describe_check(rates: "CheckRates") -> str:
    """The error rates of a check, and the number of solutions on which it reached a conclusion."""
    return f"{rates.describe()}; reached a conclusion on {format_quantity(rates.concluded, 'solution')}"


def _forecast_rows(forecast: "Forecast") -> list[tuple[str, object]]:
    """The speed and, unless the run has ended, the forecast with its intervals."""
    from nanoflux_local.cli.preview import describe_span
    from nanoflux_local.run.forecast import ENDED

    speed_rows: list[tuple[str, object]] = []
    if forecast.kept_per_hour:
        speed_rows = [("kept per hour", f"{forecast.kept_per_hour:.1f}")]
    if forecast.turns is None:
        return speed_rows if forecast.reason == ENDED else [*speed_rows, ("forecast", forecast.reason)]
    likelihood = f"{forecast.reaches_target:.0%} likely to reach the target within the turn limit"
    spans = (  # name, span, divisor that converts the span to the unit in the name, decimal places
        ("turns", forecast.turns, 1, 0),
        ("minutes", forecast.seconds, 60, 1),
        ("tokens", forecast.tokens, 1, 0),
        ("dollars", forecast.usd, 1, 2),
    )
    span_rows = [
        (f"  {name} left", describe_span(span, divisor, digits)) for name, span, divisor, digits in spans if span
    ]
    return [*speed_rows, ("forecast", f"{likelihood}; {forecast.level:.0%} intervals in brackets"), *span_rows]
