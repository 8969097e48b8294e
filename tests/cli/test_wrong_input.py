"""Wrong input gives one clear message and the documented exit code, prints nothing on stdout and writes nothing."""

import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.cli.common import sanitize
from nanoflux_local.ledger.store import Ledger

START = ("run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--max-turns", "3")
EVAL = ("eval", "--profile", "scripted", "--endpoint", "duelist-a", "--data", "starter-easy")
IMPORT_MINE = ("data", "import", "mine")
TRAIN_ON_ROWS = ("train", "--data")
BASE_OPTION = ("--base", "smollm2-135m")
GOOD_ROW = '{"input": "Two and two?", "code": "def solution():\\n    return 4", "target": 4}'
CONTENT_BY_FILE = {
    "broken.toml": b"seed = \n",
    "latin.toml": b'name = "caf\xe9"\n',
    "unknown.toml": b"[novelty]\nquestoin = 0.8\n",
    "flat.toml": b"endpoints = 3\n",
    "number.toml": b"without_programs = 3\n",
    "good.jsonl": f"{GOOD_ROW}\n".encode(),
    "row.jsonl": f"{GOOD_ROW}\n\n{{}}\n".encode(),
    "json.jsonl": f"{GOOD_ROW}\nnot json\n".encode(),
    "bytes.jsonl": f"{GOOD_ROW}\n".encode() + b'{"input": "\xff"}\n',
    "wrong.jsonl": f"{GOOD_ROW}\n{GOOD_ROW.replace('4}', '5}')}\n".encode(),
    "empty.jsonl": b"\n\n",
    "nan.jsonl": b'{"question": "Q?", "answer": 1}\n{"question": "P?", "answer": NaN}\n',
    "infinite.json": b'[{"question": "Q?", "answer": 1e999}]',
    "infinite.csv": b"question,answer\nQ?,inf\n",
    "digits.jsonl": b'{"question": "Q?", "answer": ' + b"9" * 400 + b"}\n",
    "more-digits.jsonl": b'{"question": "Q?", "answer": ' + b"9" * 5000 + b"}\n",
    "twice.jsonl": b'{"question": "Q?", "answer": 4, "answer": 5}\n',
    "disagree.jsonl": b'{"question": "Q?", "answer": 4}\n{"question": "q? ", "answer": 5}\n',
    "deep.jsonl": b'{"question": "Q?", "answer": ' + b"[" * 100_000 + b"}\n",
    "deep.json": b"[" * 100_000,
    "deep.toml": b"a = " + b"[" * 100_000,
    "options.csv": b"question,options,answer\nQ?,ant; bee,A\n",
    "utf16.jsonl": '{"question": "Q?", "answer": 4}\n'.encode("utf-16"),
    "utf16.json": '[{"question": "Q?", "answer": 4}]'.encode("utf-16"),
    "utf16.csv": "question,answer\nQ?,4\n".encode("utf-16"),
    "utf16.toml": "seed = 1\n".encode("utf-16"),
    "utf16.txt": "Cells divide.\n".encode("utf-16"),
    "weight.jsonl": b'{"prompt": "Q?", "completion": "A", "weight": 0}\n',
    "deep-rows.jsonl": b'{"prompt": ' + b"[" * 100_000 + b"}\n",
    "twice-rows.jsonl": b'{"prompt": "Q?", "completion": "A", "completion": "B"}\n',
    "utf16-rows.jsonl": '{"prompt": "Q?", "completion": "A"}\n'.encode("utf-16"),
}
"""The contents of the files that the commands in `WRONG_COMMANDS` read, by name."""
HUGE_NUMBER = "99999999999999999999999"
"""A number that SQLite cannot store."""
SERVED_ARBITER = "endpoints.arbiter={ interface = 'openai_chat', model = 'm',"
"""The start of a setting that makes the judge's endpoint `arbiter` a server."""
SETTING_ERRORS = [
    ("sed=1", "unknown key 'sed'.*did you mean 'seed'. top-level keys: .*seed"),
    ("question=0.8", "unknown key 'question'.*did you mean 'novelty.question'"),
    ("temperature=1", "unknown key 'temperature'.*'roles.attacker.sampling.temperature' or "),
    ("novelty.questoin=0.8", "unknown key 'novelty.questoin'.*did you mean 'question'. .*question, solution"),
    ("endpoints.arbiter.modle=x", "unknown key 'endpoints.arbiter.modle'.*did you mean 'model'"),
    ("budgets.NOTES=5", "unknown key 'budgets.NOTES'"),
    ("judge.confidence", "'judge.confidence' is not KEY=VALUE"),
    ("=3", "is not KEY=VALUE"),
    ("novelty.question=2", "novelty.question: .*less than or equal to 1"),
    ("novelty.question=nan", "novelty.question: "),
    ("target=0", "target: .*greater than or equal to 1"),
    ("target=99999999999999999999", "target: .*less than"),
    ("concurrency=2000", "concurrency: .*1024"),
    ("seeds.min=0", "seeds.min: "),
    ("seeds={min = 6, max = 5}", "min is larger than max"),
    ("endpoints.arbiter.delay_s=inf", "endpoints.arbiter.delay_s: .*finite"),
    ("embedder=[1]", "embedder: must be a string"),
    ("datasets=3", "datasets: must be a list"),
    ("retries=3", "retries: must be a table of keys and values"),
    ("target=many", "target: must be a whole number"),
    ("rules=strict", "rules: must be 'paper' or 'proven'"),
    ("embedder=nobody", "embedder names 'nobody', but there is no such endpoint; choose one of: "),
    (
        "roles.judge.endpoint=nobody",
        "roles.judge.endpoint names 'nobody', but there is no such endpoint; choose one of: .*program",
    ),
    ("roles.attacker.endpoint=program", "have no programs"),
    ("domain=starter", "the settings are for the domain 'starter'"),
    (
        f"{SERVED_ARBITER} url = 'http://127.0.0.1:99999/v1' }}",
        "endpoints.arbiter: .*99999/v1 has no valid port.*1 to 65535",
    ),
    (
        f"{SERVED_ARBITER} url = 'http://127.0.0.1:9/v1/chat/completions' }}",
        "which NanoFlux appends.*url = .http://127.0.0.1:9/v1.",
    ),
    (
        f"{SERVED_ARBITER} url = 'http://127.0.0.1:9/v1', send = {{ sed = false }} }}",
        "unknown key .*keys of endpoints.arbiter.*send: .*seed",
    ),
    ("endpoints.arbitre.capacity=2", "no endpoint 'arbitre'.*did you mean 'arbiter'"),
    ("endpoints.arbiter.send.seed=false", "the interface 'scripted' does not support it"),
]
"""Wrong values of `--set`, each with a regular expression that matches the message."""
WRONG_COMMANDS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "unknown command": (("fly",), 2, "No such command 'fly'"),
    "misspelt command": (("rnu",), 2, "Did you mean 'run'"),
    "misspelt profile": ((*START, "--profile", "scriptd"), 2, "did you mean 'scripted'"),
    "misspelt domain": (("run", "start", "--domain", "gsmhrad"), 2, "did you mean 'gsmhard'"),
    "unknown option": (("run", "list", "--fast"), 2, "No such option"),
    "no domain": (("run", "start"), 2, "Missing option '--domain'"),
    "unknown domain": (("run", "start", "--domain", "chess"), 2, "no domain 'chess'.*choose one of: .*genomebench"),
    "unknown profile": ((*START, "--profile", "gpu"), 2, "no profile 'gpu'.*choose one of: .*embedded, .*scripted"),
    "missing profile file": ((*START, "--profile", "no.toml"), 2, r"no\.toml: No such file"),
    "profile whose endpoints are a number": ((*START, "--profile", "flat.toml"), 2, "endpoints: must be a table"),
    "profile whose programs are a number": ((*START, "--profile", "number.toml"), 2, "without_programs is not a table"),
    "examples out of range": ((*START, "--examples", "0"), 2, "'--examples': 0 is not in the range"),
    "missing config": ((*START, "--config", "nowhere.toml"), 2, r"nowhere\.toml: No such file.*a file that exists"),
    "config is a folder": ((*START, "--config", "."), 2, "is a directory"),
    "config is not TOML": ((*START, "--config", "broken.toml"), 2, r"broken\.toml: Invalid value \(at line 1"),
    "config is not UTF-8": ((*START, "--config", "latin.toml"), 2, r"latin\.toml: .*UTF-8"),
    "config with an unknown key": ((*START, "--config", "unknown.toml"), 2, "unknown key 'novelty.questoin'"),
    "missing weights": (("run", "start", "--domain", "starter"), 4, "nanoflux models pull smollm2-135m"),
    "benchmark not imported": ((*START, "--domain", "gsmhard"), 4, "nanoflux data import gsmhard PATH"),
    "misspelt benchmark": (("data", "import", "gsm-8k", "row.jsonl"), 2, ".gsm-8k. is neither .*; did you mean .gsm8k"),
    "no such file": (("data", "import", "gsmhard", "no.jsonl"), 2, r"no\.jsonl: No such file"),
    "one file twice": (("data", "import", "gsmhard", "good.jsonl", "good.jsonl"), 2, "'gsmhard-1' is in .* too"),
    "an empty file": (("data", "import", "gsmhard", "empty.jsonl"), 2, r"no items in .*empty\.jsonl"),
    "a row without its keys": (("data", "import", "gsmhard", "row.jsonl"), 2, r"row\.jsonl, line 3: key 'input'"),
    "a row that is not JSON": (("data", "import", "gsmhard", "json.jsonl"), 2, "line 2: not JSON.*nothing was"),
    "a row that is not UTF-8": (("data", "import", "gsmhard", "bytes.jsonl"), 2, "line 2: not JSON in UTF-8"),
    "a program that disagrees": (("data", "import", "gsmhard", "wrong.jsonl"), 2, "line 2: its program gives '4'"),
    "an answer that is not a number": ((*IMPORT_MINE, "nan.jsonl"), 2, "line 2: key 'answer'.*not a finite"),
    "an infinite answer in JSON": ((*IMPORT_MINE, "infinite.json"), 2, "entry 1: key 'answer'.*not a finite"),
    "an infinite answer in CSV": ((*IMPORT_MINE, "infinite.csv"), 2, "line 2: key 'answer'.*not a finite"),
    "an answer of 400 digits": ((*IMPORT_MINE, "digits.jsonl"), 2, "line 1: key 'answer'.*not a finite"),
    "an answer of 5000 digits": ((*IMPORT_MINE, "more-digits.jsonl"), 2, "key 'answer'.*not a finite"),
    "a key given twice": ((*IMPORT_MINE, "twice.jsonl"), 2, "line 1: the key 'answer' is given twice"),
    "a question with two answers": ((*IMPORT_MINE, "disagree.jsonl"), 2, "line 2: repeats the question of .*line 1"),
    "deep JSON lines": ((*IMPORT_MINE, "deep.jsonl"), 2, "line 1: not JSON.*nested too deep"),
    "deep JSON": ((*IMPORT_MINE, "deep.json"), 2, "not JSON.*nested too deep"),
    "options that are not JSON": ((*IMPORT_MINE, "options.csv"), 2, "line 2: key 'options' is not JSON like"),
    "JSON lines in UTF-16": ((*IMPORT_MINE, "utf16.jsonl"), 2, "the file is UTF-16.*iconv"),
    "JSON in UTF-16": ((*IMPORT_MINE, "utf16.json"), 2, "the file is UTF-16.*iconv"),
    "CSV in UTF-16": ((*IMPORT_MINE, "utf16.csv"), 2, "the file is UTF-16.*iconv"),
    "another benchmark's name": ((*IMPORT_MINE, "good.jsonl", "--as", "gsm8k"), 2, "'gsm8k' is not a valid name"),
    "config in UTF-16": ((*START, "--config", "utf16.toml"), 2, "the file is UTF-16.*iconv"),
    "deep config": ((*START, "--config", "deep.toml"), 2, r"deep\.toml: .*nested too deep"),
    "deep setting": ((*START, "--set", f"seed={'[' * 5000}"), 2, "seed: "),
    "document in UTF-16": (("corpus", "add", "utf16.txt"), 2, "the file is UTF-16.*iconv"),
    "rows of no weight": ((*TRAIN_ON_ROWS, "weight.jsonl", *BASE_OPTION), 2, 'line 1: "weight": 0 excludes'),
    "deep rows": ((*TRAIN_ON_ROWS, "deep-rows.jsonl", *BASE_OPTION), 2, "line 1 is not JSON.*nested too deeply"),
    "rows with a key twice": ((*TRAIN_ON_ROWS, "twice-rows.jsonl", *BASE_OPTION), 2, "'completion' appears twice"),
    "rows in UTF-16": ((*TRAIN_ON_ROWS, "utf16-rows.jsonl", *BASE_OPTION), 2, "the file is UTF-16.*iconv"),
    "unknown benchmark": (("data", "show", "chess"), 4, "'chess' has no train items"),
    "unknown split": (("data", "show", "starter", "--split", "exam"), 2, "no split 'exam'.*train, dev, test"),
    "no ledger for list": (("run", "list"), 4, "there is no ledger at .*start a run"),
    "no ledger for show": (("run", "show", "x"), 4, "there is no ledger"),
    "no ledger for resume": (("run", "resume", "x"), 4, "there is no ledger"),
    "no ledger for verify": (("run", "verify", "x"), 4, "there is no ledger"),
    "no ledger for replay": (("run", "replay", "x"), 4, "there is no ledger"),
    "no ledger for examples": (("examples", "list", "x"), 4, "there is no ledger"),
    "no ledger for report": (("report", "x"), 4, "there is no ledger"),
    "an adapter by its path": (("adapters", "show", "/tmp/x"), 2, "'/tmp/x' is a path.*adapters import /tmp/x"),
    "an adapter by a relative path": (("adapters", "merge", "../x", "-o", "out"), 2, "'../x' is a path"),
    "an adapter by a pattern": (("adapters", "export", "*", "-o", "out"), 4, "no adapter '\\*'"),
    "an adapter to import that is not a folder": (("adapters", "import", "good.jsonl"), 2, "is not a folder"),
    "an adapter to bundle by its path": (
        ("bundle", "create", "-o", "b", "--no-software", "--adapter", "./x"), 2, "'./x' is a path"
    ),
    "a training setting out of range": (
        (*TRAIN_ON_ROWS, "good.jsonl", "--set", "epochs=0"), 2, "epochs: must be greater .*give epochs another value"
    ),
    "an unknown training setting": (
        (*TRAIN_ON_ROWS, "good.jsonl", "--set", "epoch=1"), 2, "epoch: is an unknown key.*choose among the keys: r,"
    ),
    "a training setting without a value": (
        (*TRAIN_ON_ROWS, "good.jsonl", "--set", "epochs"), 2, "'epochs' is not KEY=VALUE.*--set epochs=3"
    ),
    "a profile setting without a value": (("profiles", "set", "lab", "seed"), 2, "instance endpoints.first.url="),
    "a time limit of months": (("sandbox", "run", "good.jsonl", "--wall", "1e7"), 2, "at most 86400 seconds"),
    "a plan for an unknown profile": (("models", "plan", "nosuch"), 2, "no profile 'nosuch'"),
    "a file name that is too long": (
        ("corpus", "add", "x" * 300), 1, "File name too long.*choose a shorter name"
    ),
    "an address with a password": (
        ("profiles", "new", "lab", "--server", "m@http://me:secret@host/v1"), 2, "must not contain a user, password"
    ),
    "tiny parts": (("bundle", "create", "-o", "b", "--part-size", "1"), 2, "'1' is less than 1M"),
    "a blank name": ((*START, "--name", "  "), 2, "the name has only spaces"),
    "a long name": ((*START, "--name", "x" * 101), 2, "the name has 101 characters; at most 100"),
    "a long name of a reviewer": (
        ("examples", "review", "x", "--verdict", "keep", "--reviewer", "x" * 101), 2, "the name has 101 characters"
    ),
    "a note twice": (
        ("examples", "review", "x", "--verdict", "keep", "--note", "x", "--edit"), 2, "mutually exclusive"
    ),
    "no rounds": (("rounds", "list"), 4, "no series of rounds yet"),
    "an argument that is not UTF-8": (("run", "show", "\udcff"), 2, "is not UTF-8"),
    "a name that is not UTF-8": ((*START, "--name", "\udcff"), 2, "is not UTF-8"),
    "a temperature that is not a number": ((*EVAL, "--temperature", "nan"), 2, "'nan' is not a finite number"),
    "an infinite temperature": ((*EVAL, "--temperature", "inf"), 2, "'inf' is not a finite number"),
    "an infinite budget": ((*START, "--budget-usd", "inf"), 2, "'inf' is not a finite number"),
    "an adapter for an endpoint": (
        (*EVAL, "--adapter", "0a1b", "--via", "in_process"), 2, "--adapter and --via apply only to --model.*profile"
    ),
    "an argument of vLLM for an endpoint": ((*EVAL, "--arg=--x"), 2, "--arg applies only to --model"),
    "a judge without soft scores": (
        (*EVAL, "--judge", "arbiter", "--judge-errors", "x"), 2, "--judge and --judge-errors apply only to --mode soft"
    ),
    **{f"--set {setting}": ((*START, "--set", setting), 2, pattern) for setting, pattern in SETTING_ERRORS},
}  # fmt: skip
"""For each kind of wrong input, the arguments of a command, its exit code, and a regular expression that matches the
message.
"""
SUBPROCESS_CASES = ("unknown domain", "unknown option", "missing weights", "a row without its keys", "--set sed=1")
"""The keys of `WRONG_COMMANDS` whose commands are also run in a subprocess."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files of `CONTENT_BY_FILE`."""
    folder = tmp_path_factory.mktemp("wrong")
    for name, content in CONTENT_BY_FILE.items():
        (folder / name).write_bytes(content)
    return folder


