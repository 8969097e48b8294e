"""A ledger that an earlier version wrote can be opened and verified, and its run replays to the recorded digest."""

import asyncio
import shutil
from pathlib import Path

import pytest
import zstandard

from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import runs
from nanoflux_local.run.trials.result import summarize_trial

FIXTURES = Path(__file__).with_name("fixtures")
RUN = "starter-68593da9"
"""The run in the former ledger: scripted profile, seed 5, code check and fact check. It kept four examples, and its
trial has three right and three wrong solutions.
"""
DIGEST = "84339a2e0d1d08a39cef84803343ce538b5e29a75d474c5bdd41bffda816b614"
"""The digest of the run that `run list` printed when the ledger was written."""


@pytest.fixture
def former_home(tmp_path: Path) -> Home:
    """A home with the ledger of a version whose verdicts had one field for each check."""
    home = Home(tmp_path / "home").prepare()
    with (FIXTURES / "ledger-before-findings.db.zst").open("rb") as packed, home.ledger.open("wb") as ledger:
        shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(packed), ledger)
    return home


def test_former_ledger_verifies_and_replays_to_its_digest(former_home: Home) -> None:
    with LedgerView(former_home.ledger) as view:
        assert list(verify_run(view, RUN)) == []
        assert view.summarize_run(RUN).to_json()["digest"] == DIGEST
    assert asyncio.run(runs.replay(former_home, RUN)).same


def test_former_verdicts_are_read_as_findings(former_home: Home) -> None:
    with LedgerView(former_home.ledger) as view:
        attempts = [attempt for record in view.turn_records(RUN) for attempt in record.attempts if attempt.validation]
        trial = summarize_trial(view, RUN)
    conclusions = {attempt.validation.finding("code").conclusion for attempt in attempts}
    assert conclusions >= {"supports", "contradicts"}
    assert any(attempt.validation.finding("facts").evidence for attempt in attempts)
    assert trial is not None and trial.solutions == 6 and trial.with_check
