"""The main tasks of a user, done with keys: start, watch and steer runs; review and export examples; train; compare."""

import asyncio
import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from textual.widgets import Input, Select

from nanoflux_local.jobs import EVALUATION, EXPERIMENT, RUN, Job, hold_lock
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_tui.commands import CommandResult, CommandRunner
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.tour import TourApp
from nanoflux_tui.widgets.window_table import WindowTable

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]


def test_home_screen_lists_all_jobs_or_explains_the_first_step(drive: Drive, home: Home, empty_home: Home) -> None:
    async def check_full_home(driver: Any) -> None:
        await driver.wait_for("first", "second", "train-0123456789ab", "24/24", "12/12", "‖ paused")
        kinds = [key.kind for key in driver.app.screen.query_one(WindowTable).keys]
        assert kinds[:2] == ["experiment", "training"]  # failed jobs first, then waiting jobs, then finished jobs

    async def check_empty_home(driver: Any) -> None:
        await driver.wait_for("This home is empty", "Start a run")
        for digit, hint in (
            ("2", "No example has been kept yet"),
            ("3", "No training runs yet"),
            ("4", "No evaluations yet"),
            ("5", "No server is running"),
            ("6", "No experiments yet"),
        ):
            await driver.press(digit)
            await driver.wait_for(hint)
        assert not driver.error

    drive(home, check_full_home)
    drive(empty_home, check_empty_home)


def test_home_screen_offers_only_keys_that_work_for_a_job(drive: Drive, home: Home, find_run: FindRun) -> None:
    run = find_run(home, "first")
    with Ledger(home.ledger) as ledger:
        ledger.set_status("runs", run, "running")
        ledger.set_status("evaluations", "aaaaaaaaaaaa", "running")
        ledger.set_status("experiments", "table1-tiny-01234567", "running")

    async def flow(driver: Any) -> None:
        table = driver.app.screen.query_one(WindowTable)
        await driver.wait_until(lambda: [key.status for key in table.keys].count("running") == 3)
        for kind, hint in (
            ("run", "Press Enter to watch it, space to pause it, s to stop it."),
            ("evaluation", "Press Enter to watch it. It ends by itself, and its replies are kept."),
            ("experiment", "Press Enter to watch it, space or s to stop it after its current cell."),
        ):
            (row,) = [row for row, key in enumerate(table.keys) if key.kind == kind and key.status == "running"]
            table.cursor = row
            await driver.wait_for(hint)
            if kind == "evaluation":
                await driver.press("space")
                await driver.wait_for("An evaluation cannot be paused.")

    with (
        hold_lock(home, Job(RUN, run)),
        hold_lock(home, Job(EVALUATION, "aaaaaaaaaaaa")),
        hold_lock(home, Job(EXPERIMENT, "table1-tiny-01234567")),
    ):
        drive(home, flow)


def test_stop_key_reports_that_a_job_has_already_ended(drive: Drive, home: Home, find_run: FindRun) -> None:
    with Ledger(home.ledger) as ledger:
        ledger.set_status("trainings", "train-0123456789ab", "done")
        ledger.set_status("experiments", "table1-tiny-01234567", "stopped")

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_for("24 of 24", "This run is done.")
        await driver.press("s")
        await driver.wait_for("This run is already done.")
        await driver.press("3")
        await driver.wait_for("✓ done", "30/40")
        await driver.press("s")
        await driver.wait_for("This training run is already done.")
        await driver.press("6")
        await driver.wait_for("■ stopped", "table1")
        await driver.press("s")
        await driver.wait_for("This experiment is already stopped.")
        assert "Stop this" not in driver.text

    drive(home, flow)


