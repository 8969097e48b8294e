"""Budgets: no cap is exceeded, a reached cap pauses the run, and the resumed run has the dataset of an uncapped one."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.config import Budget, RunConfig
from nanoflux_local.endpoints.faults import FAULT_LISTENER
from nanoflux_local.errors import BudgetError, ConfigError
from nanoflux_local.ledger.calls import acting_as
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, Fault, FaultKind, Identity, Message, Reply
from nanoflux_local.run import binding, configs, runs
from nanoflux_local.run.budget import WHOLE_RUN, Cost, RunAccounts

REQUEST = ChatRequest(Identity("test", "m"), (Message("user", "hello"),))
"""A request whose content does not matter: the functions that answer it set the cost."""
UNREACHED_TOKENS = 10**9
"""A cap that no run of these tests reaches."""


def start_run(home: Home, **settings: Any) -> str:
    """Start a scripted run of 12 turns, and return its id."""
    config = configs.resolve("starter-genetics", "scripted", {"max_turns": 12, "seeds": {"min": 2}, **settings}, home)
    return asyncio.run(runs.start(home, config))


def read_summary(home: Home, run: str) -> dict[str, Any]:
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


@pytest.mark.parametrize("budget", [{"tokens": 12_000}, {"roles": {"judge": {"tokens": 9_000}}}])
def test_run_paused_by_its_budget_resumes_with_the_dataset_of_an_uncapped_run(
    tmp_path: Path, budget: dict[str, Any]
) -> None:
    uncapped_home, capped_home = (Home(tmp_path / name).prepare() for name in ("uncapped", "capped"))
    uncapped_run = start_run(uncapped_home)
    asyncio.run(runs.execute(uncapped_home, uncapped_run))
    run = start_run(capped_home, budget=budget)
    with pytest.raises(BudgetError, match="tokens") as error:
        asyncio.run(runs.execute(capped_home, run))
    assert error.value.exit_code == 3
    paused = read_summary(capped_home, run)
    assert paused["status"] == "paused" and "budget." in paused["message"]
    with LedgerView(capped_home.ledger) as view:
        rows = view.rows("SELECT role, sum(prompt_tokens + completion_tokens) AS tokens FROM calls GROUP BY role")
        tokens_by_role = {row["role"]: row["tokens"] for row in rows}
    judge_cap = budget.get("roles", {}).get("judge", {}).get("tokens", UNREACHED_TOKENS)
    assert sum(tokens_by_role.values()) <= budget.get("tokens", UNREACHED_TOKENS)
    assert 0 < tokens_by_role["judge"] <= judge_cap and tokens_by_role["attacker"] > 0
    runs.change(
        capped_home, run, {"budget": {"tokens": UNREACHED_TOKENS, "roles": {"judge": {"tokens": UNREACHED_TOKENS}}}}
    )
    asyncio.run(runs.execute(capped_home, run))
    assert read_summary(capped_home, run)["digest"] == read_summary(uncapped_home, uncapped_run)["digest"]


def make_accounts(ledger: Ledger, budget: Budget, max_cost: Cost) -> RunAccounts:
    """The accounts of a new run, each of whose calls costs at most `max_cost`."""
    ledger.create_run("r", "r", {"domain": "d", "target": 1, "max_turns": 1}, {})
    return RunAccounts.load(ledger, "r", budget, lambda _: max_cost)


async def test_call_reserves_its_maximum_cost_and_releases_the_rest(tmp_path: Path) -> None:
    """Each of ten calls may cost a dollar but costs ten cents: a cap of three dollars admits three concurrent calls."""
    in_flight = max_in_flight = 0

    async def answer(request: ChatRequest) -> Reply:
        nonlocal in_flight, max_in_flight
        in_flight += 1
        max_in_flight = max(max_in_flight, in_flight)
        await asyncio.sleep(0.001)
        in_flight -= 1
        return ChatReply("", "stop", usd=0.1)

    with Ledger(tmp_path / "ledger.db") as ledger:
        accounts = make_accounts(ledger, Budget(usd=3.0), Cost(usd=1.0))
        call = accounts.enforce_caps({"chat": answer})["chat"]
        await asyncio.gather(*(call(REQUEST) for _ in range(10)))
    assert max_in_flight == 3
    assert accounts.by_role[WHOLE_RUN].spent.usd == pytest.approx(1.0)
    assert accounts.by_role[WHOLE_RUN].reserved == Cost()


async def test_cap_of_a_role_limits_only_its_calls_and_a_failed_call_releases_its_reservation(tmp_path: Path) -> None:
    async def answer(request: ChatRequest) -> Reply:
        return ChatReply("", "stop", usd=1.0)

    async def fail(request: ChatRequest) -> Reply:
        raise OSError("gone")

    with Ledger(tmp_path / "ledger.db") as ledger:
        accounts = make_accounts(ledger, Budget.model_validate({"roles": {"judge": {"usd": 1.5}}}), Cost(usd=1.0))
        call = accounts.enforce_caps({"chat": answer})["chat"]
        with acting_as("judge"):
            with pytest.raises(OSError, match="gone"):
                await accounts.enforce_caps({"chat": fail})["chat"](REQUEST)
            await call(REQUEST)
            with pytest.raises(BudgetError, match=r"roles\.judge\.usd"):
                await call(REQUEST)
        with acting_as("attacker"):
            await call(REQUEST)
            await call(REQUEST)
    assert accounts.by_role["judge"].spent.usd == 1.0


@pytest.mark.parametrize(("kind", "reply_is_kept"), [("refused_parameter", True), ("server_error", False)])
async def test_cap_lowered_during_a_call_ends_its_retries_but_keeps_a_paid_reply(
    tmp_path: Path, kind: FaultKind, reply_is_kept: bool
) -> None:
    """An endpoint retries without a refused parameter, and reports the fault only once the retry's reply has arrived.
    The report of that fault must not discard the paid reply.
    """

    async def answer(request: ChatRequest) -> Reply:
        accounts.set_budget(Budget(usd=0.5))
        report_fault = FAULT_LISTENER.get()
        report_fault(Fault("m", kind, "x"))
        return ChatReply("paid", "stop", usd=1.0)

    with Ledger(tmp_path / "ledger.db") as ledger:
        accounts = make_accounts(ledger, Budget(usd=1.0), Cost(usd=1.0))
        pending_reply = accounts.enforce_caps({"chat": answer})["chat"](REQUEST)
        if reply_is_kept:
            assert (await pending_reply) == ChatReply("paid", "stop", usd=1.0)
        else:
            with pytest.raises(BudgetError):
                await pending_reply


async def test_next_call_is_refused_once_the_hours_are_spent(tmp_path: Path) -> None:
    async def answer(request: ChatRequest) -> Reply:
        return ChatReply("", "stop", seconds=3600)

    with Ledger(tmp_path / "ledger.db") as ledger:
        accounts = make_accounts(ledger, Budget.model_validate({"roles": {"judge": {"hours": 1}}}), Cost())
        call = accounts.enforce_caps({"chat": answer})["chat"]
        with acting_as("judge"):
            await call(REQUEST)
            with pytest.raises(BudgetError, match=r"roles\.judge\.hours"):
                await call(REQUEST)
        accounts.set_budget(Budget(hours=0))
        with pytest.raises(BudgetError, match=r"budget\.hours"):
            await call(REQUEST)


REMOTE_ENDPOINT = {"interface": "openai_chat", "model": "m", "url": "http://127.0.0.1:9/v1"}
"""An endpoint without a price, at an address at which no server listens."""


@pytest.mark.parametrize("budget", [{"usd": 1.0}, {"roles": {"attacker": {"usd": 1.0}}}])
def test_dollar_cap_is_refused_if_an_endpoint_has_no_price(tmp_path: Path, budget: dict[str, Any]) -> None:
    def resolve(endpoint: dict[str, Any]) -> RunConfig:
        overrides = {"endpoints": {"remote": endpoint}, "roles": {"judge": {"endpoint": "remote"}}, "budget": budget}
        return configs.resolve("starter-genetics", "scripted", overrides, Home(tmp_path))

    with pytest.raises(ConfigError, match=r"endpoints\.remote\.price is unknown"):
        resolve(REMOTE_ENDPOINT)
    config = resolve({**REMOTE_ENDPOINT, "price": {"prompt": 2, "completion": 8}})
    assert binding.bind(config, Home(tmp_path)).endpoints["remote"].price.cost(1_000_000, 500_000) == 6


def test_dollar_cap_refuses_a_call_that_could_exceed_it(tmp_path: Path) -> None:
    """The run pauses before it sends a request to the priced endpoint, which does not exist."""
    home = Home(tmp_path).prepare()
    run = start_run(
        home,
        endpoints={"remote": {**REMOTE_ENDPOINT, "price": {"prompt": 2, "completion": 8}}},
        roles={"judge": {"endpoint": "remote"}},
        budget={"usd": 0.0001},
    )
    with pytest.raises(BudgetError, match=r"budget\.usd"):
        asyncio.run(runs.execute(home, run))
    assert read_summary(home, run)["status"] == "paused"
