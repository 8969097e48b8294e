"""Forms keep their input, ask before they discard it, and handle all keys that were typed into them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.widgets import Input, Select, TextArea

from nanoflux_local import profiles
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_tui.commands import CommandResult, CommandRunner
from nanoflux_tui.screens.new_run import NewRunScreen
from nanoflux_tui.screens.new_training import NewTrainingScreen
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.widgets.window_table import WindowTable

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]
PROFILES = Path(profiles.__file__).parent


def test_run_form_keeps_its_values_after_escape_and_a_tab_switch(drive: Drive, empty_home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("n")
        await driver.wait_for("Generate examples for domain")
        await driver.set_value("#name", "my run")
        driver.app.screen.query_one("#profile", Select).value = "scripted"
        await driver.press("escape")
        await driver.wait_for("This home is empty")
        await driver.press("n")
        await driver.wait_for("my run", "--profile scripted", "This is your earlier input.")
        await driver.pilot.click("#tab-examples")
        await driver.wait_for("No example has been kept yet")
        await driver.press("n")
        await driver.wait_for("my run", "--profile scripted")
        await driver.press("f5")
        await driver.wait_until(lambda: not driver.app.screen.query_one("#name", Input).value)
        assert driver.app.screen.query_one("#profile", Select).value == "embedded"

    drive(empty_home, flow, size=(80, 24))


def test_reopened_run_form_offers_a_profile_that_was_added_meanwhile(drive: Drive, empty_home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("n")
        await driver.wait_for("Generate examples for domain")
        await driver.press("escape")
        await driver.wait_for("This home is empty")
        empty_home.profiles.mkdir()
        (empty_home.profiles / "mine.toml").write_text((PROFILES / "scripted.toml").read_text())
        await driver.press("n")
        await driver.wait_for("Generate examples for domain")
        driver.app.screen.query_one("#profile", Select).value = "mine"
        await driver.wait_for("--profile mine")
        await driver.press("escape", "n")
        await driver.wait_for("--profile mine", "This is your earlier input.")

    drive(empty_home, flow, size=(80, 24))


def test_run_form_names_all_missing_weights_and_the_command_that_installs_them(drive: Drive, empty_home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("n")
        await driver.wait_for(
            "✗ the weights of smollm2-135m, all-minilm-l6-v2 are not installed",
            "→ nanoflux models pull smollm2-135m all-minilm-l6-v2",
        )
        assert driver.app.screen.query_one("#start").disabled
        driver.app.screen.query_one("#profile", Select).value = "scripted"
        await driver.wait_for("Ready to start")

    drive(empty_home, flow)


def test_run_form_is_empty_after_it_was_submitted(
    drive: Drive, home: Home, find_run: FindRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = find_run(home, "first")

    async def report_started_run(*_: Any, **__: Any) -> CommandResult:
        """Stands in for `run start`, which prints the run's id, and for `doctor`, which prints its checks."""
        return CommandResult(0, json.dumps({"run": run, "checks": []}), "")

    monkeypatch.setattr(CommandRunner, "run", report_started_run)

    async def flow(driver: Any) -> None:
        await driver.press("n")
        await driver.wait_for("Generate examples for domain")
        driver.app.screen.query_one("#profile", Select).value = "scripted"
        await driver.set_value("#name", "my run")
        await driver.wait_for("Ready to start")
        await driver.press("ctrl+s")
        await driver.wait_until(lambda: isinstance(driver.app.screen, RunScreen))
        await driver.wait_for("24 of 24")
        await driver.press("n")
        await driver.wait_until(lambda: isinstance(driver.app.screen, NewRunScreen))
        await driver.wait_for("Generate examples for domain")
        assert driver.app.screen.query_one("#name", Input).value == ""

    drive(home, flow)


