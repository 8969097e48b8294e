"""Budgets: caps on what a run and its roles may spend, held by a reservation before each call goes out.

A call reserves the most it could cost; when its reply is there, what it did cost takes the reservation's place. So a
cap is never passed, however many calls are under way. Owns no prices: what answers a request knows its own.
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

PER_MESSAGE = 16
"""Tokens that a chat template may put around one message."""


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
    """What one holder of caps has spent, and what its calls under way may spend yet."""

    name: str
    caps: Caps
    spent: Cost = Cost()
    reserved: Cost = Cost()
    under_way: int = 0

    def over(self, worst: Cost) -> str:
        """The name of a cap that a call of at most `worst` could pass, or ""."""
        least = self.spent.plus(self.reserved).plus(worst)
        if self.caps.usd is not None and least.usd > self.caps.usd + 1e-9:
            return "usd"
        if self.caps.tokens is not None and least.tokens > self.caps.tokens:
            return "tokens"
        if self.caps.hours is not None and self.spent.seconds >= self.caps.hours * 3600:
            return "hours"
        return ""


Worst = Callable[[ChatRequest], Cost]


def prompt_bound(request: ChatRequest) -> int:
    """Tokens that the messages can come to at most: no tokenizer makes more of a text than its bytes."""
    return request.prompt_bytes + PER_MESSAGE * len(request.messages)


@dataclass(slots=True)
class Purse:
    """The accounts of one run. `worst` bounds a request's cost; `began` is when this process took the run up."""

    budget: Budget
    worst: Worst
    accounts: dict[str, Account] = field(default_factory=dict)
    _settled: asyncio.Event = field(default_factory=asyncio.Event)
    _began: float = field(default_factory=time.monotonic)
    _earlier_s: float = 0.0
    _capped: bool = True

    @classmethod
    def of(cls, ledger: Ledger, run: str, budget: Budget, worst: Worst) -> "Purse":
        """With what the run has spent so far: its remembered calls, and attempts that failed and may have cost."""
        spent = {
            role: Cost(usd, tokens, seconds)
            for role, usd, tokens, seconds in ledger.rows(
                "SELECT role, sum(usd), sum(tokens), sum(seconds) FROM ("
                " SELECT role, usd, prompt_tokens + completion_tokens AS tokens, seconds FROM calls WHERE run = ?1"
                " UNION ALL SELECT role, usd, tokens, seconds FROM faults WHERE run = ?1) GROUP BY role",
                run,
            )
        }
        purse = cls(budget, worst, _earlier_s=ledger.rows("SELECT seconds FROM runs WHERE id = ?", run)[0][0])
        total = Cost()
        for cost in spent.values():
            total = total.plus(cost)
        purse.accounts = {role: Account(f"roles.{role}.", Caps(), spent.get(role, Cost())) for role in ROLES}
        purse.accounts[""] = Account("", Caps(), total)
        purse.change(budget)
        return purse

    def change(self, budget: Budget) -> None:
        """Other caps from now on."""
        self.budget = budget
        self._capped = budget != Budget()
        for role in ROLES:
            self.accounts[role].caps = getattr(budget.roles, role)
        self.accounts[""].caps = budget.model_copy(update={"hours": None})  # a run's hours are the clock's
        self._settled.set()

    def guard(self, answers: Mapping[str, Answer]) -> dict[str, Answer]:
        """The same answers, each call of which is reserved first."""
        return {kind: self._guard_answer(answer) for kind, answer in answers.items()}

    def _guard_answer(self, answer: Answer) -> Answer:
        async def call(request: Any) -> Reply:
            mine = [self.accounts[name] for name in dict.fromkeys(("", ROLE.get())) if name in self.accounts]
            worst = self._bound(request)
            await self._reserve(mine, worst)
            listener = FAULT_LISTENER.get()
            with reporting_faults(lambda fault: self._lost(mine, fault, listener)):
                return await self._spend(mine, worst, answer(request))

        return call

    def _lost(self, mine: list[Account], fault: Fault, listener: FaultListener) -> None:
        """A failed attempt may have cost something all the same, and the next one will: its reservation stands.

        Raises:
            BudgetError: there is no room left for it.
        """
        listener(fault)
        if fault.kind == "refused_parameter":  # sent again already, and free
            return
        for account in mine:
            account.spent = account.spent.plus(Cost(fault.usd, fault.tokens, fault.seconds))
        for account in mine:
            cap = account.over(Cost())
            if cap:
                raise self._budget_error(f"{account.name}{cap}", getattr(account.caps, cap))

    def _bound(self, request: Any) -> Cost:
        """The costliest this call can be; nothing is counted where nothing is capped."""
        if not isinstance(request, ChatRequest) or not self._capped:
            return Cost()
        return self.worst(request)

    async def _reserve(self, mine: list[Account], worst: Cost) -> None:
        """Take `worst` from every account, waiting for calls under way to give back what they did not need.

        Raises:
            BudgetError: it does not fit, and nothing is under way that could make room.
        """
        while True:
            self._refuse_late()
            full = next(((account, cap) for account in mine if (cap := account.over(worst))), None)
            if full is None:
                break
            account, cap = full
            if cap == "hours" or not account.under_way:
                raise self._budget_error(f"{account.name}{cap}", getattr(account.caps, cap))
            self._settled.clear()
            await self._settled.wait()
        for account in mine:
            account.reserved = account.reserved.plus(worst)
            account.under_way += 1

    async def _spend(self, mine: list[Account], worst: Cost, answer: Awaitable[Reply]) -> Reply:
        cost = Cost()
        try:
            reply = await answer
            if isinstance(reply, ChatReply):
                cost = Cost(reply.usd, reply.prompt_tokens + reply.completion_tokens, reply.seconds)
            return reply
        finally:
            for account in mine:
                account.reserved = account.reserved.minus(worst) if account.under_way > 1 else Cost()
                account.spent = account.spent.plus(cost)
                account.under_way -= 1
            self._settled.set()

    def _refuse_late(self) -> None:
        hours = self.budget.hours
        if hours is not None and self._earlier_s + time.monotonic() - self._began >= hours * 3600:
            raise self._budget_error("hours", hours)

    def _budget_error(self, cap: str, limit: float) -> BudgetError:
        return BudgetError(
            f"the next call could pass budget.{cap} = {limit:g}; the run is paused",
            f"raise it with `nanoflux run set RUN budget.{cap}=…`, then `nanoflux run resume RUN`",
        )
