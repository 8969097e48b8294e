"""Builds training rows: the defender's prompt, and a solution with its answer as the completion."""

from nanoflux_local.domains.base import Domain
from nanoflux_local.roles.defender import build_defender_messages
from nanoflux_local.roles.sections import render_sections
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.transcript import Seed


def build_training_example(
    domain: Domain, budgets: dict[str, int], question: str, solution: str, answer: str, name: str
) -> TrainingExample:
    """A row with the prompt that the defender sees. `name` is the row's id."""
    return TrainingExample(
        build_defender_messages(domain, budgets, question), format_completion(solution, answer), name
    )


def build_item_example(domain: Domain, budgets: dict[str, int], item: Seed) -> TrainingExample:
    """A row with a benchmark item's question and solution. The prompt names the letters of this item's options."""
    domain_with_letters = domain.with_letters(item.options)
    return build_training_example(
        domain_with_letters, budgets, item.format_question(), item.solution, item.answer, item.id
    )


def format_completion(solution: str, answer: str) -> str:
    """A solution and its answer in the defender's sections."""
    return render_sections({"SOLUTION": solution, "ANSWER": answer})
