"""The life cycle of a run: it starts only if it can be executed, one process executes it, and it resumes
only with unchanged models and prompts.
"""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import jobs
from nanoflux_local.config import RunConfig
from nanoflux_local.endpoints.scripted import HashingEmbedder, ScriptedEndpoint
from nanoflux_local.errors import (
    ConfigError,
    EndpointError,
    NothingMatchedError,
    RefusedError,
    ReplayMissError,
)
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, Identity
from nanoflux_local.run import binding, configs, runs
from nanoflux_models.errors import ModelsError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def resolve_config(home: Home, **settings: Any) -> RunConfig:
    """The configuration of a scripted run of six turns, unless `settings` say otherwise."""
    return configs.resolve("starter-genetics", "scripted", {"max_turns": 6, **settings}, home)


def start(home: Home, name: str = "", **settings: Any) -> str:
    """Start a run, and return its id."""
    return asyncio.run(runs.start(home, resolve_config(home, **settings), name))


def execute(home: Home, name: str = "", **settings: Any) -> str:
    """Start a run, execute it to its end, and return its id."""
    run = start(home, name, **settings)
    asyncio.run(runs.execute(home, run))
    return run


def read_summary(home: Home, run: str) -> dict[str, Any]:
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


def read_rows(home: Home, sql: str) -> list[tuple[Any, ...]]:
    with LedgerView(home.ledger) as view:
        return [tuple(row) for row in view.rows(sql)]


def read_tables(home: Home) -> list[list[tuple[Any, ...]]]:
    """All rows of the tables that a run writes."""
    return [read_rows(home, f"SELECT * FROM {table}") for table in ("calls", "runs", "turns", "examples", "jobs")]


def execute_sql(home: Home, sql: str) -> None:
    with sqlite3.connect(home.ledger) as connection:
        connection.execute(sql)
    connection.close()


# Starting


def test_run_records_its_configuration_and_identities(home: Home) -> None:
    run = start(home, "mine", seed=9)
    with LedgerView(home.ledger) as view:
        row = view.find_run("mine")
    assert (row["id"], row["status"], row["domain"]) == (run, "created", "starter-genetics")
    config = RunConfig.model_validate_json(row["config"])
    assert config == resolve_config(home, seed=9)
    environment = binding.read_recorded_identities(json.loads(row["environment"]))
    assert set(environment) == {"duelist-a", "duelist-b", "arbiter", "embedder"}


CHAT = {"interface": "openai_chat"}
"""The settings of an endpoint on a server, without the url."""
INVALID_RUNS = {
    "weights": ("starter", "embedded", {}, ModelsError, "nanoflux models pull smollm2-135m all-minilm-l6-v2"),
    "data": ("gsmhard", "scripted", {}, NothingMatchedError, "nanoflux data import gsmhard"),
    "too few seeds": ("starter-genetics", "scripted", {"seeds": {"max": 90, "min": 90}}, NothingMatchedError, "seeds"),
    "no url": ("starter-genetics", "scripted", {"endpoints": {"arbiter": CHAT}}, ConfigError, "arbiter.url is missing"),
    "no key": (
        "starter-genetics", "scripted",
        {"endpoints": {"arbiter": {**CHAT, "url": "http://127.0.0.1:1/v1", "key_env": "NO_SUCH_KEY"}}},
        ConfigError, "NO_SUCH_KEY is not set",
    ),
    "an embedder for a judge": (
        "starter-genetics", "scripted", {"endpoints": {"arbiter": {"interface": "embedder"}}}, ConfigError, "no role"
    ),
}  # fmt: skip
"""Runs that cannot start, by what is missing or wrong: the domain, the profile, the settings, the type of the error,
and a part of its message.
"""


@pytest.mark.parametrize(("domain", "profile", "settings", "error", "message"), INVALID_RUNS.values(), ids=INVALID_RUNS)
def test_run_that_cannot_start_is_refused_before_it_is_stored(home: Home, domain, profile, settings, error, message):
    with pytest.raises(error) as error_info:
        config = configs.resolve(domain, profile, settings, home)
        asyncio.run(runs.start(home, config))
    assert message in str(error_info.value)
    assert not home.ledger.exists() or read_rows(home, "SELECT * FROM runs") == []


# Executing


def test_finished_run_is_done_and_has_its_wall_clock_time(home: Home) -> None:
    result = read_summary(home, execute(home))
    assert (result["status"], result["turns"], result["message"], result["repeatable"]) == ("done", 6, "", True)
    assert result["seconds"] > 0
    assert read_rows(home, "SELECT kind, state FROM jobs") == [("run", "done")]


