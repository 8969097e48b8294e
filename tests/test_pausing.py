"""What pauses a run: a server that asks for a long pause, and unreadable replies. A paused run can be resumed."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nanoflux_local.endpoints.chaos import Chaos
from nanoflux_local.endpoints.fake_server import FakeServer
from nanoflux_local.endpoints.remote import retries
from nanoflux_local.endpoints.scripted import write_reply
from nanoflux_local.errors import BusyError, UnreadableReplyError
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.run.streaks import Streaks
from nanoflux_local.transcript import Attack, Attempt, Defence, TurnRecord, Verdict

API_KEY = "sk-0123456789abcdef0123456789"
"""A text in the form of an API key, which messages must mask."""


@pytest.fixture(autouse=True)
def short_retry_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BASE_S", 0.001)
    monkeypatch.setattr(retries, "MAX_PAUSE_S", 0.01)


def start_run(home: Home, url: str, **settings: Any) -> str:
    """Start a run whose three models are on the server at `url`, and return its id."""
    endpoint = {"interface": "openai_chat", "url": url, "timeout_s": 30.0}
    values = {"endpoints": dict.fromkeys(("duelist-a", "duelist-b", "arbiter"), endpoint), "seed": 7, "target": 10_000,
              "reply_tokens": 200, "max_turns": 24, **settings}  # fmt: skip
    return asyncio.run(runs.start(home.prepare(), configs.resolve("starter-genetics", "scripted", values, home)))


def execute(home: Home, run: str) -> dict[str, Any]:
    """Execute a run to its end, and return its state."""
    asyncio.run(runs.execute(home, run))
    return read_state(home, run)


def read_state(home: Home, run: str) -> dict[str, Any]:
    """The summary of a run, the reasons for its failures, and the problems that its verification finds."""
    with LedgerView(home.ledger) as view:
        return {
            **view.summarize_run(run).to_json(),
            **view.failure_reasons(run),
            "problems": list(verify_run(view, run)),
        }


@pytest.mark.parametrize("concurrency", [1, 4])
def test_busy_server_pauses_the_run(tmp_path: Path, fake_server, concurrency: int) -> None:
    url, server = fake_server(Chaos({"rate_limited": 1.0}, retry_after_s=43200))
    home = Home(tmp_path)
    run = start_run(home, url, concurrency=concurrency, max_turns=4)
    with pytest.raises(BusyError, match="asks for a pause until"):
        execute(home, run)
    paused = read_state(home, run)
    assert paused["status"] == "paused" and "asks for a pause until" in paused["message"]
    server.chaos.rates = {}
    assert execute(home, run)["status"] == "done"


def reply_without_attacks(prompt: str, rng: Random) -> str:
    """The usual scripted reply of each role, except that the attacker's replies contain no section."""
    reply = write_reply(prompt, rng)
    is_attack = "QUESTION:" in reply
    return f"Here is my key {API_KEY}, and nothing that was asked for." if is_attack else reply


def test_unreadable_replies_pause_the_run_at_the_same_turn_at_any_concurrency(tmp_path: Path, fake_server) -> None:
    paused_states = []
    for concurrency in (1, 8):
        url, server = fake_server(server=FakeServer(script=reply_without_attacks))
        home = Home(tmp_path / str(concurrency))
        run = start_run(home, url, concurrency=concurrency, pause_after_unread=12)
        with pytest.raises(UnreadableReplyError) as error:
            execute(home, run)
        assert "12 consecutive attempts got no readable reply at the attack from duelist-a" in error.value.message
        assert "Here is my key [secret], and nothing" in error.value.message and API_KEY not in str(error.value)
        paused = read_state(home, run)
        assert paused["status"] == "paused" and "got no readable reply" in paused["message"] and not paused["problems"]
        assert sum(paused["unread"].values()) == paused["funnel"]["unparsed"] == paused["funnel"]["attempts"]
        assert asyncio.run(runs.replay(home, run)).same
        paused_states.append((paused["turns"], paused["unread"]))
        server.script = write_reply
        assert execute_until_done(home, run)["status"] == "done"
    assert paused_states[0] == paused_states[1]
    paused_turns, _ = paused_states[0]
    assert paused_turns == 3


def execute_until_done(home: Home, run: str) -> dict[str, Any]:
    """Resume a run until it is done. It may pause again, since the ledger has the unreadable replies of speculative
    turns that started before the first pause.
    """
    for _ in range(10):
        with suppress(UnreadableReplyError):
            return execute(home, run)
    raise AssertionError("the run was not done after it was resumed ten times")


def test_server_whose_replies_are_all_empty_pauses_the_run(tmp_path: Path, fake_server) -> None:
    url, _ = fake_server(Chaos({"empty": 1.0}))
    home = Home(tmp_path)
    run = start_run(home, url, concurrency=8, pause_after_unread=4, retries={"validation": 1})
    with pytest.raises(UnreadableReplyError, match="4 consecutive attempts got no readable reply at the attack"):
        execute(home, run)
    assert read_state(home, run)["status"] == "paused"


