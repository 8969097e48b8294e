"""Hostile questions: a server writes text that a browser, a spreadsheet or a terminal would execute; the run keeps it,
and every place that shows it shows plain text."""

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

HARM = (
    "=cmd|' /C calc'!A0 <script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<svg/onload=document.title='owned'> ]]> --> {{7*7}} \x1b[31mred\x1b]0;title\x07 \x9b31m \u202eevil\u2066"
)
LINE = "x" * 10_000_000
"""The longest line that a model may write."""
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that control a terminal or reverse the direction of text."""
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FORMATS = ("chat", "prompt-completion", "alpaca")


def reply_of(harm: str) -> bytes:
    """The response of a server whose model wrote `harm`."""
    text = f"QUESTION: {harm}\nSOLUTION: {harm}\nANSWER: A\nREFLECTION: {HARM}"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


@pytest.fixture(scope="module", params=[HARM, HARM + LINE], ids=["characters", "ten megabytes"])
def harm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def hostile(harm: str, new_server: Callable[[], Any]) -> Iterator[str]:
    """The address of a server that answers everything with it."""
    server = new_server()
    server.answer((200, reply_of(harm)))
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def harmed(
    harm: str, hostile: str, nanoflux: Callable[..., Any], scripted: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:  # fmt: skip
    """A home with a run, "r", that keeps what the hostile server wrote; and the id of that example."""
    folder = tmp_path_factory.mktemp("hostile")
    config, home = folder / "hostile.toml", folder / "home"
    config.write_text(
        f'[endpoints.hostile]\ninterface = "openai_chat"\nmodel = "m"\nurl = "{hostile}"\nstructured = false\n'
        '[roles.attacker]\nendpoint = "hostile"\n'
    )
    words = ("--config", str(config), "--seed", "0", "--max-turns", "12", "--examples", "1", "--name", "r")
    words = (*words, "--concurrency", "1")  # a turn that is not needed writes megabytes
    ended = nanoflux(home, *scripted, *words)
    assert ended.code == 0 and not ACTING.search(ended.out + ended.err), ended.err[:2000]
    listed = nanoflux(home, "examples", "list", "r", "--json").json
    kept = [row["id"] for row in listed if row["question"] == harm.strip()]
    assert kept, "the run kept the hostile question, to the letter"
    return home, kept[0]


def test_hostile_reply_is_harmless_on_a_terminal(harmed: tuple[Path, str], nanoflux: Callable[..., Any]) -> None:
    home, example = harmed
    for words in (("examples", "show", example), ("examples", "list", "r"), ("run", "show", "r"), ("run", "list")):
        for more in ((), ("--json",)):
            ended = nanoflux(home, *words, *more)
            assert ended.code == 0 and not ACTING.search(ended.out + ended.err), (words, more)
            if more:
                json.loads(ended.out)
    assert "=cmd|" in nanoflux(home, "examples", "show", example).out


def test_hostile_reply_is_exported_verbatim(
    harmed: tuple[Path, str], harm: str, nanoflux: Callable[..., Any], tmp_path: Path
) -> None:
    """The formats are JSON lines and Parquet: no spreadsheet computes their cells, and no row ends early."""
    for kind in (*FORMATS, "parquet"):
        out = tmp_path / f"rows-{kind}"
        ended = nanoflux(harmed[0], "export", "r", "--format", kind, "-o", str(out))
        assert ended.code == 0 and not ACTING.search(ended.out + ended.err), ended.err[:2000]
        rows = pyarrow.parquet.read_table(out).to_pylist() if kind == "parquet" else None
        lines = [] if rows is not None else out.read_bytes().split(b"\n")[:-1]
        rows = [json.loads(line) for line in lines] if rows is None else rows
        serialized = json.dumps(rows, ensure_ascii=False)
        assert len(rows) == 1 and json.dumps(harm.strip(), ensure_ascii=False)[1:-1] in serialized
        card = out.with_suffix(".md").read_text(encoding="utf-8")
        assert not ACTING.search(card) and "<script" not in card


def test_report_of_a_huge_line_stays_small(
    harmed: tuple[Path, str], nanoflux: Callable[..., Any], tmp_path: Path
) -> None:
    ended = nanoflux(harmed[0], "report", "r", "-o", str(tmp_path / "report"))
    assert ended.code == 0, ended.err
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page and "<script" not in page and not ACTING.search(page)
    assert len(page) < 10 * MAX_CHARACTERS


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[Path], str]:
    """The document of a page in a real browser, after its scripts would have run."""
    named = os.environ.get("NANOFLUX_CHROMIUM", "")
    browser = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip("no Chromium here (Debian: apt install chromium-headless-shell, or name one in NANOFLUX_CHROMIUM)")
    safe = ("--headless", "--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/b")

    def show(page: Path) -> str:
        words = [str(browser), *safe, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return show


def test_hostile_reply_runs_no_script_in_a_browser(
    harmed: tuple[Path, str], shown: Callable[[Path], str], nanoflux: Callable[..., Any], tmp_path: Path
) -> None:
    unescaped = tmp_path / "unescaped.html"
    unescaped.write_text(f"<!doctype html><meta charset=utf-8><title>mine</title><p>{HARM}</p>", encoding="utf-8")
    assert "<title>owned</title>" in shown(unescaped), "this browser runs what it is given"
    ended = nanoflux(harmed[0], "report", "r", "-o", str(tmp_path / "report"))
    assert ended.code == 0, ended.err
    document = shown(tmp_path / "report" / "index.html")
    assert "<title>NanoFlux run r</title>" in document and "owned</title>" not in document
    assert not re.search(r"<(script|img|iframe|object|embed)\b", document) and "onload=" not in re.sub(
        ">[^<]*<", "><", document
    )