def test_run_form_previews_the_run_without_starting_it(drive: Drive, empty_home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("n")
        await driver.wait_for("Generate examples for domain")
        await driver.set_value("#settings", "novelty.question=0.8")
        await driver.wait_for("novelty.question=0.8 --detach")
        await driver.press("f3")
        await driver.wait_for("Preview of the run", "novelty.question", "0.8", "--set")

    drive(empty_home, flow, size=(80, 24))
    assert not empty_home.ledger.exists()


def read_turn_count(driver: Any) -> int:
    """The number of committed turns that the run's screen shows; -1 if it shows none yet."""
    match = re.search(r" in (\d+) of \d+ turns", driver.text)
    return int(match[1]) if match else -1


def test_run_form_starts_a_run_that_keys_pause_resume_change_and_stop(drive: Drive, empty_home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.wait_for("This home is empty")
        await driver.press("n")
        await driver.wait_until(lambda: driver.app.screen.query_one("#domain", Select).value == "starter")
        driver.app.screen.query_one("#domain", Select).value = "starter-genetics"
        driver.app.screen.query_one("#profile", Select).value = "scripted"
        await driver.set_value("#examples", "many")
        await driver.wait_for("'many' is not a whole number")
        await driver.set_value("#examples", "400")
        await driver.set_value("#settings", "seeds.min=2 concurrency=2 endpoints.arbiter.delay_s=0.3 nonsense=1")
        await driver.wait_for("unknown key 'nonsense'")
        await driver.set_value("#settings", "seeds.min=2 concurrency=2 endpoints.arbiter.delay_s=0.3")
        await driver.wait_for("Ready to start", "$ nanoflux run start --domain starter-genetics --profile scripted")
        await driver.press("ctrl+s")
        await driver.wait_until(lambda: isinstance(driver.app.screen, RunScreen))
        await driver.wait_for("● running", "Turns in progress, 2 concurrent requests")
        await driver.wait_until(lambda: read_turn_count(driver) > 2)
        await driver.press("space")
        await driver.wait_for("‖ paused")
        await driver.press("c")
        await driver.wait_until(lambda: driver.app.screen.query_one("#f-target", Input))
        await driver.set_value("#f-target", "399")
        await driver.press("enter")
        await driver.wait_for("of 399")
        turns_before_resume = read_turn_count(driver)
        await driver.press("space")
        await driver.wait_until(lambda: read_turn_count(driver) > turns_before_resume)
        await driver.press("s")
        await driver.wait_for("Stop this run?")
        await driver.press("y")
        await driver.wait_for("■ stopped")

    drive(empty_home, flow)
    with LedgerView(empty_home.ledger) as view:
        row = view.row("SELECT status, target FROM runs")
        assert row is not None and (row["status"], row["target"]) == ("stopped", 399)


def test_run_screen_shows_the_judges_trial(drive: Drive, empty_home: Home) -> None:
    async def generate() -> None:
        judge = {"trial": 4, "trial_kinds": ["slip", "answer"]}
        config = configs.resolve(
            "starter-genetics", "scripted", {"max_turns": 6, "seed": 7, "judge": judge}, empty_home
        )
        await runs.execute(empty_home, await runs.start(empty_home, config, "tried"))

    asyncio.run(generate())

    async def flow(driver: Any) -> None:
        await driver.wait_for("tried")
        await driver.press("enter")
        await driver.wait_for("Judge's trial, 8 known solutions", "rejects ", "accepts ", "predicted right")

    drive(empty_home, flow)


def test_examples_are_filtered_while_typing_and_opened(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("2")
        await driver.wait_for("36 examples from all runs")
        await driver.press("slash", *"boxes zzz")
        await driver.wait_for("No example matches this filter")
        await driver.press("escape")
        await driver.wait_for("36 examples")
        await driver.press("r")
        await driver.wait_for("from all runs, defender failed")
        await driver.press("down", "enter")
        await driver.wait_for(
            "example 2 of", "attacks: its own solution", "defends", "Is the question valid?", "seeds:"
        )
        await driver.press("right")
        await driver.wait_for("example 3 of")
        await driver.press("left", "left", "left")
        await driver.wait_for("This is the first example.")
        await driver.press("escape")
        await driver.wait_for("from all runs, defender failed")

    drive(home, flow)


def test_review_keys_record_a_review_and_undo_it(drive: Drive, home: Home) -> None:
    def read_reviews() -> list[tuple[str, str]]:
        with LedgerView(home.ledger) as view:
            return [(row["verdict"], row["note"]) for row in view.rows("SELECT verdict, note FROM reviews ORDER BY id")]

    async def flow(driver: Any) -> None:
        await driver.press("2")
        await driver.wait_for("36 examples")
        await driver.press("enter")
        await driver.wait_for("example 1 of")
        await driver.press("d")
        await driver.wait_for("your review: drop")
        await driver.press("k")
        await driver.wait_for("your review: keep")
        await driver.press("u")
        await driver.wait_for("your review: drop")
        await driver.press("u")
        await driver.wait_until(lambda: "your review" not in driver.text and "example 1 of" in driver.text)
        await driver.press("m")
        await driver.wait_for("Review this example")
        await driver.press(*"the unit is missing")
        await driver.press("ctrl+s")  # submits the form without a verdict
        await driver.wait_for("Choose the verdict first: keep, drop, fix.", "Review this example")
        driver.app.screen.query_one("#f-verdict", Select).value = "fix"
        driver.app.screen.query_one("#yes").press()
        await driver.wait_for("your review: fix", "the unit is missing")
        await driver.press("k")
        await driver.wait_for("your review: keep")
        await driver.press("m")
        await driver.wait_for("Review this example")
        await driver.press(*"fine", "ctrl+s")
        await driver.wait_for("your review: keep", "(fine)")
        await driver.press("escape")
        await driver.wait_for("36 examples", " keep ")

    drive(home, flow)
    assert read_reviews() == [("drop", ""), ("keep", ""), ("drop", ""), ("open", ""), ("fix", "the unit is missing"),
                              ("keep", ""), ("keep", "fine")]  # fmt: skip


def test_run_is_exported_and_verified(drive: Drive, home: Home, find_run: FindRun) -> None:
    run = find_run(home, "first")

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(run))
        await driver.wait_for("✓ done", "kept   24 of 24", "Outcomes of attempts", "question invalid")
        await driver.press("x")
        await driver.wait_for("Export the kept examples")
        await driver.press("tab", "enter")
        await driver.wait_for("Wrote ")
        await driver.press("x")
        await driver.wait_for("Export the kept examples")
        dialog = driver.app.screen
        dialog.query_one("#f-format", Select).value, dialog.query_one("#f-for", Select).value = "preference", "trl"
        await driver.press("enter")
        await driver.wait_for("Exported for trl", "trl.yaml")
        await driver.press("escape")
        await driver.press("v")
        await driver.wait_for("Every hash matches.")

    drive(home, flow, size=(120, 40))
    rows = (home.root / "exports" / f"{run}.jsonl").read_text().splitlines()
    assert len(rows) == 24 and "messages" in json.loads(rows[0])
    folder = home.root / "exports" / f"{run}-preference-trl"
    pair = json.loads((folder / f"{run}-preference.jsonl").read_text().splitlines()[0])
    assert {"prompt", "chosen", "rejected"} < set(pair)


def test_endpoints_of_a_packaged_profile_are_saved_as_a_copy_and_checked(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("n")
        await driver.wait_for("Generate examples for domain")
        driver.app.screen.query_one("#profile", Select).value = "hosted"
        await driver.press("f4")
        await driver.wait_for("Save the profile as", "my-hosted", "key variable")
        await driver.set_value("#save-as", "lab")
        await driver.set_value("#model-0", "claude-of-the-lab")
        await driver.set_value("#key-env-0", "LAB_KEY")
        await driver.wait_for("profiles set lab endpoints.claude.model=claude-of-the-lab")
        await driver.press("ctrl+s")
        await driver.wait_for("LAB_KEY is not set")
        await driver.set_value("#url-0", "http://me:secret@10.0.0.7/v1")
        await driver.press("ctrl+s")
        await driver.wait_for("put the key into the")
        await driver.press("escape")
        await driver.wait_for("Leave without saving the changes?")
        await driver.press("y")
        await driver.wait_until(lambda: driver.app.screen.query_one("#profile", Select).value == "lab")

    drive(home, flow, size=(80, 24))
    profile = tomllib.loads((home.profiles / "lab.toml").read_text())
    assert profile["endpoints"]["claude"]["model"] == "claude-of-the-lab"
    assert profile["endpoints"]["claude"]["key_env"] == "LAB_KEY"


def test_undo_waits_for_the_review_that_it_undoes_and_stays_on_its_example(
    drive: Drive, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_verdicts: list[str] = []
    keep_may_end = asyncio.Event()

    async def store_verdict(_: CommandRunner, *arguments: str, **__: Any) -> CommandResult:
        """Stands in for `examples review ID --verdict VERDICT`; the verdict "keep" is stored late."""
        verdict = arguments[4]
        if verdict == "keep":
            await keep_may_end.wait()
        stored_verdicts.append(verdict)
        return CommandResult(0, "", "")

    monkeypatch.setattr(CommandRunner, "run", store_verdict)

    async def flow(driver: Any) -> None:
        await driver.press("2")
        await driver.wait_for("36 examples")
        await driver.press("w")
        await driver.wait_for("example 1 of")
        await driver.press("k", "u")
        await driver.pilot.pause(0.5)
        keep_may_end.set()
        await driver.wait_until(lambda: len(stored_verdicts) == 2)
        await driver.pilot.pause(0.5)
        assert stored_verdicts == ["keep", "open"], "the undo did not wait for the review"
        assert "example 1 of" in driver.text

    drive(home, flow)


def test_comparison_fits_a_narrow_terminal_and_closes_when_an_evaluation_is_unmarked(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("4")
        await driver.wait_for("50.0%", "20.0%")
        await driver.press("end", "space", "home", "space", "c")
        await driver.wait_for("detectable", "No difference is significant.", "lost 1 item and gained 7")
        assert any("Holm p" in line and "detectable" in line for line in driver.text.splitlines())
        await driver.press("space")
        await driver.wait_until(
            lambda: "No difference is significant." not in driver.text and "lost 1" not in driver.text
        )

    drive(home, flow, size=(80, 24))


def test_marked_evaluations_are_compared_with_their_flipped_items(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("4")
        await driver.wait_for("50.0%", "20.0%", "35.0% – 70.0%")
        await driver.press("c")
        await driver.wait_for("Mark two or more")
        await driver.press("end", "space", "home", "space", "c")
        await driver.wait_for("+30.0%", "lost 1 item and gained 7", "▼ lost", "item-01", "▲ gained", "item-11")

    drive(home, flow, size=(120, 40))


def test_evaluation_lists_flipped_items_first_and_opens_both_replies(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("4")
        await driver.wait_for("50.0%", "20.0%")
        await driver.press("home", "enter")
        await driver.wait_for("20 items, against aaaaaaaaaaaa: 7 gained, 1 lost", "▼ lost", "▲ gained")
        assert driver.text.index("item-01") < driver.text.index("item-05"), "the lost item is listed below a gained one"
        await driver.press("enter")
        await driver.wait_for(
            "Item item-01", "Expected:", "Base, run 1: right, read 7", "This evaluation, run 1: wrong"
        )
        await driver.press("escape", "d")
        await driver.wait_for("sampling    not recorded", "by run      50.0%")
        await driver.press("escape", "escape", "end", "enter")
        await driver.wait_for("20 items, no base to compare with")

    drive(home, flow, size=(80, 24))


def test_training_screen_shows_the_curve_and_its_form_requires_an_audit(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("3")
        await driver.wait_for("‖ paused", "30/40", "loss 1.500", "train loss", "dev loss")
        await driver.press("t")
        await driver.set_value("#run", "second")
        await driver.wait_for("$ nanoflux train second --base smollm2-135m --detach", "are not installed")
        assert driver.app.screen.query_one("#train").disabled
        await driver.press("ctrl+s")
        await driver.wait_for("Wait for the audit")

    drive(home, flow)


def test_screens_have_help_a_command_palette_two_themes_and_tabs(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        for digit in "123456":
            await driver.press(digit, "question_mark")
            await driver.wait_for("Everywhere", "New run", "Light or dark")
            await driver.press("escape")
        await driver.press("3", "question_mark")
        await driver.wait_for("Adapter", "Evaluate")  # the footer does not show the key of "Evaluate"
        await driver.press("escape")
        assert driver.app.theme == "nanoflux-dark"
        await driver.press("f2")
        assert driver.app.theme == "nanoflux-light"
        await driver.press("ctrl+p")
        await driver.wait_until(lambda: type(driver.app.screen).__name__ == "CommandPalette")
        await driver.press(*"Evalua")
        await driver.wait_for("Go to Evaluation")
        await driver.press("enter")
        await driver.wait_until(lambda: driver.app.current_mode == "evaluation")
        await driver.pilot.click("#tab-home")
        await driver.wait_until(lambda: driver.app.current_mode == "home")

    drive(home, flow)


def test_tour_continues_after_a_key_pressed_before_its_run_started(
    drive: Drive, home: Home, find_run: FindRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home screen may list the run before the command that starts it has ended. A key that is pressed in between
    takes effect once the command has ended.
    """
    start_may_end = asyncio.Event()

    async def start_slowly(*_: Any, **__: Any) -> CommandResult:
        await start_may_end.wait()
        return CommandResult(0, json.dumps({"run": find_run(home, "first")}), "")

    monkeypatch.setattr(CommandRunner, "run", start_slowly)

    async def flow(driver: Any) -> None:
        await driver.wait_for("Tour 1/9")
        await driver.press("f9")
        await driver.wait_for("Tour 1/9", "The run is starting")
        start_may_end.set()
        await driver.wait_for("Tour 2/9", "24 of 24")
        await driver.press("f8")
        await driver.wait_for("Tour 1/9")

    drive(home, flow, size=(120, 40), app=TourApp)
