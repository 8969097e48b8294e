"""A server writes questions that a browser, a spreadsheet or a terminal would execute; a run keeps such a question, and
every command and page shows it as plain text."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from nanoflux_local.report.page import MAX_CHARACTERS

HARMFUL_TEXT = (  # a spreadsheet formula, scripts, a template expression, terminal escapes and direction characters
    "=cmd|' /C calc'!A0 <script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<svg/onload=document.title='owned'> ]]> --> {{7*7}} \x1b[31mred\x1b]0;title\x07 \x9b31m \u202eevil\u2066"
)
LONGEST_LINE = "x" * 10_000_000
"""The longest line that a model is assumed to write."""
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that control a terminal or reverse the direction of text."""
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
JSONL_FORMATS = ("chat", "prompt-completion", "alpaca")


def make_response(harmful_text: str) -> bytes:
    """The body of a chat completion: an attacker's reply with the harmful text as its question and solution."""
    reply = f"QUESTION: {harmful_text}\nSOLUTION: {harmful_text}\nANSWER: A\nREFLECTION: {HARMFUL_TEXT}"
    choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


@pytest.fixture(scope="module", params=[HARMFUL_TEXT, HARMFUL_TEXT + LONGEST_LINE], ids=["characters", "ten megabytes"])
def harmful_text(request: pytest.FixtureRequest) -> str:
    """The question that the hostile server writes: harmful characters alone, or followed by a huge line."""
    return str(request.param)


@pytest.fixture(scope="module")
def hostile_url(harmful_text: str, new_server: Callable[[], Any]) -> Iterator[str]:
    """The address of a server that answers every request with the harmful text."""
    server = new_server()
    server.answer((200, make_response(harmful_text)))
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def hostile_run(
    harmful_text: str, hostile_url: str, nanoflux: Callable[..., Any], scripted_start: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:  # fmt: skip
    """A home with the run "r", which kept a question of the hostile server, and the id of that example."""
    folder = tmp_path_factory.mktemp("hostile")
    config, home = folder / "hostile.toml", folder / "home"
    config.write_text(
        f'[endpoints.hostile]\ninterface = "openai_chat"\nmodel = "m"\nurl = "{hostile_url}"\nstructured = false\n'
        '[roles.attacker]\nendpoint = "hostile"\n'
    )
    options = (
        "--config", str(config), "--seed", "0", "--max-turns", "12", "--examples", "1", "--name", "r",
        "--concurrency", "1",  # a concurrent turn would write megabytes that no test needs
    )  # fmt: skip
    result = nanoflux(home, *scripted_start, *options)
    assert result.code == 0 and not CONTROL_CHARACTERS.search(result.out + result.err), result.err[:2000]
    rows = nanoflux(home, "examples", "list", "r", "--json").json
    example_ids = [row["id"] for row in rows if row["question"] == harmful_text.strip()]
    assert example_ids, "the run did not keep the hostile question unchanged"
    return home, example_ids[0]


def test_hostile_reply_is_harmless_on_a_terminal(hostile_run: tuple[Path, str], nanoflux: Callable[..., Any]) -> None:
    home, example = hostile_run
    for command in (("examples", "show", example), ("examples", "list", "r"), ("run", "show", "r"), ("run", "list")):
        for json_option in ((), ("--json",)):
            result = nanoflux(home, *command, *json_option)
            assert result.code == 0 and not CONTROL_CHARACTERS.search(result.out + result.err), (command, json_option)
            if json_option:
                json.loads(result.out)  # the output is still a JSON document
    assert "=cmd|" in nanoflux(home, "examples", "show", example).out


def test_hostile_reply_is_exported_verbatim(
    hostile_run: tuple[Path, str], harmful_text: str, nanoflux: Callable[..., Any], tmp_path: Path
) -> None:
    """Spreadsheets evaluate no formulas in JSON Lines and Parquet, so exports escape nothing. No row may be split."""
    for file_format in (*JSONL_FORMATS, "parquet"):
        out = tmp_path / f"rows-{file_format}"
        result = nanoflux(hostile_run[0], "export", "r", "--format", file_format, "-o", str(out))
        assert result.code == 0 and not CONTROL_CHARACTERS.search(result.out + result.err), result.err[:2000]
        if file_format == "parquet":
            rows = pyarrow.parquet.read_table(out).to_pylist()
        else:
            rows = [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]]
        escaped_text = json.dumps(harmful_text.strip(), ensure_ascii=False)[1:-1]  # without the quotation marks
        assert len(rows) == 1 and escaped_text in json.dumps(rows, ensure_ascii=False)
        card = out.with_suffix(".md").read_text(encoding="utf-8")
        assert not CONTROL_CHARACTERS.search(card) and "<script" not in card


def test_report_of_a_huge_line_stays_small(
    hostile_run: tuple[Path, str], nanoflux: Callable[..., Any], tmp_path: Path
) -> None:
    result = nanoflux(hostile_run[0], "report", "r", "-o", str(tmp_path / "report"))
    assert result.code == 0, result.err
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page and "<script" not in page and not CONTROL_CHARACTERS.search(page)
    assert len(page) < 10 * MAX_CHARACTERS


@pytest.fixture
def render_page(tmp_path: Path) -> Callable[[Path], str]:
    """A function that renders a page in a real browser, which would run its scripts, and returns the document."""
    candidates = [os.environ.get("NANOFLUX_CHROMIUM"), *map(shutil.which, BROWSERS)]
    browser = next((path for path in candidates if path), "")
    if not browser:
        pytest.skip("Chromium is not installed (Debian: apt install chromium-headless-shell, or set NANOFLUX_CHROMIUM)")
    options = (
        "--headless",
        "--disable-gpu",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/b",
    )

    def render(page: Path) -> str:
        command_line = [browser, *options, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
        result = subprocess.run(command_line, capture_output=True, text=True, errors="replace", timeout=120)
        assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout

    return render


def test_hostile_reply_runs_no_script_in_a_browser(
    hostile_run: tuple[Path, str], render_page: Callable[[Path], str], nanoflux: Callable[..., Any], tmp_path: Path
) -> None:
    unescaped_page = tmp_path / "unescaped.html"  # a page without protection, to see whether the browser runs scripts
    unescaped_page.write_text(
        f"<!doctype html><meta charset=utf-8><title>mine</title><p>{HARMFUL_TEXT}</p>", encoding="utf-8"
    )
    assert "<title>owned</title>" in render_page(unescaped_page), (
        "this browser runs no scripts, so the test would prove nothing"
    )
    result = nanoflux(hostile_run[0], "report", "r", "-o", str(tmp_path / "report"))
    assert result.code == 0, result.err
    document = render_page(tmp_path / "report" / "index.html")
    assert "<title>NanoFlux run r</title>" in document and "owned</title>" not in document
    document_without_text = re.sub(">[^<]*<", "><", document)  # the escaped text contains "onload="
    assert not re.search(r"<(script|img|iframe|object|embed)\b", document) and "onload=" not in document_without_text
