"""Tables can be filtered, sorted and searched; the key bindings of the review queue, the footer and the command palette
work.
"""

from collections.abc import Callable
from typing import Any

import pytest
from rich.text import Text
from textual import events
from textual.widgets import Input

from nanoflux_local.examples.review import record_review
from nanoflux_local.jobs import EVALUATION, Job, hold_lock
from nanoflux_local.ledger import board
from nanoflux_local.ledger.board import EXAMPLE_ORDERS, ExampleSelection
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.screens.example import ExampleScreen
from nanoflux_tui.screens.examples import ExamplesScreen
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.widgets.arrangement import Arrangement, arrange_keys
from nanoflux_tui.widgets.columns import SortableCell
from nanoflux_tui.widgets.table_line import TableLine
from nanoflux_tui.widgets.window_table import WindowTable

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]
ROWS = [
    ["beta", "12.5%", SortableCell("2 min", 120.0)],
    [Text("Alpha"), "9.0%", SortableCell("90 s", 90.0)],
    ["gamma", "–", SortableCell("–", None)],
]
"""Three rows, whose keys are the first letters of their names: b, a and g."""


@pytest.mark.parametrize(
    ("arrangement", "expected"),
    [
        (Arrangement(), "bag"),
        (Arrangement(words="ALPHA 9"), "a"),
        (Arrangement(words="min beta"), "b"),
        (Arrangement(column=0), "abg"),
        (Arrangement(column=1), "abg"),  # sorted as numbers, not as strings
        (Arrangement(column=1, descending=True), "bag"),  # rows without a value come last
        (Arrangement(column=2), "abg"),
        (Arrangement(column=2, words="a", descending=True), "bag"),
    ],
)
def test_arrangement_filters_and_sorts_rows(arrangement: Arrangement, expected: str) -> None:
    keys = "bag"  # each character is the key of a row
    assert "".join(map(str, arrange_keys(keys, ROWS, arrangement))) == expected


def test_example_selection_filters_and_sorts_in_the_ledger(home: Home) -> None:
    with LedgerView(home.ledger) as view:
        all_keys = list(board.list_example_keys(view, ExampleSelection()))
        first_example = board.load_example_lines(view, all_keys[:1])[all_keys[0]]
    record_review(home, first_example.id, "drop")
    with LedgerView(home.ledger) as view:
        assert list(board.list_example_keys(view, ExampleSelection(review="drop"))) == all_keys[:1]
        assert list(board.list_example_keys(view, ExampleSelection(review="none"))) == all_keys[1:]
        assert board.find_unreviewed(view, all_keys) == all_keys[1]
        assert board.find_unreviewed(view, all_keys[:1]) is None
        for order in EXAMPLE_ORDERS:
            keys = list(board.list_example_keys(view, ExampleSelection(order=order)))
            assert sorted(keys) == sorted(all_keys), order
        keys_by_turn = list(board.list_example_keys(view, ExampleSelection(order="turn", descending=True)))
        line_by_key = board.load_example_lines(view, keys_by_turn)
        turns = [line_by_key[key].turn for key in keys_by_turn]
        assert turns == sorted(turns, reverse=True) and turns != turns[::-1]
        assert board.list_example_keys(view, ExampleSelection(order="review"))[0] == all_keys[0]
    record_review(home, first_example.id, "open")
    with LedgerView(home.ledger) as view:
        assert board.find_unreviewed(view, all_keys) == all_keys[0], "the withdrawn review still counts"


