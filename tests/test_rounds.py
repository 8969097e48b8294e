"""Rounds: the examples of each run train the defender of the next, and a round that does not help on dev items ends the
series.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import jobs
from nanoflux_local.errors import NanofluxError, UsageError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, rounds

TINY_SETTINGS = {"endpoints": {"smollm2": {"model": "tiny"}}, "target": 3, "concurrency": 4, "reply_tokens": 24,
                 "budgets": {"ANALYSIS": 8, "SOLUTION": 8, "ANSWER": 8}}  # fmt: skip
"""Settings of a run with the tiny model as all its chat models, so that three examples take seconds."""
TRAIN_SETTINGS = {"epochs": 1, "batch": 2, "threads": 1, "max_length": 1024}


@pytest.fixture
def home(tmp_path: Path, minilm_dir: Path, tiny_base: Path) -> Home:
    """A home with the embedder and a tiny base model with random weights."""
    from nanoflux_models.weights import import_path

    home = Home(tmp_path / "home").prepare()
    import_path(tiny_base, "tiny", home.root)
    (home.root / "weights" / minilm_dir.name).symlink_to(minilm_dir)
    return home


def make_settings(home: Home, **settings: Any) -> rounds.SeriesSettings:
    """The settings of a series of two rounds, evaluated on two dev items, unless `settings` say otherwise."""
    config = configs.resolve("starter", "embedded", TINY_SETTINGS, home)
    values = {"config": config, "rounds": 2, "dev": "starter", "dev_items": 2, "train": TRAIN_SETTINGS, **settings}
    return rounds.SeriesSettings(**values)


def mark_helpful(home: Home, series: str) -> None:
    """Record that the first round of a series helped. A tiny model with random weights cannot learn enough for that."""
    with Ledger(home.ledger) as ledger, ledger.transaction() as connection:
        (result_json,) = connection.execute("SELECT result FROM rounds WHERE series = ?", (series,)).fetchone()
        changed_json = json.dumps({**json.loads(result_json), "helped": True})
        connection.execute("UPDATE rounds SET result = ? WHERE series = ?", (changed_json, series))


@pytest.mark.real_model
def test_second_round_uses_the_adapter_that_the_first_round_trained(home: Home) -> None:
    series = rounds.create(home, make_settings(home))
    rounds.execute(home, series)
    summary = rounds.summarize_series(home, series)
    (first_round,) = summary.rounds
    assert (summary.status, summary.adapter) == ("done", ""), "an adapter that did not help is used"
    assert "round 1 did not help" in summary.message
    assert first_round.kept == 3 and first_round.helped is False
    assert first_round.after["mean"] <= first_round.before["mean"]
    mark_helpful(home, series)
    rounds.execute(home, series)
    summary = rounds.summarize_series(home, series)
    first_round, second_round = summary.rounds
    assert summary.adapter == first_round.adapter and second_round.kept == 3
    with LedgerView(home.ledger) as view:
        first_config = json.loads(view.find_run(first_round.run)["config"])
        second_config = json.loads(view.find_run(second_round.run)["config"])
        first_questions = {example.question for example in view.examples(first_round.run)}
        second_questions = {example.question for example in view.examples(second_round.run)}
        training_plans = [json.loads(row["plan"]) for row in view.rows("SELECT plan FROM trainings ORDER BY rowid")]
        assert list(verify_run(view, second_round.run)) == []
    assert second_config["seed"] == first_config["seed"] + 1
    assert list(second_config["novel_against"]) == [first_round.run]
    assert second_config["roles"]["defender"]["endpoint"] == "tuned"
    assert second_config["endpoints"]["tuned"]["adapter"] == first_round.adapter
    assert not first_questions & second_questions
    assert training_plans[-1]["source"]["runs"] == [first_round.run, second_round.run]


@pytest.mark.real_model
def test_resumed_series_continues_its_unfinished_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    series = rounds.create(home, make_settings(home, rounds=1))

    def interrupt_after_one_example(step: str, done: int, total: int) -> None:
        if "examples" in step and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounds.execute(home, series, interrupt_after_one_example)
    summary = rounds.summarize_series(home, series)
    assert summary.status == "interrupted" and summary.rounds[0].kept >= 1
    rounds.execute(home, series)
    resumed = rounds.summarize_series(home, series)
    assert resumed.status == "done" and len(resumed.rounds) == 1
    assert resumed.rounds[0].run == summary.rounds[0].run and resumed.rounds[0].kept == 3


@pytest.mark.real_model
def test_pause_of_a_series_drains_its_run(home: Home) -> None:
    settings = make_settings(home)
    sequential_config = settings.config.model_copy(update={"concurrency": 1})
    series = rounds.create(home, settings.model_copy(update={"config": sequential_config}))
    messages: list[str] = []

    def pause_once(step: str, done: int, total: int) -> None:
        if "examples" in step and not messages:
            messages.append(jobs.request_stop(home, jobs.Job(jobs.SERIES, series), "pause"))
            time.sleep(1)  # enough for the worker to read the request: it polls a few times a second

    rounds.execute(home, series, pause_once)
    summary = rounds.summarize_series(home, series)
    assert "drains" in messages[0] and summary.status == "paused"
    assert summary.rounds[0].adapter == ""
    with LedgerView(home.ledger) as view:
        assert view.find_run(summary.rounds[0].run)["status"] == "paused"


def test_series_with_a_scripted_defender_an_unknown_benchmark_or_invalid_training_settings_is_refused(
    home: Home,
) -> None:
    scripted = configs.resolve("starter-genetics", "scripted", {}, home)
    with pytest.raises(UsageError, match="cannot use adapters"):
        rounds.create(home, rounds.SeriesSettings(config=scripted, rounds=1, dev="starter-genetics"))
    with pytest.raises(NanofluxError, match="nowhere"):
        rounds.create(home, make_settings(home).model_copy(update={"dev": "nowhere"}))
    with pytest.raises(NanofluxError, match="epoch"):
        rounds.create(home, make_settings(home).model_copy(update={"train": {"epochs": -1}}))


@pytest.mark.real_model
def test_series_is_found_by_id_prefix_or_as_the_newest_with_a_name(home: Home) -> None:
    series_ids = [rounds.create(home, make_settings(home, name=name)) for name in ("improve", "improve", "")]
    for reference, series in (
        (series_ids[0], series_ids[0]),
        (series_ids[0][:-1], series_ids[0]),
        ("improve", series_ids[1]),
        (series_ids[2], series_ids[2]),
    ):
        assert rounds.summarize_series(home, reference).series == series
    assert [summary.name for summary in rounds.summarize_all_series(home)] == ["", "improve", "improve"]
    with pytest.raises(NanofluxError, match="no series of rounds 'improv'"):
        rounds.summarize_series(home, "improv")
