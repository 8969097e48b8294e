"""The agreement between the members of a run's panel."""

import json
from dataclasses import dataclass

from nanoflux_local.evaluate.agreement import krippendorff_alpha
from nanoflux_local.ledger.views import LedgerView


@dataclass(frozen=True, slots=True)
class PanelAgreement:
    """The number of judgements that a panel made, the number on which its members disagreed (`split`), and
    Krippendorff's alpha (None if it is undefined).
    """

    judgements: int
    split: int
    alpha: float | None


def summarize_panel(view: LedgerView, run: str) -> PanelAgreement | None:
    """The agreement between the members of a run's panel (`panel` in `run show --json`); None if the run has a single
    judge.
    """
    row = view.find_run(run)
    if not json.loads(row["config"])["judge"].get("panel"):
        return None
    attempts = [attempt for record in view.turn_records(row["id"]) for attempt in record.attempts]
    verdicts = [verdict for attempt in attempts for verdict in (attempt.validation, attempt.evaluation) if verdict]
    votes_by_verdict = [[vote.positive for vote in verdict.votes] for verdict in verdicts if verdict.votes]
    split_verdicts = [votes for votes in votes_by_verdict if True in votes and False in votes]
    return PanelAgreement(
        judgements=len(votes_by_verdict),
        split=len(split_verdicts),
        alpha=krippendorff_alpha(votes_by_verdict),
    )