def test_table_is_filtered_sorted_and_searched_from_the_keyboard(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.wait_for("first", "second", "Filter", "Find", "Sort", "Reverse")
        table = driver.app.screen.query_one(WindowTable)
        assert len(table.keys) == 6
        await driver.press("slash", *"genetics second")
        await driver.wait_for("1 of 6")
        await driver.wait_until(lambda: len(table.keys) == 1)
        await driver.press(*" zzz")
        await driver.wait_for("No row matches the filter.", "0 of 6")
        await driver.press("enter")
        await driver.wait_until(lambda: driver.app.focused is table)
        await driver.press("escape")
        await driver.wait_until(lambda: len(table.keys) == 6 and "of 6" not in driver.text)
        await driver.press("ctrl+f", *"first")
        await driver.wait_until(lambda: table.selected_key.kind == "run" and table.cursor == 5)
        await driver.press("escape", "home")
        await driver.wait_until(lambda: driver.app.focused is table)
        await driver.press("o", "o", "o")
        await driver.wait_for("name▲")
        await driver.wait_until(lambda: table.keys[0].kind == "run")
        await driver.press("O")
        await driver.wait_for("name▼")
        await driver.wait_until(lambda: table.keys[0].kind == "training")
        await driver.pilot.click("#board", offset=(4, 0))  # the title of the first column
        await driver.wait_for("state▲")

    drive(home, flow, size=(120, 40))


def test_filter_gets_the_characters_that_were_typed_ahead(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.wait_for("first", "second")
        table = driver.app.screen.query_one(WindowTable)
        await driver.wait_until(lambda: driver.app.focused is table)
        # All keys are posted before the first is handled, as a terminal delivers keys that were typed ahead.
        driver.app.post_message(events.Key("slash", "/"))
        for letter in "seconds":
            driver.app.post_message(events.Key(letter, letter))
        await driver.wait_until(lambda: [field.value for field in driver.app.screen.query(Input)] == ["seconds"])
        await driver.wait_for("0 of 6")
        assert table.sorted_title == "" and len(driver.app.screen_stack) == 1, (
            "a typed character triggered a key binding"
        )

    drive(home, flow)


def test_examples_from_all_runs_have_a_run_column_and_a_review_filter(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("2")
        await driver.wait_for("36 examples from all runs", "run", "second")
        await driver.press("enter")
        await driver.wait_for("example 1 of 36")
        await driver.press("d")
        await driver.wait_for("your review: drop")
        await driver.press("escape", "v")
        await driver.wait_for("35 examples from all runs, no review")
        await driver.press("v", "v")
        await driver.wait_for("1 example from all runs, review: drop")

    drive(home, flow, size=(80, 24))


def test_find_in_examples_also_searches_solutions(drive: Drive, home: Home) -> None:
    with LedgerView(home.ledger) as view:
        rows = list(view.rows("SELECT rowid, solution FROM examples ORDER BY rowid DESC"))
    words = rows[20]["solution"].split(";")[0]  # the table does not show solutions
    first_position = min(position for position, row in enumerate(rows) if words in row["solution"])
    assert first_position > 0, "the cursor would already be at the first example with these words"

    async def flow(driver: Any) -> None:
        await driver.press("2")
        await driver.wait_for("36 examples from all runs")
        table = driver.app.screen.query_one(WindowTable)
        await driver.press("ctrl+f")
        driver.app.screen.query_one(Input).value = words
        await driver.wait_until(lambda: table.cursor == first_position)
        await driver.press(*"zzz")
        await driver.wait_for("no row contains this")
        await driver.press("escape")
        await driver.wait_until(lambda: driver.app.focused is table and len(table.keys) == 36)

    drive(home, flow, size=(80, 24))


def test_review_queue_continues_with_the_next_unreviewed_example(drive: Drive, home: Home, find_run: FindRun) -> None:
    with LedgerView(home.ledger) as view:
        keys = list(board.list_example_keys(view, ExampleSelection(find_run(home, "second"))))
        line_by_key = board.load_example_lines(view, keys)
    for key in keys[1:10]:  # so that the first and the last two of the 12 examples have no review
        record_review(home, line_by_key[key].id, "keep")

    async def flow(driver: Any) -> None:
        driver.app.push_screen(ExamplesScreen(find_run(home, "second")))
        await driver.wait_for("12 examples from ")
        await driver.press("w")
        await driver.wait_for("queue: example 1 of 12")
        await driver.press("d")
        await driver.wait_for("queue: example 11 of 12")
        await driver.press("k")
        await driver.wait_for("queue: example 12 of 12")
        await driver.press("u")
        await driver.wait_until(lambda: "example 11 of 12" in driver.text and "your review" not in driver.text)
        await driver.press("k")
        await driver.wait_for("queue: example 12 of 12")
        await driver.press("f")
        await driver.wait_for("All other examples", "your review: fix")
        await driver.press("escape", "w")
        await driver.wait_for("Every example in this list")

    drive(home, flow, size=(80, 24))


def test_run_and_example_screens_scroll_without_a_change_of_focus(drive: Drive, home: Home, find_run: FindRun) -> None:
    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_for("24 of 24", "Outcomes of attempts")
        parts = driver.app.screen.query_one("#parts")
        await driver.press("down")
        await driver.wait_until(lambda: parts.scroll_y == 1)
        await driver.press("pagedown")
        await driver.wait_until(lambda: parts.scroll_y > 5)
        await driver.press("end")
        await driver.wait_until(lambda: parts.scroll_y == parts.max_scroll_y > 0)
        await driver.wait_for("Latest events")
        await driver.press("2", "enter")
        await driver.wait_until(lambda: isinstance(driver.app.screen, ExampleScreen))
        await driver.wait_for("example 1 of 36", "defends", "← Prev", "→ Next")
        await driver.press("end")
        await driver.wait_for("seeds:")
        await driver.press("right")  # shows the next example instead of scrolling sideways
        await driver.wait_for("example 2 of 36")

    drive(home, flow, size=(80, 24))


def test_run_screen_key_bindings_are_in_the_footer_and_the_command_palette(
    drive: Drive, home: Home, find_run: FindRun
) -> None:
    descriptions = ("Export", "Report", "Verify", "Copy")

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_for("24 of 24", *descriptions)
        titles = [command.title for command in driver.app.get_system_commands(driver.app.screen)]
        assert set(descriptions) <= set(titles)
        await driver.press("ctrl+p")
        await driver.wait_until(lambda: type(driver.app.screen).__name__ == "CommandPalette")
        await driver.press(*"Verify")
        await driver.wait_for("On this screen: v")
        await driver.press("enter")
        await driver.wait_for("Every hash matches.")

    drive(home, flow, size=(80, 24))


def test_click_on_a_key_in_the_footer_presses_it(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.wait_for("⏎ Open / Filter", "n New run")
        await driver.pilot.click("KeyBar", offset=(8, 0))
        await driver.wait_until(lambda: driver.app.screen.query(TableLine))
        await driver.press("escape")
        await driver.wait_until(lambda: not driver.app.screen.query(TableLine) and "n New run" in driver.text)
        await driver.pilot.click("KeyBar", offset=(3, 1))
        await driver.wait_for("Generate examples for domain")

    drive(home, flow, size=(80, 24))


def test_help_text_is_wrapped_at_the_full_width(drive: Drive, home: Home, find_run: FindRun) -> None:
    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_for("24 of 24")
        await driver.press("question_mark")
        await driver.wait_for("Everywhere")
        paragraph = driver.text.split("A live run.")[1].split("On this screen")[0]
        lines = [line.strip(" │") for line in paragraph.splitlines() if line.strip(" │")]
        assert len(lines) > 3
        assert all(len(line) > 50 for line in lines[:-1]), "a line other than the last ends early"

    drive(home, flow, size=(80, 70))


def test_single_example_is_counted_in_the_singular(drive: Drive, home: Home) -> None:
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT question FROM examples WHERE rowid = 3")
    assert row is not None
    question = row["question"]

    async def flow(driver: Any) -> None:
        await driver.press("2")
        await driver.wait_for("36 examples from all runs")
        driver.app.screen.query_one(WindowTable).filter_rows(question)
        await driver.wait_for("1 example from all runs")

    drive(home, flow)


def test_sampling_of_an_evaluation_is_shown_as_text(drive: Drive, home: Home) -> None:
    sampling = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 512, "stop": []}
    with Ledger(home.ledger) as ledger:
        ledger.start_evaluation("cccccccccccc", "m", "", "d", "test", {"n": 1, "runs": 1, "sampling": sampling})

    async def flow(driver: Any) -> None:
        await driver.press("4")
        await driver.wait_for("50.0%")
        await driver.press("home", "enter")
        await driver.wait_for("cccccccccccc")
        await driver.press("d")
        await driver.wait_for("sampling    max tokens 512, temperature 0.7, top p 0.95")
        assert "{" not in driver.text, "the settings are shown as JSON"

    drive(home, flow)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_running_evaluation_shows_its_progress_as_its_state(drive: Drive, home: Home, size: tuple[int, int]) -> None:
    with Ledger(home.ledger) as ledger:
        call = ledger.rows("SELECT min(id) FROM calls")[0][0]
        ledger.start_evaluation("cccccccccccc", "m", "", "d", "test", {"n": 3, "runs": 1})
        ledger.set_status("evaluations", "cccccccccccc", "running")
        for item in range(2):
            ledger.add_evaluation_item("cccccccccccc", 0, f"item-{item}", call, "7", "wrong")

    async def flow(driver: Any) -> None:
        await driver.press("4")
        await driver.wait_for("● running 2/3", "50.0%")
        assert "67%" not in driver.text, "the progress is shown as an accuracy"

    with hold_lock(home, Job(EVALUATION, "cccccccccccc")):
        drive(home, flow, size=size)


def test_pull_of_installed_weights_suggests_to_verify_them(drive: Drive, empty_home: Home, tiny_base: Any) -> None:
    from nanoflux_models.weights import import_path

    import_path(tiny_base, "smollm2-135m", empty_home.root)

    async def flow(driver: Any) -> None:
        await driver.press("5")
        await driver.wait_for("smollm2-135m")
        table = driver.app.screen.query_one("#weights", WindowTable)
        await driver.wait_until(lambda: "smollm2-135m" in table.keys)
        table.cursor = list(table.keys).index("smollm2-135m")
        await driver.press("p")
        await driver.wait_for("The weights of smollm2-135m are installed", "verify them")

    drive(empty_home, flow)
