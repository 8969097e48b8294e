"""Held-out items: no kept example repeats a held-out item, at any concurrency, and each rejected repeat is listed."""

import asyncio
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanoflux_local.cli.overview import MAX_LISTED, show_run
from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.errors import NothingMatchedError, RefusedError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import EmbedReply, Identity
from nanoflux_local.run import binding, configs, runs
from nanoflux_local.run.held_out import PHRASE_WORDS, HeldOut, list_phrases
from nanoflux_local.transcript import Attack, Seed
from tests.executed_runs import execute_run

STORY = "A baker sells 12 trays of 30 rolls each morning and gives 7 rolls to the school next door every single day"
"""A question long enough to contain several phrases of thirteen words."""
ITEMS = [Seed("gsm8k-test-1", "gsm8k", STORY, "353"), Seed("gsm8k-test-2", "gsm8k", "How many?", "1")]
UNUSED_VECTOR = np.array([0, 0, 1], dtype=np.float32)
"""The vector of a question that is compared only by its words, since the items are not embedded."""


def make_attack(question: str, solution: str = "") -> Attack:
    return Attack(question, solution, "1")


async def embed_items(held_out: HeldOut, *vectors: list[float]) -> HeldOut:
    """Give the items these vectors as their embeddings, in order."""
    replies = iter([EmbedReply.of(np.array(vector)) for vector in vectors])

    async def call(request: Any) -> Any:
        return next(replies)

    await held_out.embed(Identity("embedder", "x"), call)
    return held_out


@pytest.mark.parametrize(
    ("question", "solution", "reason"),
    [
        (STORY.upper() + "!", "", "repeats gsm8k-test-1: the same words"),
        (STORY.replace("12", "4,712,003.5"), "", "repeats gsm8k-test-1: the same words"),
        ("how many", "", "repeats gsm8k-test-2: the same words"),
        (f"Ann says: {' '.join(STORY.split()[3:19])}.", "", "repeats gsm8k-test-1: 'trays of rolls each"),
        ("Something else.", f"As in: {STORY}", "repeats gsm8k-test-1: 'a baker sells trays"),
        (f"Ann says: {' '.join(STORY.split()[:12])}.", "", ""),
        ("Something else.", "", ""),
    ],
)
def test_question_with_equal_words_or_a_shared_phrase_of_thirteen_words_repeats_an_item(
    question: str, solution: str, reason: str
) -> None:
    result = HeldOut(ITEMS).find_repeat(make_attack(question, solution), UNUSED_VECTOR, 0.85)
    assert result.startswith(reason) if reason else result == ""


async def test_question_above_the_similarity_threshold_repeats_the_nearest_item() -> None:
    held_out = await embed_items(HeldOut(ITEMS), [1, 0, 0], [1, 0, 0])
    vector = np.array([0.86, np.sqrt(1 - 0.86**2), 0], dtype=np.float32)
    assert held_out.find_repeat(make_attack("Else"), vector, 0.85) == "repeats gsm8k-test-1: similarity 0.86"
    assert held_out.find_repeat(make_attack("Else"), vector, 0.86) == ""


def test_phrases_of_training_items_or_of_several_items_identify_no_item() -> None:
    phrase = "which of the following is the most likely cause of the findings in this patient"
    items = [Seed("medqa-test-1", "medqa", f"A man coughs; {phrase}?", "A")]
    attack = make_attack(f"A woman sneezes; {phrase}?")
    assert "medqa-test-1" in HeldOut(items).find_repeat(attack, UNUSED_VECTOR, 0.85)
    assert HeldOut(items, [f"A child sleeps; {phrase}?"]).find_repeat(attack, UNUSED_VECTOR, 0.85) == ""
    items_sharing_the_phrase = [*items, Seed("medqa-test-2", "medqa", f"A dog limps; {phrase}?", "A")]
    assert HeldOut(items_sharing_the_phrase).find_repeat(attack, UNUSED_VECTOR, 0.85) == ""
    restated_items = [*items, Seed("medqa-test-2", "medqa", f"A man (30) coughs; {phrase}?", "A")]
    assert "medqa-test-1" in HeldOut(restated_items).find_repeat(attack, UNUSED_VECTOR, 0.85), (
        "an item restated with another number counted as a different item"
    )
    assert len(list(list_phrases(phrase))) == len(phrase.split()) - PHRASE_WORDS + 1


def import_items(home: Home, name: str, items: list[tuple[Seed, str]]) -> None:
    with Ledger(home.ledger) as ledger:
        ledger.import_dataset(name, "file", name, items, 0)


