"""Merging a bundle adds its runs, reviews, training runs and evaluations to a home, and overwrites nothing."""

import asyncio
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nanoflux_local.adapters.store import read_adapter, store_new_adapter
from nanoflux_local.bundle.contents import BundleRequest, gather
from nanoflux_local.bundle.merging import merge_bundle
from nanoflux_local.bundle.writer import write_bundle
from nanoflux_local.errors import DataError, NothingMatchedError, RefusedError
from nanoflux_local.ledger import merging
from nanoflux_local.ledger.earlier_questions import freeze_questions
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, Identity, Message
from nanoflux_local.run import configs, runs
from nanoflux_local.transcript import Seed


def run_scripted(home: Home, name: str, seed: int, **settings: object) -> str:
    """Execute a small scripted run to its end, and return its id."""
    run_settings = {"seeds": {"min": 2}, "max_turns": 6, "seed": seed, **settings}
    config = configs.resolve("starter-genetics", "scripted", run_settings, home)

    async def generate_run() -> str:
        run = await runs.start(home, config, name)
        await runs.execute(home, run)
        return run

    return asyncio.run(generate_run())


def add_adapter(home: Home, run: str, weights: bytes) -> str:
    """Store an adapter, and record that it was trained on `run` and evaluated. Returns the adapter's hash."""
    source = home.root / "source"
    source.mkdir()
    (source / "adapter_config.json").write_text("{}")
    (source / "adapter_model.safetensors").write_bytes(weights)
    record = {"schema": 1, "base": {"name": "base", "revision": ""}, "imported": {"name": "mine", "base_hint": ""},
              "settings": {"r": 8, "alpha": 32.0, "dropout": 0.0}, "versions": {}}  # fmt: skip
    home.adapters.mkdir(exist_ok=True)
    adapter = store_new_adapter(source, home.adapters, record, lambda _: "card").name
    (home.adapters / adapter / "probe.json").write_text('{"passed": true, "verdict": "it works", "at": "today"}')
    with Ledger(home.ledger) as ledger:
        training = f"train-{run}"
        ledger.create_training(training, run, "base", "data", {"epochs": 1}, {})
        ledger.add_training_event(training, "step", 1, {"step": 1, "loss": 1.0})
        ledger.finish_training(training, "done", adapter, {})
        rows_file = home.root / "trainings" / training / "train.jsonl"
        rows_file.parent.mkdir(parents=True)
        rows_file.write_text('{"id": "turn-0"}\n')
        ledger.start_evaluation(f"e-{run}", "base", adapter, "starter", "test", {"runs": 1})
        request = ChatRequest(Identity("scripted", "base", adapter=adapter), (Message("user", "2 + 2?"),))
        call_id, _ = ledger.remember(f"e-{run}", request, ChatReply("4", "stop", seconds=0.5))
        ledger.add_evaluation_item(f"e-{run}", 0, "item", call_id, "4", "right")
        ledger.finish_evaluation(f"e-{run}", "done", {})
    return adapter


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a reviewed run, an adapter that was trained on the run, and an evaluation of the adapter."""
    home = Home(tmp_path_factory.mktemp("lab") / "home").prepare()
    run = run_scripted(home, "lab", 7)
    with Ledger(home.ledger) as ledger:
        ledger.add_reviews(run, [(0, 0, "keep", "clear")], "ada", blind=False)
    add_adapter(home, run, b"lab")
    return home


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Path]:
    """A function that creates a bundle of a home: `pack(home)` includes every run, adapter and evaluation, and
    `pack(home, adapters=…)` only the named contents.
    """

    def write_home_bundle(home: Home, **requested_contents: object) -> Path:
        number = len(list(tmp_path.glob("*.pyz")))
        if not requested_contents:
            requested_contents = {"work": True}
        request = BundleRequest(software=False, **requested_contents)
        contents = gather(request, home, tmp_path / f"scratch-{number}")
        return write_bundle(tmp_path / f"{number}.pyz", contents.files, contents.description, 1 << 30).path

    return write_home_bundle


@pytest.fixture
def office(tmp_path: Path) -> Home:
    """A second home, with a different run."""
    home = Home(tmp_path / "office").prepare()
    run_scripted(home, "office", 8)
    return home


def read_column(home: Home, sql: str) -> list[object]:
    """The values of a query with one column on the ledger of a home."""
    with closing(sqlite3.connect(home.ledger)) as ledger:
        return [row[0] for row in ledger.execute(sql)]


def find_problems(home: Home) -> list[str]:
    """The problems that `verify_run` finds in any run of a home."""
    runs = read_column(home, "SELECT id FROM runs")
    with LedgerView(home.ledger) as view:
        return [problem for run in runs for problem in verify_run(view, str(run))]


def digest_rows(home: Home) -> dict[str, str]:
    """The hash of the rows of each table, by table."""
    with closing(sqlite3.connect(home.ledger)) as ledger:
        tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows_by_table = {table: ledger.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    return {table: hashlib.sha256(repr(rows).encode()).hexdigest() for table, rows in rows_by_table.items()}


def run_command(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `nanoflux` in a separate process, with `home` as its home."""
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home.root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_merge_adds_runs_with_their_results_in_both_directions(
    lab: Home, office: Home, pack: Callable[..., Path]
) -> None:
    office_runs = read_column(office, "SELECT id FROM runs")
    result = run_command(office, "bundle", "merge", str(pack(lab)), "--json")
    assert result.returncode == 0, result.stderr
    (run,) = read_column(lab, "SELECT id FROM runs")
    added = json.loads(result.stdout)["added"]
    (adapter,) = added["adapter"]
    assert (added["run"], added["training"], added["evaluation"]) == ([run], [f"train-{run}"], [f"e-{run}"])
    assert set(read_column(office, "SELECT id FROM runs")) == {*office_runs, run} and find_problems(office) == []
    assert read_column(office, "SELECT note FROM reviews") == ["clear"]
    assert (office.root / "trainings" / f"train-{run}" / "train.jsonl").is_file()
    event_query = "SELECT event FROM training_events"
    assert read_column(office, event_query) == read_column(lab, event_query)
    merged_adapter = read_adapter(office.adapters / adapter)
    assert merged_adapter.probe is None, "the probe was merged, although its result is valid on one machine only"
    with LedgerView(lab.ledger) as lab_view, LedgerView(office.ledger) as office_view:
        assert office_view.summarize_run(str(run)) == lab_view.summarize_run(str(run))
    assert run_command(office, "run", "replay", str(run)).returncode == 0
    lab_copy = Home(lab.root.parent / "copy")
    shutil.copytree(lab.root, lab_copy.root)
    merge = merge_bundle(pack(office), lab_copy)
    assert merge.added["run"] == office_runs and merge.present["run"] == [run] and find_problems(lab_copy) == []