def test_paused_run_resumes_without_pauses_if_pause_after_unread_is_zero(tmp_path: Path, fake_server) -> None:
    url, _ = fake_server(server=FakeServer(script=reply_without_attacks))
    home = Home(tmp_path)
    run = start_run(home, url, concurrency=2, pause_after_unread=4, max_turns=6, retries={"validation": 1})
    with pytest.raises(UnreadableReplyError):
        execute(home, run)
    runs.change(home, run, {"pause_after_unread": 0})
    assert execute(home, run)["status"] == "done"


def test_run_show_prints_the_cost_in_dollars_and_why_replies_were_unreadable(
    tmp_path: Path, fake_server, monkeypatch, capfd
) -> None:
    from nanoflux_local.cli.main import main

    url, _ = fake_server()
    home = Home(tmp_path)
    price = {"prompt": 1000, "completion": 1000}
    endpoint = {"interface": "openai_chat", "url": url, "timeout_s": 30.0, "price": price}
    run = start_run(home, url, max_turns=12, endpoints=dict.fromkeys(("duelist-a", "duelist-b", "arbiter"), endpoint))
    finished = execute(home, run)
    monkeypatch.setenv("NANOFLUX_HOME", str(home.root))
    outputs = []
    for options in ((), ("--json",)):
        with pytest.raises(SystemExit):
            main(["run", "show", run, *options])
        outputs.append(capfd.readouterr().out)
    text_output, json_output = outputs
    rows = [line.split(maxsplit=1) for line in text_output.splitlines()]
    assert ["dollars", f"{finished['usage']['usd']:.4f}"] in rows and finished["usage"]["usd"] > 0
    result = json.loads(json_output)
    assert result["unread"] == finished["unread"] and result["refused"] == {}
    for reason, count in result["unread"].items():
        assert [str(count), reason] in rows


# Streaks


ATTACK = Attack("How many?", "2 + 2 = 4.", "4")
READABLE_ATTEMPT = Attempt(
    0,
    (),
    "kept_failed",
    attack=ATTACK,
    validation=Verdict(True, 1.0, ""),
    defence=Defence("", "5"),
    evaluation=Verdict(False, 1.0, ""),
)
UNREADABLE_ATTACK = Attempt(0, (), "unparsed", reason="missing section QUESTION")
UNREADABLE_VALIDATION = Attempt(0, (), "failed", reason="validation: missing section DECISION", attack=ATTACK)


def make_turn(number: int, *attempts: Attempt, attacker: str = "attacker-1") -> TurnRecord:
    return TurnRecord(number, attacker, "defender", "judge", attempts)


def test_streak_counts_one_step_of_one_endpoint() -> None:
    """Two attackers alternate, and the second one's attacks are never readable."""
    streaks = Streaks()
    for number in (0, 2):
        assert streaks.add(make_turn(number, READABLE_ATTEMPT, attacker="attacker-1"), 3) is None
        assert streaks.add(make_turn(number + 1, UNREADABLE_ATTACK, attacker="attacker-2"), 3) is None
    assert streaks.add(make_turn(4, UNREADABLE_VALIDATION, attacker="attacker-1"), 3) is None
    streak = streaks.add(make_turn(5, UNREADABLE_ATTACK, attacker="attacker-2"), 3)
    assert streak is not None and (streak.step, streak.endpoint, streak.attempts) == ("attack", "attacker-2", 3)


def test_streak_ends_at_a_readable_reply_and_is_reported_at_each_multiple_of_the_limit() -> None:
    streaks = Streaks()
    two_unreadable_attacks = (UNREADABLE_ATTACK, UNREADABLE_ATTACK)
    assert streaks.add(make_turn(0, *two_unreadable_attacks), 3) is None
    assert streaks.add(make_turn(1, *two_unreadable_attacks, READABLE_ATTEMPT), 3) is None
    reported_streaks = [streaks.add(make_turn(number, *two_unreadable_attacks), 3) for number in range(2, 6)]
    assert [streak.attempts if streak else None for streak in reported_streaks] == [None, 4, 6, None]
    streak = streaks.add(make_turn(6, UNREADABLE_VALIDATION), 3)
    assert streak is None, "a readable attack did not end the streak of attacks"
    assert streaks.add(make_turn(7, UNREADABLE_ATTACK), 0) is None


def test_run_without_any_readable_reply_is_paused_at_its_turn_limit(tmp_path: Path, fake_server) -> None:
    """The run has too few attempts for a streak that pauses it. It must not end as done, not even after a resume."""
    url, _ = fake_server(server=FakeServer(script=lambda prompt, rng: "I would rather not."))
    home = Home(tmp_path)
    run = start_run(home, url, concurrency=1, max_turns=1, retries={"validation": 1, "parse": 0})
    for _ in range(2):
        with pytest.raises(
            UnreadableReplyError,
            match=r"no reply was readable before the turn limit \(1\) was reached: missing section",
        ):
            execute(home, run)
        assert read_state(home, run)["status"] == "paused"
