"""A run continues at a server's new address: `run resume --set endpoints.NAME.url=URL`, which errors suggest."""

import json
import re
import shlex
from pathlib import Path

import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.ledger.views import LedgerView

# A profile that assigns one server to all three roles. `revision` is empty or `REVISION_SETTING`.
PROFILE = """
embedder = "hashing"
[endpoints]
hashing = {{ interface = "scripted", model = "hashing" }}
server = {{ interface = "openai_chat", model = "m", url = "{url}"{revision} }}
[roles]
attacker = {{ endpoint = "server" }}
defender = {{ endpoint = "server" }}
judge = {{ endpoint = "server" }}
"""
REVISION_SETTING = ', revision = "2026-11"'
DEAD_URL = "http://127.0.0.1:9/v1"
"""An address at which no server listens."""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """A function that runs a command in this process on a temporary home. Returns the exit code, stdout and stderr."""
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path / "home"))

    def run_command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            main(list(arguments))
        output = capfd.readouterr()
        return int(exit_info.value.code or 0), output.out, output.err

    return run_command


def start_on_dead_server(command, tmp_path: Path, revision_setting: str) -> tuple[int, str, str]:
    """Start the run "r", whose only server does not answer. Returns the exit code, stdout and stderr."""
    profile = tmp_path / "server.toml"
    profile.write_text(PROFILE.format(url=DEAD_URL, revision=revision_setting))
    arguments = ("--name", "r", "--concurrency", "1", "--max-turns", "2")
    return command("run", "start", "--domain", "starter-genetics", "--profile", str(profile), *arguments)


def find_suggested_command(message: str, pattern: str) -> list[str]:
    """The words after `nanoflux` of the command that a message suggests. `pattern` matches the first of these words."""
    match = re.search(f"nanoflux ({pattern}[^`\n]*)", message)
    assert match, message
    return shlex.split(match[1])


def test_run_resumes_at_a_new_address_if_its_endpoint_states_a_revision(command, tmp_path: Path, fake_server) -> None:
    exit_code, _, message = start_on_dead_server(command, tmp_path, REVISION_SETTING)
    assert exit_code == 1 and "does not answer" in message
    suggested_words = find_suggested_command(message, "run resume [^`]*--set ")
    _, output, _ = command("run", "show", "r", "--json")
    words_in_stored_message = find_suggested_command(json.loads(output)["message"], "run resume [^`]*--set ")
    assert words_in_stored_message == suggested_words, "the error recorded in the ledger suggests another command"
    assert suggested_words[-1] == "endpoints.server.url=URL"
    url, server = fake_server()
    exit_code, output, message = command(*suggested_words[:-1], f"endpoints.server.url={url}", "--json")
    assert exit_code in (0, 1) and json.loads(output)["turns"] == 2 and server.requests, message
    with LedgerView(tmp_path / "home" / "ledger.db") as view:
        row = view.find_run("r")
    config, environment = json.loads(row["config"]), json.loads(row["environment"])
    assert config["endpoints"]["server"]["url"] == url
    (move,) = environment["moves"]
    assert move["endpoints.server.url"] == [DEAD_URL, url] and move["at"]
    for action in ("verify", "replay"):
        exit_code, _, message = command("run", action, "r")
        assert exit_code == 0, message


def test_run_without_a_revision_continues_at_a_new_address_only_as_a_fork(command, tmp_path: Path, fake_server) -> None:
    exit_code, _, message = start_on_dead_server(command, tmp_path, "")
    assert exit_code == 1 and "states no revision" in message
    suggested_words = find_suggested_command(message, "run start --fork")
    url, _ = fake_server()
    exit_code, _, refusal = command("run", "resume", "r", "--set", f"endpoints.server.url={url}")
    assert exit_code == 3 and "its address identifies its model" in refusal
    assert find_suggested_command(refusal, "run start --fork")[-1] == f"endpoints.server.url={url}"
    exit_code, output, message = command(*suggested_words[:-1], f"endpoints.server.url={url}", "--json")
    assert json.loads(output)["turns"] == 2, message


def test_resume_refuses_changes_of_fixed_settings_and_invalid_urls(command, tmp_path: Path) -> None:
    start_on_dead_server(command, tmp_path, REVISION_SETTING)
    for setting in ("endpoints.server.model=other", "endpoints.other.url=http://127.0.0.1:9/v1", "seed=3"):
        exit_code, output, message = command("run", "resume", "r", "--set", setting)
        assert (exit_code, output) == (3, "") and "is fixed once the run has started" in message
        assert find_suggested_command(message, "run start --fork")[-1] == setting
    exit_code, _, _ = command("run", "resume", "r", "--set", "endpoints.server=3")
    assert exit_code == 2
    exit_code, _, message = command("run", "resume", "r", "--set", "endpoints.server.url=http://u:p@h/v1")
    assert exit_code == 2 and "must not contain a user" in message


def test_resume_applies_new_urls_and_a_new_turn_limit_before_the_next_turn(
    command, tmp_path: Path, fake_server
) -> None:
    start_on_dead_server(command, tmp_path, REVISION_SETTING)
    url, _ = fake_server()
    settings = ("--set", f"endpoints.server.urls=['{url}']", "--set", "max_turns=1")
    _, output, _ = command("run", "resume", "r", *settings, "--json")
    assert json.loads(output)["turns"] == 1
    with LedgerView(tmp_path / "home" / "ledger.db") as view:
        server = json.loads(view.find_run("r")["config"])["endpoints"]["server"]
    assert (server["url"], server["urls"]) == ("", [url])


def test_error_on_a_missing_model_suggests_a_fork_with_another_model(command, tmp_path: Path, fake_server) -> None:
    from nanoflux_local.errors import EndpointRefusedError
    from nanoflux_local.paths import Home
    from nanoflux_local.run.commands import format_fix
    from nanoflux_local.run.runs import load_run

    start_on_dead_server(command, tmp_path, REVISION_SETTING)
    config, _, _ = load_run(Home(tmp_path / "home"), "r")
    error = EndpointRefusedError("answered 404", "correct the endpoint's model; then `nanoflux run resume`")
    assert format_fix(error, "r", config) == error.fix, "the fix of an error without an address was changed"
    error.address, error.setting = DEAD_URL, "model"
    fix = format_fix(error, "r", config)
    assert find_suggested_command(fix, "run start --fork")[-1] == "endpoints.server.model=MODEL"
    assert find_suggested_command(fix, "run resume") == ["run", "resume", "r"]
