"""Runs whose seeds are passages of documents: their examples have citations, which are shown and exported."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.examples.export import export
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.run.attempts import load_calls
from nanoflux_local.run.binding import build_rules
from nanoflux_local.seeds.documents import DocumentsRequest, import_documents
from nanoflux_local.transcript import Attack, Attempt
from tests.executed_runs import execute_run, read_digest

MACHINES = ("pump", "valve", "tank", "filter", "meter", "hose", "boiler", "mixer")
SETTINGS = {"max_turns": 80, "target": 30, "seed": 2, "retries": {"parse": 0}, "novelty": {"question": 0.97}}
"""The settings of a run on the documents. The novelty threshold is high because the scripted attacker's questions
resemble one another.
"""


def write_rules(folder: Path) -> Path:
    """Write a document for each machine, alternately in HTML and Markdown, with two headings and one rule below each.
    Returns the folder.
    """
    folder.mkdir()
    for number, subject in enumerate(MACHINES):
        cleaning_rule = (
            f"The {subject} is cleaned with {number + 2} litres of water before the early shift takes over the hall."
        )
        repair_rule = (
            f"Whoever repairs the {subject} informs team {number} and waits {number + 7} minutes for the call."
        )
        markdown = f"# Cleaning\n{cleaning_rule}\n# Repair\n{repair_rule}\n"
        html = f"<title>Rules</title><h1>Cleaning</h1><p>{cleaning_rule}</p><h1>Repair</h1><p>{repair_rule}</p>"
        if number % 2:
            (folder / f"{subject}.md").write_text(markdown)
        else:
            (folder / f"{subject}.html").write_text(html)
    return folder


def complete_run(home: Home, concurrency: int, **settings: object) -> str:
    """Start a run on the documents, complete it, and return its id."""
    config = configs.resolve("documents", "scripted", {**SETTINGS, **settings, "concurrency": concurrency}, home)
    return execute_run(home, config)


@pytest.fixture(scope="module")
def document_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A home with a completed run on the documents, and the run's id."""
    folder = tmp_path_factory.mktemp("documents")
    home = Home(folder / "home").prepare()
    import_documents(home, DocumentsRequest("documents", [write_rules(folder / "rules")]))
    return home, complete_run(home, concurrency=1)


def read_attempts(home: Home, run: str) -> list[Attempt]:
    """All attempts of a run."""
    with LedgerView(home.ledger) as view:
        return [attempt for record in view.turn_records(run) for attempt in record.attempts]


def read_kept_attempts(home: Home, run: str) -> list[Attempt]:
    """The attempts whose question was kept."""
    return [attempt for attempt in read_attempts(home, run) if attempt.outcome.startswith("kept")]


def test_document_run_rejects_false_citations_before_the_judge_is_asked(document_run: tuple[Home, str]) -> None:
    attempts = read_attempts(*document_run)
    for attempt in attempts:
        finding = attempt.finding("cited")
        if finding is not None and finding.conclusion == "contradicts":
            assert attempt.outcome == "invalid"
            assert attempt.validation.asked == 0, "the judge was asked"
    findings = [finding for attempt in attempts if attempt.validation for finding in attempt.validation.findings]
    reasons = [finding.reason for finding in findings if finding.conclusion == "contradicts"]
    for beginning in ("no passage says 'Nobody says that", "a single passage is cited", "unsupported: "):
        assert any(reason.startswith(beginning) for reason in reasons), beginning


def test_document_examples_cite_several_passages(document_run: tuple[Home, str]) -> None:
    home, run = document_run
    kept_attempts = read_kept_attempts(home, run)
    assert len(kept_attempts) == SETTINGS["target"]
    with LedgerView(home.ledger) as view:
        passages = {(item.source, item.place): item.question for item in view.items("documents", "train")}
    for attempt in kept_attempts:
        places = {(citation.source, citation.place) for citation in attempt.citations}
        assert len(places) >= 2 and places <= set(passages)
        assert all(citation.quotation in passages[citation.source, citation.place] for citation in attempt.citations)
        assert attempt.finding("open_book").conclusion == "supports"


def test_model_calls_of_a_document_run_are_assigned_to_steps(document_run: tuple[Home, str]) -> None:
    home, run = document_run
    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
        turns = [record.number for record in view.turn_records(run)]
        calls = [call for turn in turns for call in load_calls(home, view, row, turn)]
    model_calls = [call for call in calls if call.kind == "chat"]
    assert {call.step for call in model_calls} >= {"attack", "validation", "grounded", "open_book", "defence"}
    assert [call.request for call in model_calls if not call.step] == []


