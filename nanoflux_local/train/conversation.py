"""The conversation that a row teaches: the defender's prompt, and a solution with its answer as the completion."""

from nanoflux_local.domains.base import Domain
from nanoflux_local.roles.defender import defender_messages
from nanoflux_local.roles.sections import sections_text
from nanoflux_local.train.data import TrainingExample


def build_training_example(
    domain: Domain, budgets: dict[str, int], question: str, solution: str, answer: str, name: str
) -> TrainingExample:
    """A row with the prompt that the defender sees. `name` is the row's id."""
    return TrainingExample(defender_messages(domain, budgets, question), format_completion(solution, answer), name)


def format_completion(solution: str, answer: str) -> str:
    """A solution and its answer in the defender's sections."""
    return sections_text({"SOLUTION": solution, "ANSWER": answer})
