"""Budgets: caps on what a run and its roles may spend.

Before a call is sent, its maximum cost is reserved; when the reply arrives, the actual cost replaces the reservation. A
cap is therefore never exceeded, however many calls are in flight. The endpoints supply the prices.
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
ROUNDING_USD = 1e-9
"""The rounding error, in dollars, by which a sum may exceed its cap."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of calls in dollars, tokens and seconds."""

    usd: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def plus(self, other: "Cost") -> "Cost":
        return Cost(self.usd + other.usd, self.tokens + other.tokens, self.seconds + other.seconds)

    def minus(self, other: "Cost") -> "Cost":
        return Cost(self.usd - other.usd, self.tokens - other.tokens, self.seconds - other.seconds)


@dataclass(slots=True)
class Account:
    """What a run or a role has spent, and the maximum cost of its calls in flight (`reserved`). `prefix` is the part of
    the account's settings between "budget." and the name of a cap: "" for the run, "roles.judge." for the judge.
    """

    prefix: str
    caps: Caps
    spent: Cost = Cost()
    reserved: Cost = Cost()
    in_flight: int = 0

    def find_exceeded_cap(self, cost: Cost) -> str:
        """The name of the first cap that a call with the maximum cost `cost` could exceed, or ""."""
        total = self.spent.plus(self.reserved).plus(cost)
        if self.caps.usd is not None and total.usd > self.caps.usd + ROUNDING_USD:
            return "usd"
        if self.caps.tokens is not None and total.tokens > self.caps.tokens:
            return "tokens"
        if self.caps.hours is not None and self.spent.seconds >= self.caps.hours * 3600:
            return "hours"
        return ""


CostBound = Callable[[ChatRequest], Cost]
"""A function that returns the maximum cost of a request."""
WHOLE_RUN = ""
"""The key of the whole run's account in `RunAccounts.by_role`, in place of a role."""


def bound_prompt_tokens(request: ChatRequest) -> int:
    """An upper bound on the tokens of the prompt: no tokenizer splits a text into more tokens than it has bytes."""
    return request.prompt_bytes + TOKENS_PER_MESSAGE * len(request.messages)