def list_stored_names(home: Path) -> list[tuple]:
    """The ids of the runs and the names of the benchmarks in a ledger; empty if there is no ledger."""
    if not (home / "ledger.db").exists():
        return []
    with sqlite3.connect(home / "ledger.db") as connection:
        return connection.execute("SELECT id FROM runs UNION ALL SELECT name FROM datasets").fetchall()


def assert_error(result, code: int, pattern: str) -> None:
    """Check that the command failed with this code and one message that matches `pattern`, without a traceback."""
    assert "Traceback" not in result.err, result.err
    assert result.code == code, result.err
    assert result.out == ""
    assert re.search(pattern, result.err, re.DOTALL), result.err
    assert len(result.err.strip().splitlines()) <= 5, "more than one message"


def check_wrong_input(run_command: Callable, name: str, folder: Path, home: Path) -> None:
    """Run a command of `WRONG_COMMANDS` on the files in `folder`; check its error, and that the home stays empty."""
    arguments, code, pattern = WRONG_COMMANDS[name]
    arguments_with_paths = [str(folder / word) if word in CONTENT_BY_FILE else word for word in arguments]
    assert_error(run_command(home, *arguments_with_paths), code, pattern)
    assert list_stored_names(home) == []


@pytest.mark.parametrize("name", WRONG_COMMANDS)
def test_wrong_input_is_reported_and_creates_nothing(folder: Path, tmp_path: Path, invoke: Callable, name: str) -> None:
    check_wrong_input(invoke, name, folder, tmp_path / "home")


