"""Keys: the user's keymap, jump mode, copy mode, notes in the user's editor, and the keys in the footer."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from textual.binding import Binding
from textual.widgets import Button, Input

from nanoflux_local.errors import ConfigError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.command import tui
from nanoflux_tui.keymap import ACTIONS, format_keymap, load_keymap
from nanoflux_tui.screens.copy_mode import CopyDialog
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.widgets.key_bar import KeyBar

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]
MISTAKES = {
    '[run]\nexprot = "X"': (2, "unknown action 'exprot' in [run]", "did you mean 'export'?"),
    '# keys\n\n[runs]\nexport = "X"': (3, "unknown section 'runs'", "did you mean 'run'?"),
    '[run]\nexport = "X"\n\nstop = "ctrl+nokey"': (4, "unknown key 'ctrl+nokey'", "ctrl+x"),
    "[run]\nexport = 5": (2, "5 is not a key", "write a key"),
    '[run]\nexport = "s"': (2, "the key 's' already belongs to 'stop'", "choose another key"),
    '[run]\n"export" = "X"\nverify = "X"': (3, "the key 'X' already belongs to 'export'", "choose another key"),
    '\nrun.export = ["x", ""]': (2, "unknown key ''", "name a key"),
}
"""Keymaps with one mistake each; for each keymap, the line of the mistake, the message and the fix."""


@pytest.mark.parametrize("text", MISTAKES)
def test_error_in_a_keymap_names_the_line_and_a_fix(text: str, tmp_path: Path) -> None:
    line, message, fix = MISTAKES[text]
    path = tmp_path / "keymap.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_keymap(path)
    assert raised.value.message.startswith(f"{path}:{line}: {message}")
    assert fix in raised.value.fix


def test_keymap_that_is_not_toml_is_refused_before_the_application_starts(empty_home: Home) -> None:
    empty_home.keymap.write_text("[run]\nexport = X\n")
    with pytest.raises(ConfigError, match=r"keymap\.toml: .*line 2"):
        CliRunner().invoke(tui, ["--home", str(empty_home.root)], catch_exceptions=False)


def test_printed_keymap_lists_every_action_and_can_be_used(empty_home: Home) -> None:
    keymap_text = CliRunner().invoke(tui, ["--home", str(empty_home.root), "--keys"]).output
    assert keymap_text == format_keymap(empty_home.keymap)
    assert "\n[run]\n" in keymap_text and '# pause = "space"' in keymap_text and '# up = ["up", "k"]' in keymap_text
    action_count = sum(len(actions) for actions in ACTIONS.values())
    assert keymap_text.count("\n# ") == action_count + 1, (
        "expected a line for each action, and the second line of prose"
    )
    uncommented_text = keymap_text.replace("\n# ", "\n").replace("\nand remove", "\n# and remove")
    empty_home.keymap.write_text(uncommented_text)
    assert load_keymap(empty_home.keymap)["run.pause"] == "space", (
        "the printed keymap must be valid without its comment signs"
    )


def test_screens_bind_no_key_of_their_table(tmp_path: Path) -> None:
    format_keymap(tmp_path)  # imports every screen, so that `list_subclasses` finds it
    table_keys = set[str]().union(*ACTIONS["table"].values())
    screens = [screen for screen in list_subclasses(BaseScreen) if "WindowTable(" in inspect.getsource(screen)]
    assert len(screens) > 6, "the test finds too few screens with a table"
    for screen in screens:
        keys = {binding.key for binding in Binding.make_bindings(screen.BINDINGS)}
        assert not keys & table_keys, f"{screen.__name__}: its table handles {keys & table_keys} first"


def list_subclasses(parent: type[BaseScreen]) -> list[type[BaseScreen]]:
    """All direct and indirect subclasses of a screen's class."""
    subclasses: list[type[BaseScreen]] = []
    for child in parent.__subclasses__():
        subclasses += [child, *list_subclasses(child)]
    return subclasses


def test_keymap_replaces_the_default_keys(drive: Drive, home: Home, find_run: FindRun) -> None:
    home.keymap.write_text(
        '[run]\nexport = ["X", "f7"]\nproblems = "W"\n[everywhere]\nquit = "ctrl+q"\n[table]\nsort = "z"\n'
    )

    async def flow(driver: Any) -> None:
        await driver.wait_for("first", "second", "z Sort", "^q Quit")
        await driver.press("q", "o", "z")
        await driver.wait_for("state▲")
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_for("24 of 24", "X Export", "press W to see")
        await driver.press("x")
        await driver.pilot.pause()
        assert isinstance(driver.app.screen, RunScreen)
        await driver.press("question_mark")
        await driver.wait_for("X          Export")
        await driver.press("escape", "f7")
        await driver.wait_for("Export the kept examples")

    drive(home, flow, size=(100, 70))


