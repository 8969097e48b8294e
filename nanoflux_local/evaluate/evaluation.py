"""One evaluation: a model, perhaps with an adapter, on the items of a benchmark, several times with other seeds.

Its id is the hash of everything that decides it, so that the same evaluation asked for again goes on where it was,
and costs nothing where it was finished: replies are remembered calls.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import known_domains, load_domain
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.errors import EndpointError, NothingMatchedError, UsageError
from nanoflux_local.evaluate.scoring import Mark, Score, score_reply
from nanoflux_local.evaluate.statistics import bootstrap_interval, compare_paired, holm
from nanoflux_local.ledger.calls import RememberedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatRequest, Identity, Sampling, derive_seed, digest
from nanoflux_local.roles.defender import defender_messages, reply_budget
from nanoflux_local.transcript import Seed

AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides an evaluation."""

    identity: Identity
    data: str
    split: str
    items: tuple[Seed, ...]
    runs: int
    sampling: Sampling
    seed: int
    domain: Domain

    @property
    def id(self) -> str:
        items = [digest(asdict(item)) for item in self.items]
        prompt = [self.domain.prompts["defender"], str(self.domain.examples), str(self.domain.budgets)]
        decides = [asdict(self.identity), self.data, self.split, items, self.runs, asdict(self.sampling), self.seed]
        return digest([*decides, prompt])[:12]

    def request(self, item: Seed, repeat: int) -> ChatRequest:
        """The request of one item in one repeat: the defender's own conversation, so that tuning and test agree."""
        messages = defender_messages(self.domain, self.domain.budgets, with_options(item))
        return ChatRequest(self.identity, messages, self.sampling, derive_seed(self.seed, "eval", repeat, item.id))


def with_options(item: Seed) -> str:
    """The question with its options under it."""
    return "\n".join([item.question, *(f"{letter}. {option}" for letter, option in item.options.items())])


def domain_of(data: str, root: Path | None = None) -> Domain:
    """The domain whose prompts and answer format a benchmark has: one that ships, or one of the home at `root`.

    Raises:
        UsageError: no domain draws on this benchmark, or no machine can grade its answers.
    """
    names = known_domains(root)
    for name in names:
        domain = load_domain(name, root)
        if data in domain.free_text:
            raise UsageError(f"the answers of {data!r} are free text, which no machine can grade", "name another one")
        if data in (*domain.datasets, *domain.evaluates):
            return domain
    raise UsageError(f"no domain has the benchmark {data!r}", f"domains: {', '.join(names)}")


def make_plan(
    identity: Identity,
    data: str,
    split: str,
    items: Sequence[Seed],
    runs: int,
    temperature: float,
    seed: int = 0,
    root: Path | None = None,
) -> Plan:
    """A plan with the domain's reply budget; top-p is 0.95 where replies are sampled. `root` is the home with the
    user's own domains.
    """
    domain = domain_of(data, root)
    sampling = Sampling(temperature, 0.95 if temperature else 1.0, reply_budget(domain, domain.budgets), domain.stop)
    return Plan(identity, data, split, tuple(items), runs, sampling, seed, domain)


async def evaluate(
    ledger: Ledger, endpoint: Endpoint, plan: Plan, on_progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, Any]:
    """Ask every item in every repeat, commit each score as it comes, and return what `eval --json` prints.

    Raises:
        EndpointError: not one item got a reply.
    """
    calls = RememberedCalls(ledger, plan.id, {"chat": endpoint.chat})
    settings = {"runs": plan.runs, "sampling": asdict(plan.sampling), "seed": plan.seed, "n": len(plan.items)}
    model = plan.identity
    ledger.start_evaluation(plan.id, model.model, model.adapter, plan.data, plan.split, settings)
    gate, done = asyncio.Semaphore(AT_ONCE), 0
    total = len(plan.items) * plan.runs

    async def ask(item: Seed, repeat: int) -> tuple[str, int, Score]:
        nonlocal done
        async with gate:
            score = await _scored(ledger, calls, plan, item, repeat)
        done += 1
        on_progress(done, total)
        return item.id, repeat, score

    tasks = [ask(item, repeat) for repeat in range(plan.runs) for item in plan.items]
    try:
        scores = await asyncio.gather(*tasks)
    except BaseException:
        ledger.finish_evaluation(plan.id, "interrupted", {})
        raise
    finally:
        await calls.close()
    marks: dict[str, list[Mark]] = {item.id: ["unscored"] * plan.runs for item in plan.items}
    for item_id, repeat, score in scores:
        marks[item_id][repeat] = score.mark
    result = summarise(plan, marks)
    ledger.finish_evaluation(plan.id, "done", result)
    return result


