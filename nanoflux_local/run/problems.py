"""The problems of a run: why it ended early, its failed requests and its unreadable replies, each with a fix."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nanoflux_local.jobs import JobState
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.reasoning import CUT_IN_REASONING
from nanoflux_local.redaction import redact

Severity = Literal["fault", "warning"]
"""A fault is a failed request or the failure of the run; a warning is an unusable reply or a pause of the run."""
ENDED_BADLY = ("failed", "interrupted", "stalled")
"""The statuses of a run that ended, or stopped making progress, because of a failure."""
REASONING_SETTING = re.compile(r"endpoints\.\S+\.reasoning_tokens")
"""Matches the key of an endpoint's reasoning limit inside a message."""
FAULT_FIXES = {
    "rate_limited": "send fewer requests at a time: `nanoflux run set {run} concurrency=N`",
    "server_error": "read the server's log",
    "timeout": "send fewer requests at a time (`nanoflux run set {run} concurrency=N`), or raise the endpoint's "
    "timeout_s: `nanoflux run resume {run} --set endpoints.{endpoint}.timeout_s=SECONDS`",
    "reset": "read the server's log",
    "unreachable": "start the server, or state its new address: "
    "`nanoflux run resume {run} --set endpoints.{endpoint}.url=URL`",
    "unreachable without revision": "start the server, or fork the run with its new address, because the endpoint "
    "states no revision: `nanoflux run start --fork {run} --set endpoints.{endpoint}.url=URL`",
    "garbled": "check that the endpoint's url is that of a model server",
    "empty": "raise the role's token limit, or use another model",
    "refused_parameter": "nothing to do: the parameter is left out of later requests",
}
"""How to avoid further failed requests, by the kind of the fault; the failed request itself is retried. `{run}` and
`{endpoint}` stand for the run's id and the endpoint's name. Without a `revision`, which identifies the model, `run
resume` refuses a new address.
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that occurred `count` times: where it occurred, what happened (`message`), what the user can do
    (`fix`), and when it occurred last (`last_at`; "" if that is not recorded).
    """

    severity: Severity
    count: int
    where: str
    message: str
    fix: str
    last_at: str = ""

    def to_json(self) -> dict[str, Any]:
        """An entry of `run problems --json`."""
        return asdict(self)


def list_problems(view: LedgerView, run: str, state: JobState) -> list[Problem]:
    """The problems of a run in the state `state`: why it ended early, then its faults, then its unusable replies."""
    return [*_list_end(run, state), *_list_faults(view, run), *_list_unreadable(view, run)]


def _list_end(run: str, state: JobState) -> Iterator[Problem]:
    """The problem that ended, paused or stalled the run, if any. A stored message may end with an arrow and a fix."""
    if not state.message or state.status not in (*ENDED_BADLY, "paused"):
        return
    message, _, fix = state.message.partition(" → ")
    severity: Severity = "fault" if state.status in ENDED_BADLY else "warning"
    if state.status == "stalled":
        fix = fix or f"end its process, then resume: `nanoflux run stop {run}` twice, `nanoflux run resume {run}`"
    yield Problem(severity, 1, f"run {state.status}", redact(message), redact(fix) or f"`nanoflux run resume {run}`")


def _list_faults(view: LedgerView, run: str) -> Iterator[Problem]:
    """The failed requests of a run, counted by role, model and kind of fault."""
    rows = view.rows(
        "SELECT role, model, kind, told, count(*) AS n, max(id) AS last, max(at) AS at FROM faults WHERE run = ?"
        " GROUP BY role, model, kind ORDER BY last DESC",
        run,
    )
    endpoints = json.loads(view.find_run(run)["config"]).get("endpoints", {})
    name_by_model = {endpoint.get("model"): name for name, endpoint in endpoints.items()}
    for row in rows:
        name = name_by_model.get(row["model"], "NAME")
        has_revision = bool(endpoints.get(name, {}).get("revision"))
        kind = "unreachable without revision" if row["kind"] == "unreachable" and not has_revision else row["kind"]
        fix = FAULT_FIXES.get(kind, "read the server's log").format(run=run, endpoint=name)
        where = f"{row['role'] or 'embedder'} {row['model']}: {row['kind'].replace('_', ' ')}"
        yield Problem("fault", row["n"], where, redact(row["told"]), fix, row["at"])


def _list_unreadable(view: LedgerView, run: str) -> Iterator[Problem]:
    """The refused prompts and the unreadable replies of a run, counted by reason."""
    reasons_by_kind = view.failure_reasons(run)
    for reason, count in reasons_by_kind["refused"].items():
        fix = f"read the prompts: `nanoflux run attempts {run} --outcome failed`; use a model that answers them"
        yield Problem("warning", count, "refused prompt", redact(reason), fix)
    reading_fix = (
        f"list the turns with `nanoflux run attempts {run} --outcome unparsed --outcome failed`,"
        f" and print their replies with `nanoflux run calls {run} TURN`"
    )
    for reason, count in reasons_by_kind["unread"].items():
        if CUT_IN_REASONING not in reason:  # `_list_truncated` lists the truncated replies
            yield Problem("warning", count, "unreadable reply", redact(reason), reading_fix)
    yield from _list_truncated(view, run)


def _list_truncated(view: LedgerView, run: str) -> Iterator[Problem]:
    """The replies that were truncated inside their reasoning, counted by the setting to raise, which the attempts'
    reasons name.
    """
    count_by_setting = Counter(_find_reasoning_setting(attempt.reason) for attempt in view.cut_attempts(run))
    for setting, count in count_by_setting.most_common():
        key = setting or "endpoints.NAME.reasoning_tokens"
        fix = f"start a fork with more reasoning tokens: `nanoflux run start --fork {run} --set {key}=N`"
        yield Problem("warning", count, "unreadable reply", f"the reply was {CUT_IN_REASONING}", fix)


def _find_reasoning_setting(reason: str) -> str:
    """The key of the reasoning limit that an attempt's reason names, or ""."""
    match = REASONING_SETTING.search(reason)
    return match[0] if match else ""