@pytest.mark.parametrize("name", SUBPROCESS_CASES)
def test_wrong_input_is_reported_in_a_subprocess(folder: Path, tmp_path: Path, nanoflux: Callable, name: str) -> None:
    check_wrong_input(nanoflux, name, folder, tmp_path / "home")


@pytest.mark.parametrize(
    "arguments",
    [("run", "show"), ("run", "resume"), ("run", "verify"), ("run", "replay"), ("examples", "list"),
     ("examples", "show"), ("report",), ("train",)],
    ids=" ".join,
)  # fmt: skip
def test_unknown_run_or_example_exits_with_4(home: Path, invoke: Callable, arguments: tuple[str, ...]) -> None:
    assert_error(invoke(home, *arguments, "nobody"), 4, "no (run|example) 'nobody'")


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        (("run", "calls", "tour", HUGE_NUMBER), 2, "is not in the range"),
        (("run", "attempts", "tour", "--turn", HUGE_NUMBER), 2, "is not in the range"),
        (("run", "set", "tour", "target"), 2, "'target' is not KEY=VALUE.*instance target=300"),
        (("run", "replay", "tour", "--set", "domain=starter"), 2, "start --domain starter"),
        (("eval", "items", ""), 4, "no evaluation ''"),
        (("rounds", "stop", ""), 4, "no series of rounds ''"),
        (("trainings", "stop", ""), 4, "no training run ''"),
        (("export", "tour", "-o", ""), 2, "'' has no file name"),
        (("examples", "export-review", "tour", "-o", ""), 2, "'' has no file name"),
        (("export", "tour", "-o", "x.jsonl", "--base", "nosuch"), 2, "--base applies only to --solution likeliest"),
        (("ledger", "backup", ""), 2, "'' has no file name"),
        (("export", "tour", "-o", "x.jsonl", "--where", "1=1) or (1=1"), 2, "parentheses are unbalanced"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_input_is_reported_in_a_home_with_a_run(
    home: Path, invoke: Callable, arguments: tuple[str, ...], code: int, pattern: str
) -> None:
    assert_error(invoke(home, *arguments), code, pattern)


@pytest.mark.parametrize("command", [("experiment", "stop"), ("experiment", "show"), ("report",)], ids=" ".join)
def test_empty_name_matches_no_experiment(home: Path, invoke: Callable, command: tuple[str, ...]) -> None:
    with Ledger(home / "ledger.db") as ledger:
        ledger.create_experiment("table1-0a1b2c3d", "table1", "tiny", {"cells": []})
    assert_error(invoke(home, *command, ""), 4, "no (experiment|run) ''")


def test_application_without_a_terminal_is_refused(tmp_path: Path, nanoflux: Callable) -> None:
    for option in ((), ("--tour",)):
        assert_error(nanoflux(tmp_path, "tui", *option), 2, "needs a terminal.*nanoflux tui --web")


def test_verification_without_weights_says_so(tmp_path: Path, invoke: Callable) -> None:
    result = invoke(tmp_path, "models", "verify")
    assert result.code == 0 and "no weights are installed" in result.err


# Ledgers


@pytest.mark.parametrize(
    "arguments", [("run", "list"), (*START,), ("run", "resume", "tour")], ids=lambda arguments: arguments[1]
)
def test_ledger_of_a_newer_version_is_refused_and_stays_unchanged(
    home: Path, nanoflux: Callable, arguments: tuple[str, ...]
) -> None:
    with sqlite3.connect(home / "ledger.db") as connection:
        connection.execute("INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('nanoflux', 'm901_x')")
    connection.close()
    bytes_before = (home / "ledger.db").read_bytes()
    pattern = r"written by a newer version of NanoFlux \(it has the migration m901_x\).*--home"
    assert_error(nanoflux(home, *arguments), 1, pattern)
    assert (home / "ledger.db").read_bytes() == bytes_before


@pytest.mark.parametrize("arguments", [("run", "list"), (*START,)], ids=lambda arguments: arguments[1])
def test_file_that_is_not_a_ledger_is_refused_and_stays_unchanged(
    tmp_path: Path, nanoflux: Callable, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "ledger.db").write_text("dear diary\n" * 100)
    assert_error(nanoflux(tmp_path, *arguments), 1, "not a readable ledger.*restore a backup")
    assert (tmp_path / "ledger.db").read_text() == "dear diary\n" * 100


# Homes


def test_home_below_a_file_is_refused(tmp_path: Path, nanoflux: Callable) -> None:
    (tmp_path / "file").write_text("mine")
    result = nanoflux(tmp_path / "file" / "home", *START)
    assert_error(result, 2, r"home directory .*/file/home cannot be written: Not a directory.*--home or NANOFLUX_HOME")
    assert (tmp_path / "file").read_text() == "mine"


def test_read_only_home_is_reported(tmp_path: Path, nanoflux: Callable) -> None:
    """Permissions do not stop root, so the test mounts a read-only file system."""
    mount_script = f"mount -t tmpfs -o ro tmpfs {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount_script], capture_output=True).returncode:
        pytest.skip("user namespaces are disabled here, so nothing can be mounted")
    mount_and_run = ("unshare", "-rm", "sh", "-c", f'{mount_script} && exec "$@"', "sh")
    result = nanoflux(tmp_path / "home", *START, prefix=mount_and_run)
    assert_error(result, 2, "cannot be written: Read-only file system")


def test_home_of_another_user_is_reported(tmp_path: Path, nanoflux: Callable) -> None:
    as_other_user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.getuid() == 0 else ()
    import_command = [*as_other_user, sys.executable, "-c", "import nanoflux_local"]
    if as_other_user and subprocess.run(import_command, capture_output=True).returncode:
        pytest.skip("the tests run as root, and other users cannot access this interpreter")
    tmp_path.chmod(0o555)
    assert_error(nanoflux(tmp_path / "home", *START, prefix=as_other_user), 2, "cannot be written: Permission denied")


def test_missing_home_variable_is_reported_with_a_fix(tmp_path: Path, nanoflux: Callable) -> None:
    """In some containers, HOME is not set and the user has no passwd entry."""
    as_unknown_user = ("unshare", "-U", "--map-user=54321", "--map-group=54321")
    if subprocess.run([*as_unknown_user, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are disabled here")
    without_home = (*as_unknown_user, "env", "-u", "HOME", "-u", "NANOFLUX_HOME", "-u", "XDG_DATA_HOME")
    result = nanoflux("", "run", "list", prefix=without_home)
    assert_error(result, 2, "HOME is not set.*set HOME or NANOFLUX_HOME, or pass --home")
    with_tilde = (*without_home, "NANOFLUX_HOME=~/nanoflux")
    result = nanoflux("", "run", "list", prefix=with_tilde)
    assert_error(result, 2, "HOME is not set.*~/nanoflux cannot be expanded")
    assert nanoflux("", "--home", str(tmp_path / "home"), *START, "--examples", "1", prefix=without_home).code == 0


# Output for other programs


def test_pipe_gets_whole_lines_without_colours(tmp_path: Path, nanoflux: Callable, tiny_base: Path) -> None:
    """The libraries that these commands use to read and convert weights draw progress bars by default."""
    rows_file = tmp_path / "rows.jsonl"
    rows_file.write_text('{"prompt": "1 and 1?", "completion": "2"}\n{"prompt": "2?", "completion": "3"}\n')
    train_command = ("train", "--data", str(rows_file), "--base", "tiny", "--set", "epochs=1", "--json")
    import_result = nanoflux(tmp_path, "models", "import", str(tiny_base), "--name", "tiny")
    training_result = nanoflux(tmp_path, *train_command)
    adapter = training_result.json["adapter"]
    merge_result = nanoflux(tmp_path, "adapters", "merge", adapter, "-o", str(tmp_path / "merged"))
    for result in (import_result, training_result, merge_result):
        assert result.code == 0 and not re.search(r"[\r\x1b]|\d%\|", result.out + result.err), result.err


def test_sanitize_removes_colour_codes() -> None:
    assert sanitize("\x1b[31mError\x1b[0m: \x1b[1;4mgone\x1b[m") == "Error: gone"
    assert sanitize("\x1b]0;title\x07") == "�]0;title�", "another escape sequence was removed instead of shown"


# Servers

SERVER_PROFILE_TEMPLATE = """
embedder = "hashing"
[endpoints]
hashing = {{ interface = "scripted", model = "hashing" }}
server = {{ interface = "openai_chat", model = "m", url = "{url}" }}
[roles]
attacker = {{ endpoint = "server" }}
defender = {{ endpoint = "server" }}
judge = {{ endpoint = "server" }}
"""


def test_unreachable_port_is_reported_and_leaves_the_run_intact(tmp_path: Path, nanoflux: Callable) -> None:
    with socket.socket() as closed_socket:  # bound but not listening: connections are refused
        closed_socket.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed_socket.getsockname()[1]}/v1"
        profile = tmp_path / "server.toml"
        profile.write_text(SERVER_PROFILE_TEMPLATE.format(url=url))
        start_command = ("run", "start", "--domain", "starter-genetics", "--profile", str(profile))
        result = nanoflux(tmp_path / "home", *start_command, "--name", "r", "--concurrency", "1")
    assert result.code == 1 and result.out == "" and "Traceback" not in result.err
    assert f"{url} does not answer: " in result.err and "nanoflux run resume" in result.err
    summary = nanoflux(tmp_path / "home", "run", "show", "r", "--json").json
    assert (summary["status"], summary["turns"]) == ("failed", 0) and url in summary["message"]
    assert nanoflux(tmp_path / "home", "run", "verify", "r").code == 0