def test_repeated_merge_adds_only_later_reviews(lab: Home, office: Home, pack: Callable[..., Path]) -> None:
    merge_bundle(pack(lab), office)
    digests_before = digest_rows(office)
    repeated = merge_bundle(pack(lab), office)
    assert repeated.added == {} and repeated.conflicts == [] and digest_rows(office) == digests_before
    reviewed_home = Home(lab.root.parent / "reviewed")
    shutil.copytree(lab.root, reviewed_home.root)
    (run,) = read_column(lab, "SELECT id FROM runs")
    with Ledger(reviewed_home.ledger) as ledger:
        ledger.add_reviews(str(run), [(0, 0, "drop", "wrong")], "bo", blind=True)
    assert merge_bundle(pack(reviewed_home), office).added == {"review": [f"{run} turn 0"]}
    assert read_column(office, "SELECT reviewer FROM reviews ORDER BY id") == ["ada", "bo"]


def test_conflicting_run_stops_the_merge_unless_conflicts_are_skipped(
    lab: Home, office: Home, pack: Callable[..., Path]
) -> None:
    bundle = pack(lab)
    (run,) = read_column(lab, "SELECT id FROM runs")
    with Ledger(office.ledger) as ledger:
        ledger.create_run(str(run), "other", {"domain": "starter", "target": 1, "max_turns": 1}, {})
    digests_before = digest_rows(office)
    refusal = run_command(office, "bundle", "merge", str(bundle))
    assert refusal.returncode == 3
    assert f"run {run}: this home has a run with the same id but different settings" in refusal.stderr
    assert digest_rows(office) == digests_before and not office.adapters.exists()
    assert not list(office.root.glob(".merge-*"))
    partial_merge = run_command(office, "bundle", "merge", str(bundle), "--skip-conflicts")
    assert partial_merge.returncode == 0 and f"left out: run {run}" in partial_merge.stderr
    assert read_column(office, "SELECT id FROM evaluations") == [f"e-{run}"]
    assert read_column(office, f"SELECT count(*) FROM turns WHERE run = '{run}'") == [0]


