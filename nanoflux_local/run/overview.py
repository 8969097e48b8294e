"""The overview of a run: everything that `run show` prints, as one typed object."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from nanoflux_local.evaluate.agreement import ReviewAgreement
from nanoflux_local.jobs import RUN, Job, Worker, load_job_state
from nanoflux_local.ledger.summary import RunSummary
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run.agreement import PanelAgreement, summarize_panel
from nanoflux_local.run.forecast import Forecast, RunPosition, forecast
from nanoflux_local.run.rule_sets import list_rule_changes
from nanoflux_local.run.trials.result import TrialResult, summarize_trial


@dataclass(frozen=True, slots=True)
class RunOverview:
    """The summary of a run, its worker, its forecast, and three measures of its judge's reliability (`judge_trial`,
    `panel`, `review`). `rule_changes` are the settings in which the run differs from its rule set. `unread` counts the
    attempts that ended with an unreadable reply, `refused` those that ended with a refused prompt; both map the reason
    to the count.
    """

    summary: RunSummary
    worker: Worker | None
    forecast: Forecast
    judge_trial: TrialResult | None
    panel: PanelAgreement | None
    review: ReviewAgreement | None
    rule_changes: dict[str, str]
    unread: dict[str, int]
    refused: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `run show --json` prints."""
        document = asdict(self)
        return {**document.pop("summary"), **document}


def load_listed_run(home: Home, view: LedgerView, run: str) -> tuple[RunSummary, Worker | None]:
    """The summary of a run with its current status and working time, and the worker that executes it (None if there is
    no worker).
    """
    summary = view.summarize_run(run)
    row = {"status": summary.status, "message": summary.message, "seconds": summary.seconds}
    state = load_job_state(home, view, Job(RUN, summary.run), row)
    return replace(summary, status=state.status, message=state.message, seconds=state.seconds), state.worker


def load_overview(home: Home, view: LedgerView, run: str, review: ReviewAgreement | None) -> RunOverview:
    """The overview of a run by its id, the beginning of its id, or its name."""
    summary, worker = load_listed_run(home, view, run)
    return RunOverview(
        summary,
        worker,
        forecast(view, RunPosition.of(summary)),
        summarize_trial(view, summary.run),
        summarize_panel(view, summary.run),
        review,
        list_rule_changes(json.loads(view.find_run(summary.run)["config"])),
        **view.failure_reasons(summary.run),
    )
