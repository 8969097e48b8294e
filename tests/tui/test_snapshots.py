"""Every screen equals its reviewed snapshot (an SVG file, compressed with gzip) at 80x24 and 120x40, dark and light.

With `NANOFLUX_SNAPSHOTS=write`, the tests write new snapshots instead of comparing them: view each new snapshot before
you commit it.
"""

import json
import sqlite3
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import packages
from nanoflux_local.experiments.results import load_results
from nanoflux_local.paths import Home
from nanoflux_models.machine import Gauges
from nanoflux_tui.commands import CommandResult, CommandRunner
from nanoflux_tui.screens.endpoints import open_endpoints
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.widgets import bars

SNAPSHOT_FOLDER = Path(__file__).parent / "snapshots"
DOCTOR_REPORT = {"checks": [{"name": "vLLM", "ok": False, "found": "not here", "fix": "make vllm"}]}


@pytest.fixture
def frozen_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose screens do not depend on the time or the machine, and in which the run "first" has a fault. Commands
    are not run: `experiment show` gives the results in the ledger, and any other command gives `DOCTOR_REPORT`.
    """
    with sqlite3.connect(home.ledger) as connection:
        for table, column in (("runs", "updated_at"), ("trainings", "updated_at"), ("evaluations", "updated_at"),
                              ("experiments", "updated_at"), ("turns", "at")):  # fmt: skip
            connection.execute(f"UPDATE {table} SET {column} = '2026-01-02T03:04:' || printf('%02d', rowid % 60)")
        connection.execute("UPDATE runs SET seconds = 90")
        connection.execute("UPDATE calls SET seconds = 0.5")
        connection.execute(
            "INSERT INTO faults (run, role, model, kind, told, raw, tokens, usd, seconds, at) SELECT id, 'judge',"
            " 'arbiter', 'timeout', 'arbiter did not answer within 60 s', '', 0, 0.0, 60.0, '2026-01-02T03:04:05'"
            " FROM runs WHERE name = 'first'"
        )
    connection.close()
    monkeypatch.setattr("nanoflux_tui.screens.home.format_age", lambda _: "5 min")
    monkeypatch.setattr("nanoflux_tui.screens.models._query_gpus", lambda: [["NVIDIA A100", "20480", "40960", "87"]])
    gib = 2**30
    gauges = Gauges(
        busy=0.45, cores=16, memory_used=12 * gib, memory_total=64 * gib, disk_used=700 * gib, disk_total=1000 * gib
    )
    monkeypatch.setattr("nanoflux_models.machine.MachineMeter.read", lambda _: gauges)
    original_init = bars.TopBar.__init__
    # The top bar shows the home directory, which is a different temporary directory in each run of the tests.
    monkeypatch.setattr(bars.TopBar, "__init__", lambda bar, mode, _home: original_init(bar, mode, "~/nanoflux"))
    monkeypatch.setattr("nanoflux_local.endpoints.build.require_weights", lambda *_: None)
    monkeypatch.setattr("nanoflux_tui.screens.experiments.format_age", lambda _: "5 min")

    async def answer_without_running(_: CommandRunner, *arguments: str, **__: Any) -> CommandResult:
        is_experiment = arguments[:2] == ("experiment", "show")
        document = load_results(home, arguments[2]).to_json() if is_experiment else DOCTOR_REPORT
        return CommandResult(0, json.dumps(document), "")

    monkeypatch.setattr(CommandRunner, "run", answer_without_running)
    return home


@pytest.mark.skipif(
    version("textual") != packages.load_tested_versions()["textual"],
    reason="another version of Textual renders differently",
)
@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_screens_match_their_snapshots(
    drive: Callable[..., None], frozen_home: Home, size: tuple[int, int], light: bool, tmp_path: Path,
    find_run: Callable[[Home, str], str],
) -> None:  # fmt: skip
    run, changed_snapshots = find_run(frozen_home, "first"), list[str]()

    async def flow(driver: Any) -> None:
        async def compare(name: str, *texts: str) -> None:
            """Wait for the texts, and compare the screen with the snapshot `name`."""
            await driver.wait_for(*texts)
            await driver.wait_until(lambda: not driver.app.screen.query("AgeBar.shown"))
            snapshot = SNAPSHOT_FOLDER / f"{name}-{size[0]}x{size[1]}-{'light' if light else 'dark'}.svg.gz"
            if not await driver.match_snapshot(snapshot, tmp_path):
                changed_snapshots.append(snapshot.name)

        await compare("home", "first", "second", "train-0123")
        await driver.press("question_mark")
        await compare("help", "Everywhere")
        await driver.press("escape", "slash", *"genetics", "enter", "o", "o", "o")
        await compare("table", "filter", "3 of 6", "name▲")
        await driver.press("ctrl+o")
        await compare("jump", "a")
        await driver.press("escape", "escape", "n")
        await compare("new-run", "Ready to start", "make vllm")
        open_endpoints(driver.app.screen, "hosted", "starter")
        await driver.wait_for("my-hosted", "key variable")
        driver.app.screen.query_one("#save").focus()  # not a field, whose cursor would blink
        await compare("endpoints", "my-hosted", "key variable")
        await driver.press("escape", "escape")
        driver.app.push_screen(RunScreen(run))
        await compare("run", "24 of 24", "question invalid", "1 fault")
        await driver.press("m")
        await compare("note", "Note on", "Editor")
        await driver.press("escape", "f6")
        await compare("copy", "Outcomes of attempts", "Esc closes.")
        await driver.press("escape")
        await driver.press("left", "left")
        await compare("run-history", "As of turn", "f Live")
        await driver.press("f", "w")
        await compare("problems", "did not answer within 60 s")
        await driver.press("escape", "a")
        await compare("attempts", "attempts of", "attempt", "too similar")
        await driver.press("enter")
        await compare("attempt", "turn 0, attempt 0", "seeds:")
        await driver.press("c")
        await compare("calls", "turn 0, attempt 0:", "attacker", "Request")
        await driver.press("escape", "escape", "escape", "b")
        await compare("choice", "Show this run next to", "second")
        await driver.press("enter")
        await compare("side-by-side", "kept examples", "first (starter", "Figures")
        await driver.press("2")
        await compare("examples", "36 examples", "▸    11")
        await driver.press("enter")
        await compare("example", "example 1 of 36", "defends")
        await driver.press("escape", "w")
        await compare("queue", "queue: example 1 of 36", "defends")
        await driver.press("3")
        await compare("training", "30/40", "dev loss")
        await driver.press("4", "end", "space")
        await compare("evaluation", "35.0% – 70.0%", "✓")
        await driver.press("space", "home", "enter")
        await compare("items", "▼ lost", "item-01", "7 gained, 1 lost")
        await driver.press("escape", "5")
        await compare("models", "smollm2-135m", "A100")
        await driver.press("6")
        await compare("experiments", "table1", "failed", "quality")
        await driver.press("enter")
        await compare("experiment", "the model as it is", "item-01")

    drive(frozen_home, flow, size=size, light=light)
    assert not changed_snapshots, f"screens differ from their snapshots; see {tmp_path}: {changed_snapshots}"