def test_dialog_asks_before_it_discards_a_changed_value(drive: Drive, home: Home, find_run: FindRun) -> None:
    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_for("24 of 24")
        await driver.press("c")
        await driver.wait_for("Change this run")
        await driver.press("escape")  # closes the form at once, since nothing was entered
        await driver.wait_until(lambda: isinstance(driver.app.screen, RunScreen))
        await driver.press("c")
        await driver.wait_for("Change this run")
        await driver.set_value("#f-target", "99")
        await driver.press("escape")
        await driver.wait_for("Discard what you entered?")
        await driver.press("n")
        await driver.wait_until(lambda: driver.app.screen.query_one("#f-target", Input).value == "99")
        await driver.press("escape", "y")
        await driver.wait_until(lambda: isinstance(driver.app.screen, RunScreen))

    drive(home, flow)


def test_started_training_run_is_selected_in_the_list(
    drive: Drive, home: Home, find_run: FindRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new_training = find_run(home, "first"), "train-new"
    audit = {"rows": 1, "usable": 1, "validation": 0, "tokens": {"total": 1, "most": 1}, "cut_rows": 0, "cut_tokens": 0,
             "leaked": [], "steps": 1, "seconds": 1, "memory_bytes": 1, "dtype": "f", "findings": [], "rendered": "",
             "source": {}}  # fmt: skip

    async def audit_or_start_training(_: CommandRunner, *arguments: str, **__: Any) -> CommandResult:
        """Stands in for `train --dry-run`, which prints an audit, and for `train --detach`, which prints an id."""
        if "--detach" not in arguments:
            return CommandResult(0, json.dumps(audit), "")
        with Ledger(home.ledger) as ledger:
            ledger.create_training(new_training, run, "smollm2-135m", "1" * 64, {"epochs": 1}, {"source": {"run": run}})
        return CommandResult(0, json.dumps({"training": new_training}), "")

    monkeypatch.setattr(CommandRunner, "run", audit_or_start_training)

    async def flow(driver: Any) -> None:
        await driver.press("3")
        await driver.wait_for("train-0123456789ab")
        await driver.press("1")
        driver.app.push_screen(RunScreen(run))
        await driver.wait_for("24 of 24")
        await driver.press("t")
        await driver.wait_for("The first row as the model reads it")
        await driver.press("ctrl+s")
        await driver.wait_until(lambda: driver.app.current_mode == "training" and len(driver.app.screen_stack) == 1)
        await driver.wait_until(
            lambda: driver.app.screen.query_one("#trainings", WindowTable).selected_key == new_training
        )
        await driver.wait_for(f"created  {new_training}")

    drive(home, flow, size=(120, 40))


def test_submit_key_saves_all_characters_that_were_typed_before_it(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        driver.app.action_go("training")
        await driver.wait_for("train-0123456789ab")
        await driver.press("m")
        await driver.wait_for("Note on train-0123456789ab")
        await driver.wait_until(lambda: isinstance(driver.app.focused, TextArea))
        for character in "irrelevant":  # all keys at once, so that the field has handled none of them before Ctrl+S
            driver.app.post_message(events.Key(character, character))
        driver.app.post_message(events.Key("ctrl+s", None))
        await driver.wait_for("note: irrelevant")

    drive(home, flow)


def test_form_stays_open_if_characters_are_typed_outside_its_fields(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("n")
        await driver.wait_for("Generate examples for domain")
        await driver.set_value("#name", "my run")
        for selector in ("#profile", "#preview"):  # a list and a button
            driver.app.screen.query_one(selector).focus()
            await driver.press(*"nosuch 24 quit")
            is_list_open = driver.app.screen.query_one("#profile", Select).expanded
            await driver.press("escape" if is_list_open else "tab")
        driver.app.screen.set_focus(None)
        await driver.press(*"q2n")
        assert isinstance(driver.app.screen, NewRunScreen) and "q Quit" not in driver.text
        assert driver.app.screen.value("name") == "my run"
        await driver.press("escape")
        await driver.wait_for("train-0123456789ab", "q Quit")
        await driver.press("3")
        await driver.wait_for("train loss")
        await driver.press("t")
        await driver.wait_until(lambda: isinstance(driver.app.screen, NewTrainingScreen))
        driver.app.screen.query_one("#base", Select).focus()
        await driver.press(*"nosuch")
        assert isinstance(driver.app.screen, NewTrainingScreen)

    drive(home, flow)
