"""An excerpt, the ledger inside a bundle, contains everything that belongs to a run, and no text of other runs."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nanoflux_local.bundle import contents
from nanoflux_local.bundle.contents import BundleRequest, gather
from nanoflux_local.errors import LedgerError
from nanoflux_local.ledger import excerpt
from nanoflux_local.ledger.excerpt import ExcerptContents, write_excerpt
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Message

OTHER_TEXT = "a text of the other run"
"""A text that every row of the run `theirs` contains. An excerpt of the run `mine` must not contain it."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with two runs, `mine` and `theirs`. Each has a training run with its adapter, and evaluations of the base
    model, of the tuned model and of an unrelated model.
    """
    home = Home(tmp_path / "home").prepare()
    with Ledger(home.ledger) as ledger:
        for run, adapter, note in (("mine", "a" * 64, "my own"), ("theirs", "b" * 64, OTHER_TEXT)):
            ledger.create_run(run, run, {"domain": "starter", "target": 1, "max_turns": 1, "note": note}, {})
            ledger.create_training(f"t-{run}", run, "base", adapter, {"note": note}, {})
            ledger.add_training_event(f"t-{run}", "step", 1, {"step": 1, "loss": 1.0, "note": note})
            ledger.finish_training(f"t-{run}", "done", adapter, {"note": note})
            (home.adapters / adapter).mkdir(parents=True)
            (home.adapters / adapter / "adapter_model.safetensors").write_text(note)
            for name, model, evaluated_adapter in (
                ("base", "m", ""),
                ("tuned", "m", adapter),
                ("unrelated", f"m-{run}", ""),
            ):
                evaluation = f"e-{run}-{name}"
                ledger.start_evaluation(evaluation, model, evaluated_adapter, f"data-{run}", "test", {"runs": 1})
                identity = Identity("scripted", "m", adapter=evaluated_adapter)
                request = ChatRequest(identity, (Message("user", f"{note} {name}"),))
                call_id, _ = ledger.remember(evaluation, request, ChatReply(note, "stop"))
                ledger.add_evaluation_item(evaluation, 0, "item", call_id, note, "right")
                ledger.finish_evaluation(evaluation, "done", {"note": note})
    return home


def read_column(path: Path, sql: str) -> list[str]:
    """The sorted values of a query with one column."""
    with closing(sqlite3.connect(path)) as ledger:
        return sorted(row[0] for row in ledger.execute(sql))


def test_excerpt_of_a_run_includes_its_trainings_and_evaluations(home: Home, tmp_path: Path) -> None:
    target = tmp_path / "excerpt.db"
    write_excerpt(home.ledger, target, ExcerptContents(["mine"]))
    assert read_column(target, "SELECT id FROM runs") == ["mine"]
    assert read_column(target, "SELECT id FROM trainings") == ["t-mine"]
    assert read_column(target, "SELECT training FROM training_events") == ["t-mine"]
    assert read_column(target, "SELECT id FROM evaluations") == ["e-mine-base", "e-mine-tuned"]
    assert read_column(target, "SELECT evaluation FROM evaluation_items") == ["e-mine-base", "e-mine-tuned"]
    assert len(read_column(target, "SELECT id FROM calls")) == 2
    assert OTHER_TEXT.encode() in home.ledger.read_bytes() and OTHER_TEXT.encode() not in target.read_bytes()
    with closing(sqlite3.connect(target)) as ledger:
        assert ledger.execute("PRAGMA foreign_key_check").fetchall() == []
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_bundle_of_a_run_includes_only_its_adapters(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_write_report", lambda *_: {})  # the runs have no turns to report
    bundle_contents = gather(BundleRequest(runs=("mine",), software=False), home, tmp_path / "scratch")
    adapters = [name for name in bundle_contents.files if name.startswith("home/adapters/")]
    assert adapters == [f"home/adapters/{'a' * 64}/adapter_model.safetensors"]
    assert bundle_contents.description["adapters"] == ["a" * 64] and bundle_contents.description["runs"] == ["mine"]


def test_failed_excerpt_leaves_no_file(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpt, "DELETIONS", "DELETE FROM missing_table;")
    with pytest.raises(LedgerError):
        write_excerpt(home.ledger, tmp_path / "excerpt.db", ExcerptContents(["mine"]))
    assert not list(tmp_path.glob("excerpt*"))
