"""Every room as it looks, at 80x24 and 120x40, dark and light, against pictures that were looked at.

`NANOFLUX_SNAPSHOTS=write` draws them anew: look at each before it is committed. They are SVG, packed by gzip.
"""

import gzip
import json
import os
import sqlite3
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import packages
from nanoflux_local.experiments.results import results
from nanoflux_local.paths import Home
from nanoflux_tui.bridge import Bridge, Ended
from nanoflux_tui.screens.run import RunRoom
from nanoflux_tui.widgets import bars

FOLDER = Path(__file__).parent / "snapshots"
DOCTOR = {"checks": [{"name": "vLLM", "ok": False, "found": "not here", "fix": "make vllm"}]}


@pytest.fixture
def still(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home and an application in which nothing depends on the moment or the machine."""
    with sqlite3.connect(home.ledger) as connection:
        for table, column in (("runs", "updated_at"), ("trainings", "updated_at"), ("evaluations", "updated_at"),
                              ("experiments", "updated_at"), ("turns", "at")):  # fmt: skip
            connection.execute(f"UPDATE {table} SET {column} = '2026-01-02T03:04:' || printf('%02d', rowid % 60)")
        connection.execute("UPDATE runs SET seconds = 90")
        connection.execute("UPDATE calls SET seconds = 0.5")
    connection.close()
    monkeypatch.setattr("nanoflux_tui.screens.home.ago", lambda _: "5 min")
    monkeypatch.setattr("nanoflux_tui.screens.models._gpus", lambda: [["NVIDIA A100", "20480", "40960", "87"]])
    ours = bars.TopBar.__init__
    monkeypatch.setattr(bars.TopBar, "__init__", lambda bar, mode, _: ours(bar, mode, "~/nanoflux"))

    monkeypatch.setattr("nanoflux_tui.screens.experiments.ago", lambda _: "5 min")

    async def asked(_: Bridge, *words: str, **__: Any) -> Ended:
        found = results(home, words[2]) if words[:2] == ("experiment", "show") else DOCTOR
        return Ended(0, json.dumps(found), "")

    monkeypatch.setattr(Bridge, "do", asked)
    return home


@pytest.mark.skipif(
    version("textual") != packages.tested_versions()["textual"], reason="another textual draws other pictures"
)
@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_every_room_looks_as_it_did(
    sit: Callable[..., None], still: Home, size: tuple[int, int], light: bool, tmp_path: Path,
    run_named: Callable[[Home, str], str],
) -> None:  # fmt: skip
    run, changed = run_named(still, "first"), list[str]()

    async def flow(seat: Any) -> None:
        async def picture(name: str, *seen: str) -> None:
            await seat.sees(*seen)
            await seat.until(lambda: not seat.app.screen.query("Footer") or seat.app.screen.query("FooterKey"))
            drawn, before = seat.app.export_screenshot(title="NanoFlux"), ""
            while drawn != before:  # until it has come to rest
                await seat.pilot.pause(0.3)
                drawn, before = seat.app.export_screenshot(title="NanoFlux"), drawn
            kept = FOLDER / f"{name}-{size[0]}x{size[1]}-{'light' if light else 'dark'}.svg.gz"
            if os.environ.get("NANOFLUX_SNAPSHOTS") == "write":
                FOLDER.mkdir(exist_ok=True)
                kept.write_bytes(gzip.compress(drawn.encode(), mtime=0))
            elif not kept.is_file() or gzip.decompress(kept.read_bytes()).decode() != drawn:
                changed.append(kept.name)
                (tmp_path / kept.name.removesuffix(".gz")).write_text(drawn)

        await picture("home", "first", "second", "train-0123")
        await seat.press("question_mark")
        await picture("help", "Everywhere")
        await seat.press("escape", "n")
        await picture("new-run", "it can be played", "make vllm")
        await seat.press("escape")
        seat.app.push_screen(RunRoom(run))
        await picture("run", "24 of 24", "the judge found it invalid")
        await seat.press("2")
        await picture("examples", "36 examples", "▸    11")
        await seat.press("enter")
        await picture("example", "example 1 of 36", "defends")
        await seat.press("3")
        await picture("training", "30/40", "dev loss")
        await seat.press("4", "end", "space")
        await picture("evaluation", "35.0% – 70.0%", "✓")
        await seat.press("5")
        await picture("models", "smollm2-135m", "A100")
        await seat.press("6")
        await picture("experiments", "table1", "failed", "quality")
        await seat.press("enter")
        await picture("experiment", "the model as it is", "item-01")

    sit(still, flow, size=size, light=light)
    assert not changed, f"these look different now, see {tmp_path}: {changed}"
