"""Tests of a run's report: generated text is escaped, the page fetches nothing, it states the results in the ledger,
and it is written completely or not at all.
"""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.errors import NanofluxError, NothingMatchedError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.records import ChatReply, ChatRequest, Identity
from nanoflux_local.report.run_report import write_report
from nanoflux_local.transcript import Attack, Attempt, Defence, Finding, TurnRecord, Verdict

HOSTILE_TEXT = (
    "<script>alert(1)</script> ]]> \x1b[31mred\x1b]0;title\x07 {{ 7*7 }} {% raw %}"
    " \" onload='x' & \u202eevil </pre></svg> \x00"
)
"""A text with HTML, terminal escapes, template syntax and control characters, none of which the page may interpret."""
CONFIG = {"domain": "starter", "target": 9, "max_turns": 9, "note": HOSTILE_TEXT}
TRAINING_RESULT = {
    "examples": 3,
    "steps": 4,
    "tokens": 900,
    "seconds": 12.5,
    "tokens_per_s": 72.0,
    "truncated": 1,
    "flops": {"6nd": 1e12, "measured": 8e11},
}
TRAINING_SETTINGS = {"r": 8, "alpha": 32.0, "dropout": 0.05, "learning_rate": 2e-4, "batch": 4, "epochs": 5}


def make_turn(number: int, text: str, kept: bool = True) -> TurnRecord:
    """A turn with one attempt, in which every role wrote `text`. Unless `kept`, the defender was right, and the
    question is dropped.
    """
    verdict = Verdict(not kept, 0.95, text, findings=(Finding("code", "supports", text),))
    attempt = Attempt(
        0, (text,), "kept_failed" if kept else "defender_right", attack=Attack(text, text, text, program=text),
        nearest=0.5, validation=verdict, defence=Defence(text, text, text), evaluation=verdict,
    )  # fmt: skip
    return TurnRecord(number, text, text, text, (attempt,))


def add_evaluation(ledger: Ledger, evaluation: str, adapter: str, is_right_by_item: list[bool]) -> None:
    """Add a finished evaluation with one reply to each item."""
    identity = Identity("scripted", HOSTILE_TEXT, adapter=adapter)
    ledger.start_evaluation(evaluation, HOSTILE_TEXT, adapter, HOSTILE_TEXT, "test", {"runs": 1, "items": "the same"})
    call, _ = ledger.remember("run", ChatRequest(identity, ()), ChatReply("x", "stop"))
    for item, is_right in enumerate(is_right_by_item):
        ledger.add_evaluation_item(evaluation, 0, str(item), call, HOSTILE_TEXT, "right" if is_right else "wrong")
    mean = sum(is_right_by_item) / len(is_right_by_item)
    strict = {"mean": mean, "sd": 0.0, "ci95": [mean - 0.1, mean + 0.1]}
    result = {
        "model": HOSTILE_TEXT,
        "adapter": adapter or None,
        "data": HOSTILE_TEXT,
        "split": "test",
        "n": len(is_right_by_item),
        "runs": 1,
    }
    result |= {"strict": strict, "unanswered": 0, "unscored": 0}
    ledger.finish_evaluation(evaluation, "done", result)


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    """A ledger with a run of five turns, in which every string from a model, a file or a person is hostile. Turn
    2 keeps no example, because the defender was right.
    """
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.create_run(
            "run",
            HOSTILE_TEXT,
            CONFIG,
            {"identities": {}, "repeatable": False, "versions": {HOSTILE_TEXT: HOSTILE_TEXT}},
        )
        for number in range(5):
            ledger.commit_turn("run", make_turn(number, f"{HOSTILE_TEXT} {number}", kept=number != 2), [])
        ledger.set_run_status("run", "failed", HOSTILE_TEXT, 3.0)
    return tmp_path / "ledger.db"


