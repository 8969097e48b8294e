"""Secrets of six kinds stay out of messages, log lines, tracebacks and the ledger; ordinary text is unchanged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanoflux_local.ledger.store import Ledger
from nanoflux_local.redaction import MARK, redact, register_secret

SECRETS = {
    "named by its variable": "canary-7f3a9c21",
    "OpenAI's": "sk-proj-canaryAAAABBBBCCCCDDDD1234",
    "Anthropic's": "sk-ant-api03-canary_AAAA-BBBBCCCC",
    "the hub's": "hf_canaryAAAABBBBCCCCDDDD",
    "a bearer's": "canary.eyJhbGciOi.abc-def",
    "a password in an address": "canary:hunter22",
}
"""A secret of each kind. Each contains the word "canary", so that any leaked part is found."""
MESSAGES = {
    "named by its variable": "the server says: canary-7f3a9c21 is no key",
    "a bearer's": "Authorization: Bearer canary.eyJhbGciOi.abc-def",
    "a password in an address": "http://canary:hunter22@proxy.lab:3128/ does not answer",
}
"""The messages for secrets that are recognised by their name or context."""


def make_message(kind: str) -> str:
    """A message that contains the secret of this kind."""
    return MESSAGES.get(kind, f"Incorrect API key provided: {SECRETS[kind]}. You can find it in")


@pytest.fixture(autouse=True)
def set_secret_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_MODEL_KEY", SECRETS["named by its variable"])


@pytest.mark.parametrize("kind", SECRETS)
def test_redact_removes_secrets_and_keeps_the_rest(kind: str) -> None:
    redacted_message = redact(make_message(kind))
    assert redacted_message == make_message(kind).replace(SECRETS[kind], MARK) and MARK in redacted_message


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1 answered 401: no such model",
        "task-force sketch-book risk-averse; Bearer of news",
        "run ab12cd34 keeps hf_model",
        "user@lab.example wrote",
    ],
)
def test_redact_keeps_ordinary_text(text: str) -> None:
    assert redact(text) == text


def test_short_values_of_key_variables_are_not_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY_KEY", "")
    monkeypatch.setenv("SORT_KEY", "name")
    assert redact("sorted by name") == "sorted by name"


def test_registered_key_is_redacted() -> None:
    register_secret("canary from a file")
    assert redact("it was: canary from a file!") == f"it was: {MARK}!"


def test_longer_secret_is_redacted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_TOKEN", SECRETS["named by its variable"] + "-and-more")
    assert redact(f"a {SECRETS['named by its variable']}-and-more b") == f"a {MARK} b"


LOGGING_SCRIPT = """
import logging, sys
from nanoflux_local import redaction
redaction.install()
texts = sys.argv[1:]
for text in texts:
    logging.getLogger("library").warning("said %s and %d", text, 7)
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("library").exception("while asking")
logging.getLogger("library").warning("a wrong format %d", "x")
raise RuntimeError(" ".join(texts))
"""
"""Logs each argument in a message and in a traceback, then fails with an uncaught exception that contains them all."""


def test_log_lines_and_tracebacks_show_no_secrets() -> None:
    messages = map(make_message, SECRETS)
    process = subprocess.run(
        [sys.executable, "-c", LOGGING_SCRIPT, *messages],
        env={**os.environ, "LAB_MODEL_KEY": SECRETS["named by its variable"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 1 and "RuntimeError" in process.stderr and "and 7" in process.stderr
    assert process.stderr.count("ValueError: ") == len(SECRETS) and "a wrong format" in process.stderr
    assert "canary" not in process.stderr


def test_run_message_is_stored_without_secrets(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.create_run("run", "name", {"domain": "starter", "target": 1, "max_turns": 1}, {})
        ledger.set_run_status("run", "failed", " ".join(map(make_message, SECRETS)))
    assert "does not answer" in str(Ledger(tmp_path / "ledger.db").rows("SELECT message FROM runs"))
    for path in tmp_path.iterdir():
        assert b"canary" not in path.read_bytes()
