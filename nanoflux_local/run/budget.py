"""Budgets: caps on what a run and its roles may spend.

Before a call is sent, its maximum cost is reserved; when the reply arrives, the actual cost replaces the reservation. A
cap is therefore never exceeded, however many calls are in flight. The endpoints know the prices.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanoflux_local.config import ROLES, Budget, Caps
from nanoflux_local.endpoints.faults import FAULT_LISTENER, FaultListener, reporting_faults
from nanoflux_local.errors import BudgetError
from nanoflux_local.ledger.calls import ROLE, Answer
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.records import ChatReply, ChatRequest, Fault, Reply

TOKENS_PER_MESSAGE = 16
"""An upper bound on the tokens that a chat template adds to one message."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars, tokens and seconds of calls."""

    usd: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def plus(self, other: "Cost") -> "Cost":
        return Cost(self.usd + other.usd, self.tokens + other.tokens, self.seconds + other.seconds)

    def minus(self, other: "Cost") -> "Cost":
        return Cost(self.usd - other.usd, self.tokens - other.tokens, self.seconds - other.seconds)


@dataclass(slots=True)
class Account:
    """What a run or a role has spent, and what its calls in flight may still cost. `key` is the prefix of its caps'
    names in `budget`: "" for the run, "roles.judge." for the judge.
    """

    key: str
    caps: Caps
    spent: Cost = Cost()
    reserved: Cost = Cost()
    in_flight: int = 0

    def find_exceeded_cap(self, cost: Cost) -> str:
        """The name of a cap that a call with the maximum cost `cost` could exceed, or ""."""
        total = self.spent.plus(self.reserved).plus(cost)
        if self.caps.usd is not None and total.usd > self.caps.usd + 1e-9:
            return "usd"
        if self.caps.tokens is not None and total.tokens > self.caps.tokens:
            return "tokens"
        if self.caps.hours is not None and self.spent.seconds >= self.caps.hours * 3600:
            return "hours"
        return ""


CostBound = Callable[[ChatRequest], Cost]
"""Returns the maximum cost of a request."""


def bound_prompt_tokens(request: ChatRequest) -> int:
    """An upper bound on the prompt's tokens: no tokenizer splits a text into more tokens than it has bytes."""
    return request.prompt_bytes + TOKENS_PER_MESSAGE * len(request.messages)