TRAIN_ITEMS = [(Seed(f"genomebench-{n}", "genomebench", f"Seed {n}?", "A"), "train") for n in range(8)]
SETTINGS = {"datasets": ["genomebench"], "target": 100, "max_turns": 12, "seeds": {"min": 2, "max": 3}}


def execute(home: Home, **changes: Any) -> dict[str, Any]:
    """Execute a run with `SETTINGS` and these changes to its end, and return its summary."""
    run = execute_run(home, configs.resolve("starter-genetics", "scripted", {**SETTINGS, **changes}, home))
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


@pytest.fixture
def home_and_baseline(tmp_path: Path) -> tuple[Home, dict[str, Any]]:
    """A home whose test items repeat two questions that a run in another home kept, and the summary of that run. A run
    with the same settings in this home keeps the same examples if nothing is held out.
    """
    home = Home(tmp_path / "first").prepare()
    import_items(home, "genomebench", TRAIN_ITEMS)
    baseline = execute(home)
    assert baseline["funnel"]["contaminated"] == 0 and baseline["contaminated"] == [] and baseline["kept"] > 2
    with LedgerView(home.ledger) as view:
        kept_questions = [example.question for example in view.examples(baseline["run"])]
    home_with_test_items = Home(tmp_path / "second").prepare()
    test_items = [
        (Seed(f"genomebench-t{n}", "genomebench", question, "A"), "test")
        for n, question in enumerate(kept_questions[:2])
    ]
    import_items(home_with_test_items, "genomebench", [*TRAIN_ITEMS, *test_items])
    return home_with_test_items, baseline


@pytest.fixture
def evaluates_genomebench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make genomebench the benchmark that the runs' domain evaluates on, so that its test items are held out."""
    domain = binding.load_domain("starter-genetics").model_copy(update={"evaluates": ("genomebench",)})
    for module in (configs, binding):
        monkeypatch.setattr(module, "load_domain", lambda *_: domain)


@pytest.mark.usefixtures("evaluates_genomebench")
def test_kept_examples_repeat_no_test_item_and_rejected_repeats_are_listed(
    home_and_baseline: tuple[Home, dict[str, Any]],
) -> None:
    home, baseline = home_and_baseline
    result = execute(home, concurrency=1)
    repeated_items = {hit["reason"].split(":")[0] for hit in result["contaminated"]}
    assert {"repeats genomebench-t0", "repeats genomebench-t1"} <= repeated_items
    assert result["funnel"]["contaminated"] == len(result["contaminated"])
    assert result["funnel"]["attempts"] == sum(n for key, n in result["funnel"].items() if key != "attempts")
    with LedgerView(home.ledger) as view:
        test_questions = {item.question for item in view.items("genomebench", "test")}
        assert not test_questions & {example.question for example in view.examples(result["run"])}
        config = json.loads(view.find_run(result["run"])["config"])
    assert (config["datasets"], config["held_out"]) == (["genomebench"], ["genomebench"])
    assert result["digest"] != baseline["digest"]


