"""Collects the base model's own answers to train items of a benchmark, and chooses items by these answers.

One cell of the experiment lets the model answer each item several times with different random seeds, and stores the
answers in the ledger as an evaluation. Conditions then train on the items that the model always, sometimes or never
solves, or on the model's right solutions.
"""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.build import build_model_endpoint
from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.evaluations import evaluate_items
from nanoflux_local.experiments.grid import ANSWERS, Condition, GridPlan
from nanoflux_local.experiments.items import load_train_items
from nanoflux_local.experiments.kinds.base import OnStep
from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import derive_seed
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.transcript import Seed

TEMPERATURE = 0.7
"""The sampling temperature, high enough that the answers to an item differ."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The model's answers to one item: the number of `tries`, how many of them were right, and the right replies'
    texts.
    """

    right: int
    tries: int
    right_replies: tuple[str, ...]

    @property
    def solved(self) -> str:
        """How often the model solves the item: "never", "sometimes" or "always", as in `Condition.solved`."""
        if self.right == 0:
            return "never"
        return "always" if self.right == self.tries else "sometimes"


def ask_train_items(home: Home, plan: GridPlan, on_step: OnStep) -> dict[str, str]:
    """Let the base model answer each train item `tries` times. Returns the cell's result: the id of the evaluation.

    Raises:
        NanofluxError: replies are missing; starting the experiment again requests them.
    """
    return {"evaluation": asyncio.run(_evaluate_train_items(home, plan, on_step))}


async def _evaluate_train_items(home: Home, plan: GridPlan, on_step: OnStep) -> str:
    """Evaluate the base model on the sampled train items and return the id of the evaluation."""
    scale, items = plan.scale, sample_train_items(home, plan)
    endpoint = build_model_endpoint(scale.base, "", home, scale.via, scale.args)
    try:
        return await evaluate_items(
            home,
            plan,
            endpoint,
            items[0].dataset,
            "train",
            items,
            scale.tries,
            TEMPERATURE,
            partial(on_step, "answers"),
        )
    finally:
        await endpoint.close()


def sample_train_items(home: Home, plan: GridPlan) -> list[Seed]:
    """The train items that the base model answers: all, or `sampled` of them, the same for every training seed."""
    items, _ = load_train_items(home, plan, load_domain(plan.scale.domain, home.root))
    size = min(plan.scale.sampled, len(items)) if plan.scale.sampled else len(items)
    rng = random.Random(derive_seed(0, "answers", plan.scale.domain))
    positions = rng.sample(range(len(items)), size)
    return [items[position] for position in sorted(positions)]


def load_answers(view: LedgerView, experiment: str) -> dict[str, Answers]:
    """The base model's answers to each item, from the evaluation of the experiment's cell `ANSWERS`.

    Raises:
        NothingMatchedError: the cell is not done.
    """
    cell = view.row("SELECT result FROM cells WHERE experiment = ? AND id = ? AND status = 'done'", experiment, ANSWERS)
    if cell is None:
        raise NothingMatchedError(
            f"experiment {experiment} has no stored answers from the base model",
            f"run `nanoflux experiment resume {experiment}`",
        )
    rows = view.rows(
        f"SELECT item, verdict, reply FROM evaluation_items LEFT JOIN {CALLS} AS whole ON whole.id = call"
        " WHERE evaluation = ? ORDER BY item, repeat",
        json.loads(cell["result"])["evaluation"],
    )
    tries_by_item: Counter[str] = Counter()
    right_replies_by_item: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        tries_by_item[row["item"]] += 1
        if row["verdict"] == "right":
            text = json.loads(row["reply"])["text"] if row["reply"] else ""
            right_replies_by_item[row["item"]].append(text)
    answers_by_item: dict[str, Answers] = {}
    for item, tries in tries_by_item.items():
        right_replies = right_replies_by_item[item]
        answers_by_item[item] = Answers(len(right_replies), tries, tuple(right_replies))
    return answers_by_item


def choose_items(
    condition: Condition, items: Sequence[Seed], answers: dict[str, Answers], domain: Domain
) -> list[Seed]:
    """The items that the condition selects by `solved`. If the condition's `solution` is "own", only items that the
    model answered right are selected, with the model's solution in place of the benchmark's.
    """
    chosen_items = [item for item in items if item.id in answers]
    if condition.solved:
        chosen_items = [item for item in chosen_items if _matches_solved(answers[item.id], condition.solved)]
    if condition.solution == "author":
        return chosen_items
    own_solutions = [find_own_solution(domain, answers[item.id]) for item in chosen_items]
    return [
        replace(item, solution=solution) for item, solution in zip(chosen_items, own_solutions, strict=True) if solution
    ]


def _matches_solved(answers: Answers, solved: str) -> bool:
    """Whether `solved`, a value of `Condition.solved`, selects an item with these answers."""
    return answers.right > 0 if solved == "ever" else answers.solved == solved


def find_own_solution(domain: Domain, answers: Answers) -> str:
    """The solution in the model's first right reply with a SOLUTION section, or "" if no reply has one."""
    for reply in answers.right_replies:
        sections = read_sections(reply, domain.sections.defender)
        if not isinstance(sections, Unparsed) and sections["SOLUTION"].strip():
            return sections["SOLUTION"].strip()
    return ""