def test_merged_run_shares_the_calls_of_an_equal_run(tmp_path: Path, pack: Callable[..., Path]) -> None:
    target = Home(tmp_path / "target").prepare()
    origin = Home(tmp_path / "origin").prepare()
    target_run = run_scripted(target, "same", 7)
    origin_run = run_scripted(origin, "same", 7)
    call_count = read_column(target, "SELECT count(*) FROM calls")
    merge = merge_bundle(pack(origin), target)
    assert merge.added["run"] == [origin_run] and read_column(target, "SELECT count(*) FROM calls") == call_count
    assert find_problems(target) == []
    with LedgerView(target.ledger) as view:
        assert view.examples(target_run) == view.examples(origin_run)


def test_run_with_different_replies_to_equal_requests_is_a_conflict(tmp_path: Path, pack: Callable[..., Path]) -> None:
    target = Home(tmp_path / "target").prepare()
    origin = Home(tmp_path / "origin").prepare()
    for home in (target, origin):
        run_scripted(home, "same", 7)
    with Ledger(target.ledger) as ledger, ledger.transaction() as connection:
        call_query = "SELECT min(call) FROM turn_calls"
        connection.execute(f"UPDATE calls SET reply = json_set(reply, '$.text', 'other') WHERE id = ({call_query})")
    with pytest.raises(RefusedError, match="1 of its calls has a different reply in this home"):
        merge_bundle(pack(origin), target)


def test_evaluation_with_a_different_mark_is_a_conflict(lab: Home, office: Home, pack: Callable[..., Path]) -> None:
    bundle = pack(lab)
    merge_bundle(bundle, office)
    with Ledger(office.ledger) as ledger, ledger.transaction() as connection:
        connection.execute("UPDATE evaluation_items SET verdict = 'wrong'")
    with pytest.raises(RefusedError, match="1 of its marks differs from those in this home"):
        merge_bundle(bundle, office)


def test_bundle_of_a_run_includes_its_novel_against_runs(tmp_path: Path, pack: Callable[..., Path]) -> None:
    origin = Home(tmp_path / "origin").prepare()
    target = Home(tmp_path / "target").prepare()
    earlier_run = run_scripted(origin, "first", 7)
    with LedgerView(origin.ledger) as view:
        frozen_questions = {
            run: questions.model_dump() for run, questions in freeze_questions(view, ("first",)).items()
        }
    later_run = run_scripted(origin, "second", 8, novel_against=frozen_questions)
    run_scripted(origin, "other", 9)
    bundle_contents = gather(BundleRequest(runs=("second",), software=False), origin, tmp_path / "scratch")
    assert set(bundle_contents.description["runs"]) == {earlier_run, later_run}
    bundle = write_bundle(tmp_path / "second.pyz", bundle_contents.files, bundle_contents.description, 1 << 30).path
    assert set(merge_bundle(bundle, target).added["run"]) == {earlier_run, later_run}
    assert find_problems(target) == []


def test_bundle_without_a_home_is_not_merged(office: Home, forge_bundle: Callable[..., Path]) -> None:
    bundle = forge_bundle([(tarfile.TarInfo("docs/index.md"), b"x")], {"docs/index.md": b"x"})
    with pytest.raises(NothingMatchedError, match="contains no runs"):
        merge_bundle(bundle, office)