async def _scored(ledger: Ledger, calls: RememberedCalls, plan: Plan, item: Seed, repeat: int) -> Score:
    try:
        call, reply = await calls.ask(plan.request(item, repeat))
    except EndpointError as error:
        return Score(error.message, "unscored")
    score = score_reply(plan.domain, reply.text, item)
    ledger.add_evaluation_item(plan.id, repeat, item.id, call, score.reading, score.mark)
    return score


def summarise(plan: Plan, marks: dict[str, list[Mark]]) -> dict[str, Any]:
    """Means over runs, their standard deviation, and a bootstrap interval over items; unscored items count nowhere.

    Raises:
        EndpointError: nothing was scored.
    """
    scored = {item: [mark for mark in found if mark != "unscored"] for item, found in marks.items()}
    rates = [float(np.mean([mark == "right" for mark in found])) for found in scored.values() if found]
    if not rates:
        raise EndpointError("not one item got a reply", "see the endpoint's log; then run the same command again")
    by_run = [
        float(np.mean([found[repeat] == "right" for found in marks.values() if found[repeat] != "unscored"]))
        for repeat in range(plan.runs)
        if any(found[repeat] != "unscored" for found in marks.values())
    ]
    flat = [mark for found in marks.values() for mark in found]
    return {
        "eval": plan.id,
        "model": plan.identity.model,
        "adapter": plan.identity.adapter or None,
        "data": plan.data,
        "split": plan.split,
        "n": len(marks),
        "strict": {
            "mean": float(np.mean(rates)),
            "sd": float(np.std(by_run, ddof=1)) if len(by_run) > 1 else 0.0,
            "ci95": list(bootstrap_interval(rates)),
        },
        "soft": None,
        "unanswered": flat.count("unanswered"),
        "unscored": flat.count("unscored"),
        "runs": plan.runs,
        "by_run": by_run,
    }


def compare(view: LedgerView, evaluations: Sequence[str]) -> dict[str, Any]:
    """Paired tests between all pairs of evaluations; Holm's correction over the pairs of this call.

    Raises:
        NothingMatchedError: an evaluation is unknown or not finished.
        UsageError: fewer than two, or their items differ, or there is only one item.
    """
    if len(set(evaluations)) < 2:
        raise UsageError("a comparison needs two different evaluations", "see their ids in `nanoflux eval --json`")
    marks = {name: _marks(view, name) for name in evaluations}
    pairs = []
    names = list(marks)
    for index, a in enumerate(names):
        for b in names[index + 1 :]:
            shared = sorted(marks[a].keys() & marks[b].keys())
            if len(shared) < max(len(marks[a]), len(marks[b])) or not shared:
                raise UsageError(f"{a} and {b} are not over the same items", "evaluate both on the same data and limit")
            if len(shared) == 1:
                raise UsageError(f"{a} and {b} are over one item, which has no spread", "evaluate two items or more")
            found = compare_paired([marks[a][item] for item in shared], [marks[b][item] for item in shared])
            pairs.append({"a": a, "b": b, **asdict(found), "ci95": list(found.ci95)})
    for pair, adjusted in zip(pairs, holm([float(pair["mcnemar_p"]) for pair in pairs]), strict=True):
        pair["holm_p"] = adjusted
    return {"pairs": pairs}


def _marks(view: LedgerView, evaluation: str) -> dict[str, list[bool]]:
    row = view.row("SELECT status FROM evaluations WHERE id = ?", evaluation)
    if row is None or row["status"] != "done":
        raise NothingMatchedError(f"there is no finished evaluation {evaluation!r}", "run `nanoflux eval` first")
    found: dict[str, list[bool]] = {}
    rows = view.rows(
        "SELECT item, verdict FROM evaluation_items WHERE evaluation = ? ORDER BY item, repeat", evaluation
    )
    for item in rows:
        found.setdefault(item["item"], []).append(item["verdict"] == "right")
    return found