@dataclass(slots=True)
class RunAccounts:
    """The accounts of one run and of its roles ("" for the run). `bound_cost` returns the maximum cost of a request."""

    budget: Budget
    bound_cost: CostBound
    by_role: dict[str, Account] = field(default_factory=dict)
    _settled: asyncio.Event = field(default_factory=asyncio.Event)
    _started: float = field(default_factory=time.monotonic)
    _prior_seconds: float = 0.0
    _capped: bool = True

    @classmethod
    def load(cls, ledger: Ledger, run: str, budget: Budget, bound_cost: CostBound) -> "RunAccounts":
        """Load what the run has spent so far: its stored calls, and failed requests that may have cost money."""
        spent_by_role = {
            role: Cost(usd, tokens, seconds)
            for role, usd, tokens, seconds in ledger.rows(
                "SELECT role, sum(usd), sum(tokens), sum(seconds) FROM ("
                " SELECT role, usd, prompt_tokens + completion_tokens AS tokens, seconds FROM calls WHERE run = ?1"
                " UNION ALL SELECT role, usd, tokens, seconds FROM faults WHERE run = ?1) GROUP BY role",
                run,
            )
        }
        accounts = cls(
            budget, bound_cost, _prior_seconds=ledger.rows("SELECT seconds FROM runs WHERE id = ?", run)[0][0]
        )
        total = Cost()
        for cost in spent_by_role.values():
            total = total.plus(cost)
        accounts.by_role = {role: Account(f"roles.{role}.", Caps(), spent_by_role.get(role, Cost())) for role in ROLES}
        accounts.by_role[""] = Account("", Caps(), total)
        accounts.set_budget(budget)
        return accounts

    def set_budget(self, budget: Budget) -> None:
        """Apply new caps from now on."""
        self.budget = budget
        self._capped = budget != Budget()
        for role in ROLES:
            self.by_role[role].caps = getattr(budget.roles, role)
        self.by_role[""].caps = budget.model_copy(update={"hours": None})  # a run's hours are wall-clock time
        self._settled.set()

    def guard(self, answers: Mapping[str, Answer]) -> dict[str, Answer]:
        """Wrap the functions that answer requests, so that each call first reserves its cost."""
        return {kind: self._guard_answer(answer) for kind, answer in answers.items()}

    def _guard_answer(self, answer: Answer) -> Answer:
        async def call(request: Any) -> Reply:
            accounts = [self.by_role[name] for name in dict.fromkeys(("", ROLE.get())) if name in self.by_role]
            max_cost = self._bound_request(request)
            await self._reserve(accounts, max_cost)
            listener = FAULT_LISTENER.get()
            with reporting_faults(lambda fault: self._charge_failure(accounts, fault, listener)):
                return await self._charge_reply(accounts, max_cost, answer(request))

        return call

    def _charge_failure(self, accounts: list[Account], fault: Fault, listener: FaultListener) -> None:
        """Charge a failed attempt for what it may have cost; the reservation stays, since the retry may cost as much.

        Raises:
            BudgetError: the retry no longer fits.
        """
        listener(fault)
        if fault.kind == "refused_parameter":  # free, and the request is already being resent without the parameter
            return
        for account in accounts:
            account.spent = account.spent.plus(Cost(fault.usd, fault.tokens, fault.seconds))
        for account in accounts:
            cap = account.find_exceeded_cap(Cost())
            if cap:
                raise self._make_budget_error(f"{account.key}{cap}", getattr(account.caps, cap))

    def _bound_request(self, request: Any) -> Cost:
        """The maximum cost of a call; not computed while nothing is capped."""
        if not isinstance(request, ChatRequest) or not self._capped:
            return Cost()
        return self.bound_cost(request)

    async def _reserve(self, accounts: list[Account], max_cost: Cost) -> None:
        """Reserve `max_cost` in every account, waiting for calls in flight to release what they did not need.

        Raises:
            BudgetError: the cost does not fit, and no call in flight could release enough.
        """
        while True:
            self._refuse_spent_hours()
            exceeded = next(
                ((account, cap) for account in accounts if (cap := account.find_exceeded_cap(max_cost))), None
            )
            if exceeded is None:
                break
            account, cap = exceeded
            if cap == "hours" or not account.in_flight:
                raise self._make_budget_error(f"{account.key}{cap}", getattr(account.caps, cap))
            self._settled.clear()
            await self._settled.wait()
        for account in accounts:
            account.reserved = account.reserved.plus(max_cost)
            account.in_flight += 1

    async def _charge_reply(self, accounts: list[Account], max_cost: Cost, answer: Awaitable[Reply]) -> Reply:
        """Await the reply, then replace the reservation with the actual cost."""
        cost = Cost()
        try:
            reply = await answer
            if isinstance(reply, ChatReply):
                cost = Cost(reply.usd, reply.prompt_tokens + reply.completion_tokens, reply.seconds)
            return reply
        finally:
            for account in accounts:
                account.reserved = account.reserved.minus(max_cost) if account.in_flight > 1 else Cost()
                account.spent = account.spent.plus(cost)
                account.in_flight -= 1
            self._settled.set()

    def _refuse_spent_hours(self) -> None:
        hours = self.budget.hours
        if hours is not None and self._prior_seconds + time.monotonic() - self._started >= hours * 3600:
            raise self._make_budget_error("hours", hours)

    def _make_budget_error(self, cap: str, limit: float) -> BudgetError:
        return BudgetError(
            f"the next call could exceed budget.{cap} = {limit:g}; the run is paused",
            f"raise it with `nanoflux run set RUN budget.{cap}=…`, then `nanoflux run resume RUN`",
        )