def test_jump_mode_moves_the_focus_to_the_widget_of_the_pressed_letter(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("3")
        await driver.wait_for("train-0123456789ab")
        assert driver.app.focused.id == "trainings"
        await driver.press("ctrl+o")
        await driver.wait_until(lambda: len(driver.app.screen.query("Label")) == 2)
        await driver.press("s")
        await driver.wait_until(lambda: driver.app.focused is not None and driver.app.focused.id == "adapters")
        await driver.press("ctrl+o", "escape")
        await driver.wait_until(lambda: driver.app.focused is not None and driver.app.focused.id == "adapters")
        await driver.press("n")
        await driver.wait_for("Generate examples for domain")
        driver.app.screen.query_one("#name", Input).focus()
        await driver.press("ctrl+o")  # also while a field has the focus
        await driver.wait_until(lambda: type(driver.app.screen).__name__ == "JumpDialog")
        widget_by_letter = driver.app.screen.widget_by_letter
        (preview_letter,) = [
            letter
            for letter, widget in widget_by_letter.items()
            if isinstance(widget, Button) and widget.id == "preview"
        ]
        await driver.press(preview_letter)
        await driver.wait_for("Preview of the run")

    drive(home, flow, size=(80, 24))


def test_copy_mode_copies_a_selection_a_line_or_everything(drive: Drive, home: Home, find_run: FindRun) -> None:
    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_for("24 of 24", "Outcomes of attempts")
        for keys, expected in (
            (("a",), "Latest events"),  # everything
            (("y",), "✓ done"),  # the line of the cursor
            (("shift+right",) * 3 + ("enter",), "✓ d"),  # the selection
        ):
            await driver.press("f6")
            await driver.wait_until(lambda: isinstance(driver.app.screen, CopyDialog))
            await driver.press(*keys)
            await driver.wait_until(lambda: isinstance(driver.app.screen, RunScreen))
            assert expected in driver.app.clipboard
        assert driver.app.clipboard == "✓ d"
        await driver.press("1")
        await driver.wait_for("second")
        await driver.press("f6", "a")
        # The copied text contains the table, but not the top bar with its mark.
        await driver.wait_until(lambda: "second" in driver.app.clipboard and "▞" not in driver.app.clipboard)

    drive(home, flow, size=(80, 24))


def test_notes_on_runs_and_training_runs_are_saved_and_shown(drive: Drive, home: Home, find_run: FindRun) -> None:
    run = find_run(home, "first")

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(run))
        await driver.wait_for("24 of 24")
        await driver.press("m")
        await driver.wait_for(f"Note on {run}")
        await driver.press(*"-too easy", "enter", *"again", "ctrl+s")
        await driver.wait_for("note: -too easy again")
        await driver.press("3")
        await driver.wait_for("train-0123456789ab")
        await driver.press("m", *"good", "ctrl+e")
        await driver.wait_for("an editor cannot be opened here")
        await driver.press("ctrl+s")
        await driver.wait_for("note: good")

    drive(home, flow)
    with LedgerView(home.ledger) as view:
        assert view.note("run", run) == "-too easy\nagain"
        assert view.note("training", "train-0123456789ab") == "good"


def test_note_is_written_in_the_editor_of_the_terminal(terminal: Any, home: Home, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "from the editor" >> "$1"\n')
    editor.chmod(0o700)
    env = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "EDITOR": str(editor), "VISUAL": ""}
    terminal.start([sys.executable, "-m", "nanoflux_tui", "--home", str(home.root)], env)
    terminal.wait_for("train-0123")
    terminal.press("3")
    terminal.wait_for("train loss", "New training")  # the first screen also lists the training run
    terminal.press("m")
    terminal.wait_for("Note on train-0123456789ab")
    terminal.press("C-e")
    terminal.wait_for("from the editor")
    terminal.press("C-s")
    terminal.wait_for("note: from the editor")
    terminal.press("q")


def test_footers_have_at_most_three_lines_and_help_lists_every_key(drive: Drive, home: Home, find_run: FindRun) -> None:
    async def check_height(driver: Any, *texts: str) -> None:
        """Wait for the texts on the screen, and check the height of the footer."""
        await driver.wait_for(*texts)
        bar = driver.app.screen.query_one(KeyBar)
        await driver.wait_until(lambda: "Quit" in bar.render().plain)
        assert bar.size.height <= 3, bar.render().plain

    async def flow(driver: Any) -> None:
        for digit, title in enumerate(("failed", "reason", "dev loss", "Comparison", "This machine", "table1"), 1):
            await driver.press(str(digit))
            await check_height(driver, title)
        await driver.press("1")
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await check_height(driver, "24 of 24", "Side by side", "Verify", "Report", "Copy", "Note", "Later turn")
        titles = {command.title for command in driver.app.get_system_commands(driver.app.screen)}
        assert titles >= {"Verify", "Report", "Copy", "Note", "Later turn"}
        await driver.press("left")
        await check_height(driver, "Live")
        await driver.press("f", "question_mark")
        await driver.wait_for("─ Help")
        await driver.press("pagedown", "pagedown")
        await driver.wait_for("v          Verify", "m          Note")

    drive(home, flow, size=(80, 24))
