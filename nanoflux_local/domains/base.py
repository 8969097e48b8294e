"""A domain: one target benchmark with its seed counts, thresholds, sections, answer format and prompts.

Domains are text: `catalog/NAME.toml`, and `prompts/*.md`, where a domain may name other files than the shared ones.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal

from pydantic import Field

from nanoflux_local.config import SeedCount, Strict, validated
from nanoflux_local.errors import ConfigError

AnswerKind = Literal["number", "choice", "text"]
PROMPTS = ("attacker", "defender", "validation", "evaluation", "confidence", "code")


class Sections(Strict):
    """The sections that each role's reply must hold, in the order in which they are asked for."""

    attacker: tuple[str, ...] = ("QUESTION", "SOLUTION", "ANSWER", "REFLECTION")
    defender: tuple[str, ...] = ("ANALYSIS", "SOLUTION", "ANSWER")
    validation: tuple[str, ...] = ("ANALYSIS", "VERIFICATION", "DECISION", "CONFIDENCE", "EXPLANATION")
    evaluation: tuple[str, ...] = (
        "ANALYSIS",
        "REASONING QUALITY",
        "CALCULATION ACCURACY",
        "DECISION",
        "CONFIDENCE",
        "EXPLANATION",
    )


class PaperNovelty(Strict):
    """The paper's thresholds; they belong to text-embedding-3-small and other embedders bring their own (SPEC §6)."""

    question: float
    solution: float = 0.75


class WorkedExample(Strict):
    """One solved problem shown to the defender, for models too small to follow a form that is only described."""

    question: str
    sections: dict[str, str]


class Domain(Strict):
    """What a domain's file says, with the prompt templates that belong to it (name → text).

    Seeds come from `datasets`; `evaluates` are further benchmarks that are asked and scored in the same way. With
    `code_check` the judge goes through solutions again by a program of its own.
    """

    name: str
    title: str
    answer: AnswerKind
    datasets: tuple[str, ...]
    evaluates: tuple[str, ...] = ()
    programs: bool = False
    code_check: bool = False
    letters: str = ""
    seeds: SeedCount
    novelty: PaperNovelty
    confidence: float = Field(default=0.9, ge=0, le=1)
    sections: Sections = Sections()
    budgets: dict[str, int] = Field(default={"ANALYSIS": 500, "SOLUTION": 1500, "ANSWER": 100})
    stop: tuple[str, ...] = ()
    focus: str = ""
    examples: tuple[WorkedExample, ...] = ()
    prompts: dict[str, str] = Field(default={})

    @property
    def answer_rule(self) -> str:
        """How an answer must be written so that a machine can read it."""
        if self.answer == "number":
            return "The answer is one number, written alone, without a unit."
        if self.answer == "choice":
            return f"The answer is one option letter ({', '.join(self.letters)}), written alone."
        return "The answer is one short phrase."

    def defaults(self) -> dict[str, Any]:
        """What a domain contributes to a run's configuration."""
        return {
            "domain": self.name,
            "seeds": self.seeds.model_dump(),
            "novelty": self.novelty.model_dump(),
            "judge": {"confidence": self.confidence, "code_check": self.code_check},
            "budgets": dict(self.budgets),
        }

    def render(self, prompt: str, values: Mapping[str, Any]) -> str:
        """One prompt's text with `values` filled in; a name that the template needs and does not get is an error."""
        return str(_template(self.prompts[prompt]).render(domain=self, **values)).strip()


@cache
def _template(text: str) -> Any:
    import jinja2  # deferred: most commands render nothing

    return jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    ).from_string(text)


def built_in() -> list[str]:
    """The names of the domains that ship with the package."""
    folder = resources.files(__package__)
    return sorted(entry.name.removesuffix(".toml") for entry in _domain_files(folder))


def _domain_files(folder: Traversable) -> list[Traversable]:
    return [entry for entry in (folder / "catalog").iterdir() if entry.name.endswith(".toml")]


@cache
def load_domain(name: str) -> Domain:
    """A built-in domain.

    Raises:
        ConfigError: no domain has this name; the message lists those that there are.
    """
    import tomllib

    folder = resources.files(__package__)
    entry = folder / "catalog" / f"{name}.toml"
    if name not in built_in():
        raise ConfigError(f"there is no domain {name!r}", f"choose one of: {', '.join(built_in())}")
    values = tomllib.loads(entry.read_text(encoding="utf-8"))
    shared = {prompt: folder / "prompts" / f"{prompt}.md" for prompt in PROMPTS}
    own = values.pop("prompt_files", {})
    files = shared | {prompt: folder / "prompts" / file for prompt, file in own.items()}
    texts = {prompt: file.read_text(encoding="utf-8") for prompt, file in files.items()}
    return validated(Domain, {"name": name, "prompts": texts, **values}, f"domain {name}")
