"""How far the members of a run's panel agree."""

import json
from dataclasses import dataclass

from nanoflux_local.evaluate.agreement import krippendorff_alpha
from nanoflux_local.ledger.views import LedgerView


@dataclass(frozen=True, slots=True)
class PanelAgreement:
    """The number of a panel's judgements, the number of those on which its members disagreed (`split`), and
    Krippendorff's alpha (None if undefined).
    """

    judgements: int
    split: int
    alpha: float | None


def summarize_panel(view: LedgerView, run: str) -> PanelAgreement | None:
    """How far the members of a run's panel agree: `panel` in `run show --json`; None if the run has a single judge."""
    row = view.find_run(run)
    if not json.loads(row["config"])["judge"].get("panel"):
        return None
    attempts = [attempt for record in view.turn_records(row["id"]) for attempt in record.attempts]
    verdicts = [verdict for attempt in attempts for verdict in (attempt.validation, attempt.evaluation) if verdict]
    votes = [[vote.positive for vote in verdict.votes] for verdict in verdicts]
    return PanelAgreement(
        judgements=len(votes),
        split=sum(len({vote for vote in unit if vote is not None}) > 1 for unit in votes),
        alpha=krippendorff_alpha(votes),
    )
