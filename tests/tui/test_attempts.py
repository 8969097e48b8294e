"""The screens that open from the run screen: attempts with their raw calls, problems with their fixes, and the log of
the run's worker.
"""

from collections.abc import Callable
from typing import Any

from nanoflux_local import redaction
from nanoflux_local.jobs import RUN, Job
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Fault
from nanoflux_local.run.attempts import list_attempts
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.widgets.bars import ProblemBar

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]


def test_rejected_attempt_opens_with_its_replies_and_raw_calls(drive: Drive, home: Home, find_run: FindRun) -> None:
    run = find_run(home, "first")
    with LedgerView(home.ledger) as view:
        attempt_count, invalid_keys = len(list_attempts(view, run)), list_attempts(view, run, ["invalid"])
    assert attempt_count > len(invalid_keys) > 1

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(run))
        await driver.wait_for("24 of 24", "Attempts")
        await driver.press("a")
        await driver.wait_for(f"{attempt_count} attempts of")
        await driver.press("r", "r", "r")  # the filters: attack unreadable, too similar, question invalid
        await driver.wait_for(f"{len(invalid_keys)} attempts of", "question invalid")
        await driver.press("enter")
        turn, attempt = invalid_keys[0]
        await driver.wait_for(f"turn {turn}, attempt {attempt}", "✗ no", "The defender was not asked.", "c Raw calls")
        await driver.press("right")
        turn, attempt = invalid_keys[1]
        await driver.wait_for(f"turn {turn}, attempt {attempt}")
        await driver.press("escape", "o", "O")  # sort by turn, the last turn first
        table = driver.app.screen.query_one("WindowTable")
        await driver.wait_until(lambda: list(table.keys) == invalid_keys[::-1])
        await driver.press("home", "enter")
        turn, attempt = invalid_keys[-1]
        await driver.wait_for(f"turn {turn}, attempt {attempt}", f"1 of {len(invalid_keys)}")
        await driver.press("c")
        await driver.wait_for(f"turn {turn}, attempt {attempt}:", "attacker", "validation", "[user]")
        await driver.press("escape", "escape", "escape")
        await driver.wait_for("24 of 24")

    drive(home, flow, size=(80, 24))


def test_problems_of_a_run_are_counted_and_open_with_their_fixes(drive: Drive, home: Home, find_run: FindRun) -> None:
    run = find_run(home, "first")

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(run))
        await driver.wait_for("24 of 24")
        assert "fault" not in driver.text
        with Ledger(home.ledger) as ledger:
            for _ in range(2):
                ledger.add_fault(run, Fault("m", "rate_limited", "m answered 429: slow down"), "judge")
        await driver.wait_for("! 2 faults and ", "press w to see their fixes")
        await driver.press("w")
        await driver.wait_for("✗ fault", "judge m: rate limited, 2 times", "m answered 429", f"run set {run}")
        await driver.press("escape")
        driver.app.screen.query_one(ProblemBar).show_counts(0, 1)
        await driver.wait_for("! 1 warning: press w to see its fix")

    drive(home, flow, size=(80, 24))


def test_log_of_the_worker_is_shown_without_secrets(drive: Drive, home: Home, find_run: FindRun) -> None:
    run = find_run(home, "first")
    log = Job(RUN, run).log(home)

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(run))
        await driver.wait_for("24 of 24")
        await driver.press("l")
        await driver.wait_for("has no log")
        log.parent.mkdir(exist_ok=True)
        log.write_text("waits for the server\nAuthorization: Bearer 0123456789abcdef\n")
        await driver.wait_for("waits for the server", f"Bearer {redaction.MARK}")

    drive(home, flow, size=(80, 24))


def test_one_call_and_one_warning_are_counted_in_the_singular(drive: Drive, home: Home, find_run: FindRun) -> None:
    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(find_run(home, "first")))
        await driver.wait_for("24 of 24", "press w to see")
        driver.app.screen.query_one(ProblemBar).show_counts(0, 1)
        await driver.wait_for("! 1 warning: press w to see its fix")
        await driver.press("a")
        await driver.wait_for("attempts of")
        await driver.press("r")
        await driver.wait_for("attack unreadable")
        await driver.press("enter")
        await driver.wait_for("c Raw calls")
        await driver.press("c")
        await driver.wait_for(": 1 call", "attacker")
        assert "1 calls" not in driver.text

    drive(home, flow, size=(80, 24))