@pytest.fixture
def trained_ledger_path(ledger_path: Path) -> Path:
    """The ledger of `ledger_path` with a training run and two evaluations, so that the page has all its sections."""
    with Ledger(ledger_path) as ledger:
        ledger.create_training("t", "run", HOSTILE_TEXT, "hash", TRAINING_SETTINGS, {})
        for step in range(1, 5):
            ledger.add_training_event("t", "step", step, {"step": step, "loss": 2.0 / step})
        ledger.add_training_event("t", "epoch", 4, {"step": 4, "val_loss": 0.9})
        ledger.finish_training("t", "done", "adapterhash", TRAINING_RESULT)
        add_evaluation(ledger, "before", "", [True, False] * 10)
        add_evaluation(ledger, "after", "adapterhash", [True] * 18 + [False] * 2)
    return ledger_path


class Page(HTMLParser):
    """A page as a browser parses it: its source, its elements (`tags`) with their attributes, the attributes of all
    elements, and the text between them.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self.attributes += attributes.items()

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def write_page(ledger_path: Path, out: Path, run: str = "run") -> Page:
    """Write the report of a run, and read the page that was written."""
    return Page(write_report(ledger_path, run, out).read_text(encoding="utf-8"))


@pytest.mark.parametrize("fixture", ["ledger_path", "trained_ledger_path"])
def test_report_escapes_generated_text(fixture: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = write_page(request.getfixturevalue(fixture), tmp_path / "out")
    tag_names = [tag for tag, _ in page.tags]
    assert "script" not in tag_names and "iframe" not in tag_names
    assert tag_names.count("html") == tag_names.count("title") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")], "the page has an event handler"
    assert "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text and "{% raw %}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page.source)
    examples = [attributes for _, attributes in page.tags if attributes.get("class") == "example"]
    assert len(examples) == 4, "expected the boxes of three examples and of the commands"
    assert page.source.rstrip().endswith("</html>")
    assert page.source.count("<pre") == page.source.count("</pre>")


@pytest.mark.parametrize("fixture", ["ledger_path", "trained_ledger_path"])
def test_report_loads_nothing_from_outside_the_page(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = write_page(request.getfixturevalue(fixture), tmp_path / "out")
    url_attributes = (
        "src", "href", "xlink:href", "srcset", "data", "poster", "action", "formaction", "background", "ping",
    )  # fmt: skip
    attribute_targets = [value for name, value in page.attributes if name in url_attributes]
    assert [target for target in attribute_targets if not target.startswith("#")] == []
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"link", "base", "object", "embed", "img", "audio", "video", "form"}
    )
    style_targets = re.findall(r"url\(\s*['\"]?([^)]*)", page.source)
    assert [target for target in style_targets if not target.startswith("#")] == []
    assert "@import" not in page.source
    policies = [
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv", "").lower() == "content-security-policy"
    ]
    (policy,) = policies
    assert policy.startswith("default-src 'none'")


def test_report_states_the_results_in_the_ledger(trained_ledger_path: Path, tmp_path: Path) -> None:
    page = write_page(trained_ledger_path, tmp_path / "out")
    text = " ".join(page.text.split())
    for statement in (
        "Accuracy on held-out items rose from 50.0% to 90.0%", "The paired difference is +40.0 points",
        "Do 4 adversarial examples help", "kept: the defender failed 4", "solved by the defender in a familiar way 1",
        "attempts 5", "3 examples, 4 steps over 900 tokens", "1 example exceeded the length limit",
        "may answer equal requests with different replies", "nanoflux run replay run",
    ):  # fmt: skip
        assert statement in text, f"the page does not state: {statement}"
    assert [tag for tag, _ in page.tags].count("svg") == 2, "expected the plots of the accuracies and of the losses"


def test_report_shows_examples_from_the_beginning_middle_and_end(ledger_path: Path, tmp_path: Path) -> None:
    page = write_page(ledger_path, tmp_path / "out")
    # Turns 0, 1, 3 and 4 each kept an example; the page shows three of these examples.
    assert re.findall(r"Example \w+ · turn (\d)", page.text) == ["0", "3", "4"]


def test_report_of_an_untrained_or_empty_run_states_what_is_missing(ledger_path: Path, tmp_path: Path) -> None:
    assert "Nothing has been trained and evaluated" in write_page(ledger_path, tmp_path / "out").text
    with Ledger(ledger_path) as ledger:
        ledger.create_run("empty", "empty", CONFIG, {"repeatable": True})
    assert "No example was kept." in write_page(ledger_path, tmp_path / "none", "empty").text


def test_report_of_a_one_item_evaluation_has_no_comparison(ledger_path: Path, tmp_path: Path) -> None:
    with Ledger(ledger_path) as ledger:
        ledger.create_training("t", "run", HOSTILE_TEXT, "hash", TRAINING_SETTINGS, {})
        ledger.finish_training("t", "done", "adapterhash", TRAINING_RESULT)
        add_evaluation(ledger, "before", "", [True])
        add_evaluation(ledger, "after", "adapterhash", [False])
    assert "The paired difference" not in write_page(ledger_path, tmp_path / "out").text


def test_report_counts_the_scored_items_of_a_partial_evaluation(ledger_path: Path, tmp_path: Path) -> None:
    with Ledger(ledger_path) as ledger:
        ledger.create_training("t", "run", HOSTILE_TEXT, "hash", TRAINING_SETTINGS, {})
        ledger.finish_training("t", "done", "adapterhash", TRAINING_RESULT)
        add_evaluation(ledger, "before", "", [True, False] * 10)
        add_evaluation(ledger, "after", "adapterhash", [True] * 15)
        result = json.loads(ledger.rows("SELECT result FROM evaluations WHERE id = 'after'")[0][0])
        result |= {
            "items": 20,
            "unscored": 5,
            "unscored_reasons": [{"reason": HOSTILE_TEXT, "count": 5, "refused": False}],
        }
        ledger.finish_evaluation("after", "partial", result)
    text = " ".join(write_page(ledger_path, tmp_path / "out").text.split())
    assert "15 of 20" in text, "the table lacks the number of scored items of all items"
    assert "5 items that only one of the two evaluations scored are left out" in text


def test_report_is_deterministic(trained_ledger_path: Path, tmp_path: Path) -> None:
    first_page, second_page = (write_page(trained_ledger_path, tmp_path / name) for name in ("one", "two"))
    assert first_page.source == second_page.source


# The page is written completely or not at all.


def test_report_of_an_unknown_run_creates_no_directory(ledger_path: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingMatchedError):
        write_report(ledger_path, "nobody", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_report_that_cannot_be_written_completely_keeps_the_old_page(
    ledger_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_source = write_page(ledger_path, tmp_path / "out").source
    write_text = Path.write_text

    def write_until_disk_full(self: Path, text: str, **options: Any) -> int:
        write_text(self, text[:1000], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_until_disk_full)
    with pytest.raises(NanofluxError, match=r"index\.html cannot be written: No space left on device"):
        write_report(ledger_path, "run", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["index.html"]
    assert (tmp_path / "out" / "index.html").read_text(encoding="utf-8") == old_source


def test_report_replaces_the_page_atomically(ledger_path: Path, tmp_path: Path) -> None:
    """A process that has opened the old page still reads all of it after the page was replaced."""
    old_source = write_page(ledger_path, tmp_path / "out").source
    with (tmp_path / "out" / "index.html").open(encoding="utf-8") as reader, Ledger(ledger_path) as ledger:
        ledger.set_run_status("run", "done")
        assert write_page(ledger_path, tmp_path / "out").source != old_source
        assert reader.read() == old_source
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["index.html"]


def test_output_path_that_is_a_file_is_refused_and_kept(ledger_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NanofluxError, match=r"file.index\.html cannot be written: .* exists") as error:
        write_report(ledger_path, "run", tmp_path / "file")
    assert "-o" in error.value.fix and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["run", "../../escaped", "ru"], ids=["id", "name", "start of the id"])
def test_report_command_names_its_directory_in_the_home_by_run_id(ledger_path: Path, name: str) -> None:
    """The directory of the report is named after the run's id, never after the run's name, which may be a path."""
    with Ledger(ledger_path) as ledger:
        ledger.rows("UPDATE runs SET name = '../../escaped'")
    process = subprocess.run(
        [sys.executable, "-m", "nanoflux_local.cli", "report", name],
        env={**os.environ, "NANOFLUX_HOME": str(ledger_path.parent)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.strip()) == ledger_path.parent / "reports" / "run" / "index.html"