def test_second_run_with_equal_settings_makes_no_call_and_has_the_same_dataset(home: Home) -> None:
    first_summary, second_summary = (read_summary(home, execute(home, name)) for name in ("first", "second"))
    assert second_summary["digest"] == first_summary["digest"]
    assert second_summary["calls"] == {
        "made": 0,
        "remembered": first_summary["calls"]["made"] - first_summary["calls"]["wasted"],
        "wasted": 0,
    }
    assert second_summary["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0, "reasoning_tokens": 0}


def test_different_random_seed_gives_a_different_dataset(home: Home) -> None:
    run, run_with_other_seed = execute(home), execute(home, seed=1)
    assert read_summary(home, run)["digest"] != read_summary(home, run_with_other_seed)["digest"]


def test_failed_run_records_the_error_and_resumes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(home, max_turns=20, concurrency=1)
    original_chat = ScriptedEndpoint.chat
    calls_left = 30

    async def fail_once(self: ScriptedEndpoint, request: ChatRequest) -> ChatReply:
        nonlocal calls_left
        calls_left -= 1
        if calls_left == 0:
            raise EndpointError("http://127.0.0.1:1 does not answer")
        return await original_chat(self, request)

    monkeypatch.setattr(ScriptedEndpoint, "chat", fail_once)
    with pytest.raises(EndpointError):
        asyncio.run(runs.execute(home, run))
    failed = read_summary(home, run)
    assert (failed["status"], failed["message"]) == ("failed", "http://127.0.0.1:1 does not answer")
    assert 0 < failed["turns"] < 20
    asyncio.run(runs.execute(home, run))
    resumed = read_summary(home, run)
    assert (resumed["status"], resumed["message"], resumed["turns"]) == ("done", "", 20)
    assert resumed["seconds"] > failed["seconds"]
    undisturbed_home = Home(home.root / "undisturbed").prepare()
    undisturbed_run = execute(undisturbed_home, max_turns=20)
    assert resumed["digest"] == read_summary(undisturbed_home, undisturbed_run)["digest"]
    assert read_rows(home, "SELECT state FROM jobs ORDER BY id") == [("failed",), ("done",)]


def test_cancelled_run_is_interrupted_and_resumes(home: Home) -> None:
    run = start(home, endpoints={"duelist-a": {"delay_s": 0.01}})

    async def execute_and_cancel() -> None:
        def cancel_after_first_turn(_: Any) -> None:
            task.cancel()

        task = asyncio.create_task(runs.execute(home, run, cancel_after_first_turn))
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(execute_and_cancel())
    assert read_summary(home, run)["status"] == "interrupted"
    asyncio.run(runs.execute(home, run))
    assert read_summary(home, run)["status"] == "done"


# One process at a time


def test_run_is_executed_by_at_most_one_worker(home: Home) -> None:
    run = start(home)
    assert not jobs.has_worker(home, jobs.Job(jobs.RUN, run))
    with jobs.hold_lock(home, jobs.Job(jobs.RUN, run)):
        assert jobs.has_worker(home, jobs.Job(jobs.RUN, run))
        assert not jobs.has_worker(home, jobs.Job(jobs.RUN, "another"))
        with pytest.raises(RefusedError, match="another process is working on") as error:
            asyncio.run(runs.execute(home, run))
        assert error.value.exit_code == 3
        assert read_summary(home, run)["turns"] == 0
    assert not jobs.has_worker(home, jobs.Job(jobs.RUN, run))


def test_reader_does_not_block_a_worker(home: Home) -> None:
    """The lock of a run can always be taken, even while two threads repeatedly check whether the run has a worker."""
    run = start(home)
    stop = threading.Event()
    with jobs.hold_lock(home, jobs.Job(jobs.RUN, run)):
        pass  # creates the lock file

    def poll() -> None:
        while not stop.is_set():
            jobs.has_worker(home, jobs.Job(jobs.RUN, run))

    threads = [threading.Thread(target=poll) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            with jobs.hold_lock(home, jobs.Job(jobs.RUN, run)):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_leftover_lock_file_does_not_lock_the_run(home: Home) -> None:
    run = start(home)
    home.lock(f"run-{run}").write_text("left behind by a process that was killed")
    assert not jobs.has_worker(home, jobs.Job(jobs.RUN, run))
    asyncio.run(runs.execute(home, run))


def test_ledger_moved_to_another_home_can_be_resumed(home: Home, tmp_path: Path) -> None:
    run = start(home)
    other_home = Home(tmp_path / "elsewhere")
    other_home.root.mkdir()
    other_home.ledger.write_bytes(home.ledger.read_bytes())
    assert not jobs.has_worker(other_home, jobs.Job(jobs.RUN, run))
    asyncio.run(runs.execute(other_home, run))
    assert read_summary(other_home, run)["status"] == "done"


# Resuming with equal models and prompts


@pytest.mark.parametrize(
    ("endpoint_type", "names"),
    [(ScriptedEndpoint, "endpoint (duelist-a|duelist-b|arbiter)"), (HashingEmbedder, "the embedder")],
)
def test_resume_with_changed_models_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, endpoint_type: type, names: str
):
    run = start(home)
    original_init = endpoint_type.__init__

    def init_with_revision(self: Any, model: str, *rest: Any) -> None:
        original_init(self, model, *rest)
        self.identity = Identity("scripted", model, revision="2")

    with monkeypatch.context() as patch:
        patch.setattr(endpoint_type, "__init__", init_with_revision)
        with pytest.raises(
            RefusedError, match=f"^{names} has changed since this run started: revision was .*, is now 2"
        ):
            asyncio.run(runs.execute(home, run))
    assert read_summary(home, run)["status"] == "created" and read_rows(home, "SELECT * FROM calls") == []
    asyncio.run(runs.execute(home, run))


def test_refusal_of_drift_names_the_fields_that_differ() -> None:
    recorded = {"writer": Identity("vllm", "llama", revision="3fa9", variant="bf16"), "search": Identity("corpus", "c")}
    changed = {**recorded, "writer": Identity("vllm", "llama", revision="77c1", adapter="a0", variant="bf16")}
    with pytest.raises(RefusedError) as refusal:
        binding.refuse_drift(recorded, changed)
    assert refusal.value.message == (
        "endpoint writer has changed since this run started: "
        "revision was 3fa9, is now 77c1; adapter was empty, is now a0"
    )
    with pytest.raises(RefusedError, match=r"^the search is no longer configured") as refusal:
        binding.refuse_drift(recorded, {"writer": recorded["writer"]})
    assert refusal.value.fix == "restore the search, or start a new run"
    binding.refuse_drift(recorded, {**recorded, "added": Identity("vllm", "qwen")})


def test_resume_and_replay_with_changed_prompts_are_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    run = execute(home)
    domain = binding.load_domain("starter-genetics")
    changed_domain = domain.model_copy(update={"prompts": {**domain.prompts, "attacker": "Ask something."}})
    monkeypatch.setattr(binding, "load_domain", lambda *_: changed_domain)
    for action in (runs.execute, runs.replay):
        with pytest.raises(RefusedError, match="the prompt 'attacker' of 'starter-genetics' has changed"):
            asyncio.run(action(home, run))


# Replay


@pytest.fixture
def remove_endpoints(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that replaces the endpoints, the embedder and the sandbox, so that any use of them fails the test."""

    def fail(*_: object) -> None:
        raise AssertionError("the replay used an endpoint, the embedder or the sandbox")

    def remove() -> None:
        for name in ("bind", "build_endpoints", "build_embedder"):
            monkeypatch.setattr(binding, name, fail)
        for owner, name in ((runs, "bind"), (ScriptedEndpoint, "chat"), (HashingEmbedder, "embed")):
            monkeypatch.setattr(owner, name, fail)

    return remove


def replay(home: Home, run: str) -> dict[str, Any]:
    return asdict(asyncio.run(runs.replay(home, run)))


def test_replay_gives_the_same_dataset_without_endpoints_or_writes(
    home: Home, remove_endpoints: Callable[[], None]
) -> None:
    run = execute(home, max_turns=15)
    tables_before, summary = read_tables(home), read_summary(home, run)
    remove_endpoints()
    result = replay(home, run)
    assert result == {
        "run": run, "turns": 15, "kept": summary["kept"], "digest": summary["digest"],
        "recorded_digest": summary["digest"], "same": True,
    }  # fmt: skip
    assert read_tables(home) == tables_before


@pytest.mark.parametrize("kind", ["chat", "embed"])
def test_error_on_a_missing_call_in_a_replay_names_its_kind(
    home: Home, remove_endpoints: Callable[[], None], kind: str
) -> None:
    run = execute(home)
    remove_endpoints()
    execute_sql(home, f"DELETE FROM calls WHERE kind = '{kind}'")
    with pytest.raises(ReplayMissError, match=f"does not contain a {kind} call"):
        replay(home, run)


def test_replay_reports_that_recorded_turns_were_changed(home: Home) -> None:
    run = execute(home)
    execute_sql(home, """UPDATE turns SET record = replace(record, '"solution":"', '"solution":"So, ')""")
    result = replay(home, run)
    original_digest = read_summary(home, run)["digest"]
    assert not result["same"] and result["digest"] == original_digest != result["recorded_digest"]


def test_replay_of_a_run_without_turns_is_refused(home: Home) -> None:
    run = start(home)
    with pytest.raises(NothingMatchedError, match="has no turns to replay") as refusal:
        replay(home, run)
    assert refusal.value.fix == f"resume it first: `nanoflux run resume {run}`"