def test_damaged_bundle_is_refused(lab: Home, office: Home, pack: Callable[..., Path]) -> None:
    bundle = pack(lab)
    digests_before = digest_rows(office)
    part = bundle.with_name(f"{bundle.name}.001")
    part.write_bytes(part.read_bytes()[:-1])
    refusal = run_command(office, "bundle", "merge", str(bundle))
    assert refusal.returncode == 1 and part.name in refusal.stderr and "Traceback" not in refusal.stderr
    assert digest_rows(office) == digests_before


def test_dataset_with_different_items_is_merged_as_a_separate_version(
    tmp_path: Path, lab: Home, pack: Callable[..., Path]
) -> None:
    origin = Home(tmp_path / "origin")
    target = Home(tmp_path / "target").prepare()
    shutil.copytree(lab.root, origin.root)
    for home, question in ((origin, "How many are 2 and 3?"), (target, "How many are 4 and 5?")):
        with Ledger(home.ledger) as ledger:
            item = Seed("ours-1", "ours", question, "5")
            ledger.import_dataset("ours", "ours.jsonl", question, [(item, "train")], 0)
    bundle = pack(origin, work=True, datasets=("ours",))
    (version,) = merge_bundle(bundle, target).added["dataset"]
    assert version.startswith("ours@") and merge_bundle(bundle, target).present["dataset"] == [version]
    with LedgerView(target.ledger) as view:
        (run,) = read_column(origin, "SELECT id FROM runs")
        assert view.pinned_versions(str(run)) == {"ours": version}
        assert view.items("ours", "train")[0].question == "How many are 4 and 5?"
        assert view.items(version, "train")[0].question == "How many are 2 and 3?"


def test_bundle_with_an_altered_run_or_unexpected_file_is_refused(
    tmp_path: Path, lab: Home, office: Home, pack: Callable[..., Path], forge_bundle: Callable[..., Path]
) -> None:
    changed_home = Home(tmp_path / "changed")
    shutil.copytree(lab.root, changed_home.root)
    with closing(sqlite3.connect(changed_home.ledger)) as ledger, ledger:
        ledger.execute("UPDATE turns SET record = replace(record, 'a', 'e') WHERE number = 0")
    digests_before = digest_rows(office)
    with pytest.raises(DataError, match="does not match its hashes: turn 0"):
        merge_bundle(pack(changed_home), office)
    lock_path = "home/locks/run.lock"
    with pytest.raises(RefusedError, match="locks"):
        merge_bundle(forge_bundle([(tarfile.TarInfo(lock_path), b"x")], {lock_path: b"x"}), office)
    assert digest_rows(office) == digests_before


def test_adapter_is_bundled_with_its_training_and_evaluation(
    lab: Home, tmp_path: Path, pack: Callable[..., Path]
) -> None:
    (run,) = read_column(lab, "SELECT id FROM runs")
    adapter_target = Home(tmp_path / "adapter").prepare()
    added = merge_bundle(pack(lab, adapters=("mine",)), adapter_target).added
    assert set(added) == {"adapter", "training", "training rows", "evaluation"} and added["evaluation"] == [f"e-{run}"]
    evaluation_target = Home(tmp_path / "evaluation").prepare()
    added = merge_bundle(pack(lab, evaluations=(f"e-{run}",)), evaluation_target).added
    assert added == {"evaluation": [f"e-{run}"]}


LOCAL_TABLES = {"jobs", "series", "rounds", "experiments", "cells"}
"""The tables of jobs, series and experiments, which belong to one machine. A bundle's ledger has no rows in them."""
PACKING_TABLES = {"packs", "dictionaries"}
"""The tables of compressed calls. A merge decompresses the calls, and inserts them into the table `calls`."""


def test_merge_copies_every_table_of_the_ledger(lab: Home) -> None:
    """Every table must be merged or listed in `LOCAL_TABLES` or `PACKING_TABLES`."""
    with closing(sqlite3.connect(lab.ledger)) as ledger:
        tables = {name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    source = Path(merging.__file__).read_text("utf-8")
    merged_tables = {table for table in tables if f'"{table}"' in source or f"FROM {table} " in source}
    unmerged_tables = {name for name in tables - merged_tables if not name.startswith(("sqlite_", "_sqlite"))}
    assert unmerged_tables == LOCAL_TABLES | PACKING_TABLES