@dataclass(slots=True)
class RunAccounts:
    """The accounts of a run. `by_role` has an account for each role, and the account of the whole run under the key
    `WHOLE_RUN`. `bound_cost` returns the maximum cost of a request.
    """

    budget: Budget
    bound_cost: CostBound
    by_role: dict[str, Account] = field(default_factory=dict)
    _funds_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _started_s: float = field(default_factory=time.monotonic)
    _prior_seconds: float = 0.0
    _has_caps: bool = True

    @classmethod
    def load(cls, ledger: Ledger, run: str, budget: Budget, bound_cost: CostBound) -> "RunAccounts":
        """Load the accounts of a run. The run has so far spent the cost of its stored calls, and of failed requests
        that may have been charged.
        """
        spent_by_role = {
            role: Cost(usd, tokens, seconds)
            for role, usd, tokens, seconds in ledger.rows(
                "SELECT role, sum(usd), sum(tokens), sum(seconds) FROM ("
                " SELECT role, usd, prompt_tokens + completion_tokens AS tokens, seconds FROM calls WHERE run = ?1"
                " UNION ALL SELECT role, usd, tokens, seconds FROM faults WHERE run = ?1) GROUP BY role",
                run,
            )
        }
        (prior_seconds,) = ledger.rows("SELECT seconds FROM runs WHERE id = ?", run)[0]
        accounts = cls(budget, bound_cost, _prior_seconds=prior_seconds)
        total = Cost()
        for cost in spent_by_role.values():
            total = total.plus(cost)
        for role in ROLES:
            accounts.by_role[role] = Account(f"roles.{role}.", Caps(), spent_by_role.get(role, Cost()))
        accounts.by_role[WHOLE_RUN] = Account("", Caps(), total)
        accounts.set_budget(budget)
        return accounts

    def set_budget(self, budget: Budget) -> None:
        """Replace the caps; calls that wait for funds check the new caps."""
        self.budget = budget
        self._has_caps = budget != Budget()
        for role in ROLES:
            self.by_role[role].caps = getattr(budget.roles, role)
        # The hours of a run are wall-clock time, which `_refuse_spent_hours` limits.
        self.by_role[WHOLE_RUN].caps = budget.model_copy(update={"hours": None})
        self._funds_changed.set()

    def enforce_caps(self, answers: Mapping[str, Answer]) -> dict[str, Answer]:
        """Wrap each function that answers a kind of request, so that a call first reserves its maximum cost."""
        return {kind: self._cap_answer(answer) for kind, answer in answers.items()}

    def _cap_answer(self, answer: Answer) -> Answer:
        """Wrap `answer` so that it reserves the maximum cost before the request, and charges the accounts after the
        reply or after a failed request.
        """

        async def answer_within_budget(request: Any) -> Reply:
            accounts = self._find_accounts(ROLE.get())
            max_cost = self._bound_request(request)
            await self._reserve(accounts, max_cost)
            outer_listener = FAULT_LISTENER.get()
            with reporting_faults(lambda fault: self._charge_failure(accounts, fault, outer_listener)):
                return await self._charge_reply(accounts, max_cost, answer(request))

        return answer_within_budget

    def _find_accounts(self, role: str) -> list[Account]:
        """The accounts that a call of `role` charges: the run's, and the role's if it has one."""
        run_account = self.by_role[WHOLE_RUN]
        return [run_account, self.by_role[role]] if role and role in self.by_role else [run_account]

    def _charge_failure(self, accounts: list[Account], fault: Fault, outer_listener: FaultListener) -> None:
        """Charge `accounts` with the maximum cost of a failed request, and report the request to `outer_listener`. The
        reservation stays, since the retry may cost as much.

        Raises:
            BudgetError: the retry could exceed a cap.
        """
        outer_listener(fault)
        # A refused parameter costs nothing; the request is already being resent without the parameter.
        if fault.kind == "refused_parameter":
            return
        for account in accounts:
            account.spent = account.spent.plus(Cost(fault.usd, fault.tokens, fault.seconds))
        exceeded_account, cap = _find_exceeded_account(accounts, Cost())
        if exceeded_account is not None:
            raise _make_cap_error(exceeded_account, cap)

    def _bound_request(self, request: Any) -> Cost:
        """The maximum cost of a call. Zero if the run has no caps, since the cost is not needed then."""
        if not isinstance(request, ChatRequest) or not self._has_caps:
            return Cost()
        return self.bound_cost(request)

    async def _reserve(self, accounts: list[Account], max_cost: Cost) -> None:
        """Reserve `max_cost` in every account. If it does not fit, wait until calls in flight end and release what they
        have not spent.

        Raises:
            BudgetError: the cost does not fit, and no call is in flight that could release funds.
        """
        while True:
            self._refuse_spent_hours()
            exceeded_account, cap = _find_exceeded_account(accounts, max_cost)
            if exceeded_account is None:
                break
            if cap == "hours" or not exceeded_account.in_flight:
                raise _make_cap_error(exceeded_account, cap)
            self._funds_changed.clear()
            await self._funds_changed.wait()
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
                is_last_call = account.in_flight == 1  # the sum is then reset, so that rounding errors do not add up
                account.reserved = Cost() if is_last_call else account.reserved.minus(max_cost)
                account.spent = account.spent.plus(cost)
                account.in_flight -= 1
            self._funds_changed.set()

    def _refuse_spent_hours(self) -> None:
        """Raise BudgetError if the run has worked for as many hours (wall-clock time) as its budget allows."""
        hours = self.budget.hours
        run_seconds = self._prior_seconds + time.monotonic() - self._started_s
        if hours is not None and run_seconds >= hours * 3600:
            raise _make_budget_error("hours", hours)


def _find_exceeded_account(accounts: list[Account], cost: Cost) -> tuple[Account | None, str]:
    """The first account with a cap that a call with the maximum cost `cost` could exceed, and the name of that cap;
    (None, "") if there is no such account.
    """
    for account in accounts:
        cap = account.find_exceeded_cap(cost)
        if cap:
            return account, cap
    return None, ""


def _make_cap_error(account: Account, cap: str) -> BudgetError:
    return _make_budget_error(f"{account.prefix}{cap}", getattr(account.caps, cap))


def _make_budget_error(setting: str, limit: float) -> BudgetError:
    return BudgetError(
        f"the next call could exceed budget.{setting} = {limit:g}; the run is paused",
        f"raise the cap with `nanoflux run set RUN budget.{setting}=…`, then `nanoflux run resume RUN`",
    )
