"""The screen of an example about documents shows the question's citations below the question."""

import asyncio
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import packages
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.seeds.documents import DocumentsRequest, import_documents
from nanoflux_tui.widgets import bars

GUIDELINES = Path(__file__).parents[2] / "examples" / "guidelines"
SNAPSHOT_FOLDER = Path(__file__).parent / "snapshots"


@pytest.fixture(scope="module")
def document_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a scripted run whose questions are about the documents in examples/guidelines."""
    home = Home(tmp_path_factory.mktemp("citations") / "home").prepare()
    import_documents(home, DocumentsRequest("documents", [GUIDELINES]))
    config = configs.resolve("documents", "scripted", {"target": 2, "max_turns": 20, "concurrency": 1}, home)

    async def generate() -> None:
        await runs.execute(home, await runs.start(home, config, "rules"))

    with pytest.MonkeyPatch.context() as monkeypatch:  # the run gets a fixed id, which the snapshots show
        monkeypatch.setattr("nanoflux_local.run.runs.secrets.token_hex", lambda _: "00000001")
        asyncio.run(generate())
    return home


@pytest.mark.skipif(
    version("textual") != packages.load_tested_versions()["textual"],
    reason="another version of Textual renders differently",
)
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
def test_example_screen_shows_citations(
    drive: Callable[..., None], document_home: Home, size: tuple[int, int], tmp_path: Path, monkeypatch
) -> None:
    original_init = bars.TopBar.__init__
    # The top bar shows the home directory, which is a different temporary directory in each run of the tests.
    monkeypatch.setattr(bars.TopBar, "__init__", lambda bar, mode, _home: original_init(bar, mode, "~/nanoflux"))
    snapshot = SNAPSHOT_FOLDER / f"citations-{size[0]}x{size[1]}-dark.svg.gz"

    async def flow(driver: Any) -> None:
        await driver.press("2")
        await driver.wait_for("2 examples")
        await driver.press("enter")
        await driver.wait_for("example 1 of 2", "Citations", "Which word ends")
        assert re.search(r"│ [a-z-]+\.(md|txt|html|docx|pdf), ", driver.text)
        assert await driver.match_snapshot(snapshot, tmp_path), f"the screen differs from the snapshot; see {tmp_path}"

    drive(document_home, flow, size=size)
