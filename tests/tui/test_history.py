"""The run screen can show the run as of an earlier turn, and return to the live view."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from nanoflux_local.ledger import history
from nanoflux_local.ledger.history import RunHistory
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.screens.run import RunScreen

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]


def test_history_tallies_all_turns_up_to_the_chosen_turn(
    home: Home, find_run: FindRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "COPY_EVERY", 7)
    run = find_run(home, "first")
    with LedgerView(home.ledger) as view:
        records, run_history = view.turn_records(run), RunHistory(run)
        # in both directions, near and between the stored copies of the tally
        for turn in (20, 3, 4, 14, 0, 21, len(records) - 1):
            moment = run_history.load_moment(view, turn)
            records_so_far = records[: turn + 1]
            assert moment.turn == records[turn] and moment.tally.turns == turn + 1
            assert moment.tally.kept == sum(record.kept for record in records_so_far)
            outcomes = Counter[str]()
            for record in records_so_far:
                outcomes.update(attempt.outcome for attempt in record.attempts)
            assert moment.tally.outcomes == outcomes and list(moment.tally.kept_by_turn)[-1] == moment.tally.kept
            row = view.row("SELECT count(*) AS calls FROM calls WHERE run = ? AND at <= ?", run, moment.committed_at)
            assert row is not None
            assert sum(usage.calls for usage in moment.tally.usage.values()) == row["calls"]


def test_arrow_keys_step_through_the_turns_and_back_to_the_live_view(
    drive: Drive, home: Home, find_run: FindRun
) -> None:
    run = find_run(home, "first")
    with LedgerView(home.ledger) as view:
        records = view.turn_records(run)
    last_turn = len(records) - 1
    assert records[last_turn].kept

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(run))
        await driver.wait_for("kept   24 of 24", "This run is done.")
        assert "f Live" not in driver.text
        await driver.wait_for("← Earlier turn", "→ Later turn", "w Problems", "l Log", "a Attempts", "b Side by side")
        entries = {entry.title for entry in driver.app.get_system_commands(driver.app.screen)}
        assert entries >= {"Earlier turn", "20 turns later", "Problems", "Log", "Attempts", "Side by side"}
        await driver.press("left")
        await driver.wait_for(f"◷ As of turn {last_turn}; the last turn is {last_turn}.", "f Live", f"Turn {last_turn}")
        await driver.press("left")
        await driver.wait_for(f"◷ As of turn {last_turn - 1};", "kept   23 of 24")
        await driver.press("shift+left")
        turn = last_turn - 21
        kept_count = sum(record.kept for record in records[: turn + 1])
        await driver.wait_for(f"◷ As of turn {turn};", f"kept {kept_count:>4} of 24")
        await driver.press("a")
        await driver.wait_for("attempts of")
        await driver.wait_until(lambda: driver.app.screen.query_one("WindowTable").selected_key == (turn, 0))
        await driver.press("escape", "right")
        await driver.wait_for(f"◷ As of turn {turn + 1};")
        await driver.press("f")
        await driver.wait_for("This run is done.")
        assert "As of turn" not in driver.text
        await driver.press("left", "escape")
        await driver.wait_until(lambda: "As of turn" not in driver.text and "24 of 24" in driver.text)

    drive(home, flow, size=(80, 24))