def test_multiple_choice_document_run_keeps_examples(document_run: tuple[Home, str]) -> None:
    home, _ = document_run
    config = configs.resolve("documents-choice", "scripted", {**SETTINGS, "target": 3, "concurrency": 1}, home)
    run = execute_run(home, config)
    kept_attempts = read_kept_attempts(home, run)
    assert len(kept_attempts) == 3 and {attempt.attack.answer for attempt in kept_attempts} <= set("ABCD")
    assert "supports" in {attempt.finding("open_book").conclusion for attempt in kept_attempts}
    assert all(len(attempt.citations) >= 2 for attempt in kept_attempts)


def test_document_run_digest_does_not_depend_on_concurrency(document_run: tuple[Home, str], tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    import_documents(home, DocumentsRequest("documents", [write_rules(tmp_path / "rules")]))
    assert read_digest(home, complete_run(home, concurrency=8)) == read_digest(*document_run)


def test_document_run_rejects_a_question_that_repeats_a_held_out_passage(document_run: tuple[Home, str]) -> None:
    home, run = document_run
    config, identities, _ = runs.load_run(home, run)
    assert config.held_out == ("documents",)
    with LedgerView(home.ledger) as view:
        passage = view.items("documents", "test")[0]
    held_out = build_rules(config, identities, home).held_out
    attack = Attack(f"A visitor asks. {passage.question}", "S", "A")
    assert held_out.find_repeat(attack, np.zeros(64, dtype=np.float32), 0.9).startswith(f"repeats {passage.id}: ")


def test_document_run_replays_and_verifies(document_run: tuple[Home, str]) -> None:
    home, run = document_run
    assert asyncio.run(runs.replay(home, run)).same
    with LedgerView(home.ledger) as view:
        assert list(verify_run(view, run)) == []


def test_proven_rules_use_the_checks_of_documents(document_run: tuple[Home, str]) -> None:
    """Without its passages a question has no answer, so `blind` and `answerable` would reject everything."""
    home, _ = document_run
    new_config = configs.resolve("documents", "scripted", {"rules": "proven"}, home)
    default_config = configs.resolve("documents", "scripted", {}, home)
    derived_config = configs.derive_config(default_config, {"rules": "proven"}, home)
    for config in (new_config, derived_config):
        assert (config.judge.checks, config.keep) == (("cited", "grounded", "open_book"), "confirmed")
    proven_run = complete_run(home, concurrency=1, rules="proven", target=2)
    kept_attempts = read_kept_attempts(home, proven_run)
    assert kept_attempts
    assert all(attempt.finding("open_book").conclusion == "supports" for attempt in kept_attempts)


def test_citations_are_shown_and_exported(document_run: tuple[Home, str], tmp_path: Path, monkeypatch, capsys) -> None:
    home, run = document_run
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    with LedgerView(home.ledger) as view:
        example_id = view.row("SELECT id FROM examples WHERE run = ? ORDER BY turn", run)["id"]
    outputs = []
    for options in ((), ("--json",)):
        with pytest.raises(SystemExit) as exit_info:
            main(["examples", "show", example_id, *options])
        assert not exit_info.value.code, "the command failed"
        outputs.append(capsys.readouterr().out)
    text, json_text = outputs
    citations = json.loads(json_text)["citations"]
    assert len(citations) == 2 and set(citations[0]) == {"source", "place", "quotation"}
    first = citations[0]
    assert f'Citations:\n{first["source"]}, {first["place"]}: "{first["quotation"]}"\n' in text
    assert "Open-book check: supports." in text and "with the passages, agrees" in text

    for kind in ("chat", "prompt-completion", "alpaca"):
        export(home, run, kind, tmp_path / f"{kind}.jsonl")
        rows = [json.loads(line) for line in (tmp_path / f"{kind}.jsonl").read_text().splitlines()]
        assert rows[0]["citations"] == citations and all(len(row["citations"]) >= 2 for row in rows)
    export(home, run, "parquet", tmp_path / "rows.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()[0]["citations"] == citations


def test_exported_rows_with_citations_can_be_trained_on(document_run: tuple[Home, str], tmp_path: Path) -> None:
    from nanoflux_local.train.rows import read_rows

    export(*document_run, "chat", tmp_path / "rows.jsonl")
    assert len(list(read_rows(tmp_path / "rows.jsonl"))) == SETTINGS["target"]
