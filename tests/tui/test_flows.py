"""What people come for, driven by keys: look, start, watch, steer, review, export, train, compare."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from textual.widgets import Input, Select

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.bridge import Bridge, Ended
from nanoflux_tui.screens.run import RunRoom
from nanoflux_tui.tour import TourApp
from nanoflux_tui.widgets.window_table import WindowTable

Sit = Callable[..., None]


def test_home_lists_everything_and_an_empty_one_says_how_to_begin(sit: Sit, home: Home, empty: Home) -> None:
    async def full(seat: Any) -> None:
        await seat.sees("first", "second", "train-0123456789ab", "24/24", "12/12", "‖ paused")
        sorts = [key.sort for key in seat.app.screen.query_one(WindowTable).keys]
        assert sorts[:2] == ["experiment", "training"]  # what failed, then what waits, then what is done

    async def none(seat: Any) -> None:
        await seat.sees("Nothing has been made here yet", "starts a run")
        for digit, told in (("2", "nothing was kept yet"), ("3", "No training yet"), ("4", "No evaluation yet"),
                            ("5", "No server is running"), ("6", "No experiment yet")):  # fmt: skip
            await seat.press(digit)
            await seat.sees(told)
        assert not seat.trouble

    sit(home, full)
    sit(empty, none)


def test_a_run_is_started_from_the_form_watched_paused_resumed_changed_and_stopped(sit: Sit, empty: Home) -> None:
    async def flow(seat: Any) -> None:
        await seat.sees("Nothing has been made here yet")
        await seat.press("n")
        await seat.until(lambda: seat.app.screen.query_one("#domain", Select).value == "starter")
        seat.app.screen.query_one("#domain", Select).value = "starter-genetics"
        seat.app.screen.query_one("#profile", Select).value = "scripted"
        await seat.type("#examples", "many")
        await seat.sees("'many' is not a whole number")
        await seat.type("#examples", "400")
        await seat.type("#settings", "seeds.min=2 concurrency=2 endpoints.arbiter.delay_s=0.3 nonsense=1")
        await seat.sees("unknown key 'nonsense'")
        await seat.type("#settings", "seeds.min=2 concurrency=2 endpoints.arbiter.delay_s=0.3")
        await seat.sees("it can be played", "$ nanoflux run start --domain starter-genetics --profile scripted")
        await seat.press("ctrl+s")
        await seat.until(lambda: isinstance(seat.app.screen, RunRoom))
        await seat.sees("● running", "Under way, up to 2 requests at once")
        await seat.until(lambda: seat.app.screen._tally.turns > 2)
        await seat.press("space")
        await seat.sees("‖ paused")
        await seat.press("c")
        await seat.until(lambda: seat.app.screen.query_one("#f-target", Input))
        await seat.type("#f-target", "399")
        await seat.press("enter")
        await seat.sees("of 399")
        turns = seat.app.screen._tally.turns
        await seat.press("space")
        await seat.until(lambda: seat.app.screen._tally.turns > turns)
        await seat.press("s")
        await seat.sees("Stop this run?")
        await seat.press("y")
        await seat.sees("■ stopped")

    sit(empty, flow)
    with LedgerView(empty.ledger) as view:
        row = view.row("SELECT status, target FROM runs")
        assert row is not None and (row["status"], row["target"]) == ("stopped", 399)


def test_examples_are_filtered_as_one_types_and_opened(sit: Sit, home: Home) -> None:
    async def flow(seat: Any) -> None:
        await seat.press("2")
        await seat.sees("36 examples of all runs")
        await seat.press("slash", *"boxes zzz")
        await seat.sees("nothing answers to this filter")
        await seat.press("escape")
        await seat.sees("36 examples")
        await seat.press("r")
        await seat.sees("where the defender failed")
        await seat.press("down", "enter")
        await seat.sees("example 2 of", "attacks; its own solution", "defends", "Is the question valid?", "seeds:")
        await seat.press("right")
        await seat.sees("example 3 of")
        await seat.press("left", "left", "left")
        await seat.sees("That was the first one.")
        await seat.press("escape")
        await seat.sees("where the defender failed")

    sit(home, flow)


def test_a_person_says_a_word_on_examples_by_key_and_takes_it_back(sit: Sit, home: Home) -> None:
    def words() -> list[tuple[str, str]]:
        with LedgerView(home.ledger) as view:
            return [(row["verdict"], row["note"]) for row in view.rows("SELECT verdict, note FROM reviews ORDER BY id")]

    async def flow(seat: Any) -> None:
        await seat.press("2")
        await seat.sees("36 examples")
        await seat.press("enter")
        await seat.sees("example 1 of")
        await seat.press("d")
        await seat.sees("your word: drop")
        await seat.press("k")
        await seat.sees("your word: keep")
        await seat.press("u")
        await seat.sees("your word: drop")
        await seat.press("u")
        await seat.until(lambda: "your word" not in seat.text and "example 1 of" in seat.text)
        await seat.press("m")
        await seat.type("#f-note", "the unit is missing")
        seat.app.screen.query_one("#f-verdict", Select).value = "fix"
        seat.app.screen.query_one("#yes").press()
        await seat.sees("your word: fix", "the unit is missing")
        await seat.press("escape")
        await seat.sees("36 examples", " fix ")

    sit(home, flow)
    assert words() == [("drop", ""), ("keep", ""), ("drop", ""), ("open", ""), ("fix", "the unit is missing")]


def test_a_run_is_exported_and_verified(sit: Sit, home: Home, run_named: Callable[[Home, str], str]) -> None:
    run = run_named(home, "first")

    async def flow(seat: Any) -> None:
        seat.app.push_screen(RunRoom(run))
        await seat.sees("✓ done", "kept   24 of 24", "How attempts ended", "the judge found it invalid")
        await seat.press("x")
        await seat.sees("Export the kept examples")
        await seat.press("tab", "enter")
        await seat.sees("written:")
        await seat.press("v")
        await seat.sees("Every hash matches.")

    sit(home, flow, size=(120, 40))
    rows = (home.root / "exports" / f"{run}.jsonl").read_text().splitlines()
    assert len(rows) == 24 and "messages" in json.loads(rows[0])


def test_two_evaluations_are_marked_and_compared_with_the_items_that_flipped(sit: Sit, home: Home) -> None:
    async def flow(seat: Any) -> None:
        await seat.press("4")
        await seat.sees("50.0%", "20.0%", "35.0% – 70.0%")
        await seat.press("c")
        await seat.sees("Mark two or more")
        await seat.press("end", "space", "home", "space", "c")
        await seat.sees("+30.0%", "lost 1 item and gained 7", "▼ lost", "item-01", "▲ gained", "item-11")

    sit(home, flow, size=(120, 40))


def test_a_training_shows_its_curve_and_a_new_one_its_audit_before_it_can_begin(sit: Sit, home: Home) -> None:
    async def flow(seat: Any) -> None:
        await seat.press("3")
        await seat.sees("‖ paused", "30/40", "loss 1.500", "train loss", "dev loss")
        await seat.press("t")
        await seat.type("#run", "second")
        await seat.sees("$ nanoflux train second --base smollm2-135m --detach", "are not installed")
        assert seat.app.screen.query_one("#train").disabled
        await seat.press("ctrl+s")
        await seat.sees("The audit comes first")

    sit(home, flow)


def test_help_palette_themes_and_places_are_there_in_every_room(sit: Sit, home: Home) -> None:
    async def flow(seat: Any) -> None:
        for digit in "123456":
            await seat.press(digit, "question_mark")
            await seat.sees("Everywhere", "New run", "Light or dark")
            await seat.press("escape")
        await seat.press("3", "question_mark")
        await seat.sees("More", "Evaluate")  # which the footer has no place for
        await seat.press("escape")
        assert seat.app.theme == "nanoflux-dark"
        await seat.press("f2")
        assert seat.app.theme == "nanoflux-light"
        await seat.press("ctrl+p")
        await seat.until(lambda: type(seat.app.screen).__name__ == "CommandPalette")
        await seat.press(*"Evalua")
        await seat.sees("Go to Evaluation")
        await seat.press("enter")
        await seat.until(lambda: seat.app.current_mode == "evaluation")
        await seat.pilot.click("#tab-home")
        await seat.until(lambda: seat.app.current_mode == "home")

    sit(home, flow)


def test_the_tour_goes_on_by_itself_where_it_was_asked_to_before_its_run_was_known(
    sit: Sit, home: Home, run_named: Callable[[Home, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home shows the run a moment before the command that starts it has ended, and a key in that moment counts."""
    started = asyncio.Event()

    async def starting(*_: Any, **__: Any) -> Ended:
        await started.wait()
        return Ended(0, json.dumps({"run": run_named(home, "first")}), "")

    monkeypatch.setattr(Bridge, "do", starting)

    async def flow(seat: Any) -> None:
        await seat.sees("Tour 1/9")
        await seat.press("f9")
        await seat.sees("Tour 1/9", "only starting")
        started.set()
        await seat.sees("Tour 2/9", "24 of 24")
        await seat.press("f8")
        await seat.sees("Tour 1/9")

    sit(home, flow, size=(120, 40), app=TourApp)