@pytest.mark.usefixtures("evaluates_genomebench")
def test_digest_is_equal_at_any_concurrency_and_on_replay(
    home_and_baseline: tuple[Home, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = home_and_baseline
    sequential, concurrent = execute(home, concurrency=1), execute(home, concurrency=16)
    assert sequential["digest"] == concurrent["digest"]
    assert sequential["contaminated"] and sequential["contaminated"] == concurrent["contaminated"]
    import_items(home, "gsm8k", [(replace(ITEMS[0], id="gsm8k-1"), "test")])  # items imported later change no run
    monkeypatch.setattr(ScriptedEndpoint, "chat", None)
    assert asyncio.run(runs.replay(home, sequential["run"])).same


@pytest.mark.usefixtures("evaluates_genomebench")
def test_run_show_lists_each_repeat_of_a_held_out_item(
    home_and_baseline: tuple[Home, dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    home, _ = home_and_baseline
    result = execute(home)
    show_run(home, result["run"], False)
    output = capfd.readouterr().out
    expected_turns = [f"turn {hit['turn']}" for hit in result["contaminated"][:MAX_LISTED]]
    hit_lines = [line for line in output.splitlines() if "repeats genomebench" in line]
    listed_turns = [line.split("  ")[1] for line in hit_lines]  # the second column
    assert expected_turns and listed_turns == expected_turns


@pytest.mark.usefixtures("evaluates_genomebench")
def test_held_out_setting_replaces_the_benchmarks_of_the_domain(home_and_baseline: tuple[Home, dict[str, Any]]) -> None:
    home, baseline = home_and_baseline
    result = execute(home, held_out=[])
    assert result["digest"] == baseline["digest"] and result["funnel"]["contaminated"] == 0


def test_benchmark_that_the_seeds_restate_is_not_held_out_and_a_warning_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """GSM-Hard's train items restate GSM8K's test items with other numbers, so every question would repeat one."""
    home = Home(tmp_path).prepare()
    program = "def solution():\n    x = 12\n    result = x\n    return result"
    gsmhard_items = [(Seed("gsmhard-1", "gsmhard", STORY.replace("12", "99"), "1", program=program), "train"),
                     (Seed("gsmhard-2", "gsmhard", "Else?", "2"), "test")]  # fmt: skip
    import_items(home, "gsmhard", gsmhard_items)
    import_items(home, "gsm8k", [(ITEMS[0], "test")])
    config = configs.resolve("gsmhard", "scripted", {}, home)
    assert config.held_out == ("gsmhard",)
    assert "1 of the seeds restates test items of gsm8k" in caplog.text
    assert configs.resolve("gsmhard", "scripted", {"held_out": ["gsm8k"]}, home).held_out == ("gsm8k",)
    profile = tmp_path / "ours.toml"
    profile.write_text(f"held_out = []\n{(resources.files('nanoflux_local.profiles') / 'scripted.toml').read_text()}")
    assert configs.resolve("gsmhard", str(profile), {}, home).held_out == ()


def test_excerpt_includes_the_held_out_datasets(home_and_baseline: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    from nanoflux_local.ledger.excerpt import ExcerptContents, write_excerpt

    home, _ = home_and_baseline
    import_items(home, "medqa", [(Seed("medqa-1", "medqa", "Which?", "A"), "test")])
    run = execute(home, held_out=["medqa"])["run"]
    write_excerpt(home.ledger, tmp_path / "excerpt.db", ExcerptContents([run]))
    with LedgerView(tmp_path / "excerpt.db") as view:
        assert [dataset.name for dataset in view.datasets()] == ["genomebench", "medqa"]


def test_medical_domain_uses_installed_datasets_and_names_missing_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path).prepare()
    without_fact_check = {"judge": {"fact_check": False}}
    with pytest.raises(NothingMatchedError, match="'medqa' has no train items"):
        asyncio.run(runs.start(home, configs.resolve("multimedqa", "scripted", without_fact_check, home)))
    for name in ("pubmedqa", "liveqa"):
        seeds = [(Seed(f"{name}-{n}", name, f"Is {name} {n} so?", "A"), "train") for n in range(12)]
        import_items(home, name, [*seeds, (Seed(f"{name}-t", name, f"What else of {name}?", "B"), "test")])
    config = configs.resolve("multimedqa", "scripted", without_fact_check, home)
    assert config.datasets == ("pubmedqa", "liveqa") and config.held_out == ("pubmedqa", "liveqa")
    assert "no seeds are drawn from medqa, medmcqa, mmlu, medicationqa, healthsearchqa" in caplog.text
    fork = configs.derive_config(config, {"seed": 3}, home)
    import_items(home, "medqa", [(Seed("medqa-1", "medqa", "Which?", "A"), "train")])
    assert fork.datasets == config.datasets, "an import after the start of a run changed the datasets of its fork"
    assert configs.resolve("multimedqa", "scripted", without_fact_check, home).datasets == (
        "medqa",
        "pubmedqa",
        "liveqa",
    )


def test_resume_with_a_changed_domain_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    (tmp_path / "domains").mkdir()
    domain_path = tmp_path / "domains" / "mine.toml"
    domain_path.write_text('extends = "starter-genetics"\nfocus = "Ask for the cause."\n')
    run = asyncio.run(runs.start(home, configs.resolve("mine", "scripted", {"max_turns": 2}, home)))
    domain_path.write_text('extends = "starter-genetics"\nfocus = "Ask for the effect."\n')
    with pytest.raises(RefusedError, match="the domain 'mine' has changed"):
        asyncio.run(runs.execute(home, run))
    domain_path.write_text('extends = "starter-genetics"\nfocus = "Ask for the cause."\nconfidence = 0.95\n')
    asyncio.run(runs.execute(home, run))  # the run's configuration is fixed, so a changed default does not affect it
