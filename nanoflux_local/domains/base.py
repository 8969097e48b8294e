"""A domain: the kind of questions that a run generates, with benchmarks, seed counts, thresholds, sections and prompts.

A domain consists of a file `catalog/NAME.toml` and of prompt templates. All domains share the templates `prompts/*.md`;
a domain may replace any of them with its own file. This module loads the built-in domains; `own` loads the domains of a
user.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field, PositiveInt

from nanoflux_local.config import SeedCount, Settings, Strict, TrialKind, merge_tables, validate_model
from nanoflux_local.records import digest

AnswerKind = Literal["number", "choice", "text"]
PROMPTS = (
    "attacker", "defender", "validation", "evaluation", "confidence", "code", "quality", "claims", "blind",
    "blind_program", "answerable",
)  # fmt: skip
"""The prompts that every domain has."""
DOCUMENT_PROMPTS = ("grounded", "open_book")
"""The prompts of the checks that compare a question with passages. Only domains whose seeds are passages have them."""


class Sections(Strict):
    """The sections that the reply in each role must contain, in the order in which the prompts request them."""

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
    """Novelty thresholds for questions and solutions. They hold for one embedder: the model `embedder`, or the paper's
    text-embedding-3-small if `embedder` is "". Other embedders need different thresholds.
    """

    question: float = Field(ge=-1, le=1)
    solution: float = Field(default=0.75, ge=-1, le=1)
    embedder: str = ""


class WorkedExample(Strict):
    """A solved problem that the defender's prompt shows, because small models cannot follow a mere description of the
    reply's sections.
    """

    question: str
    sections: dict[str, str]


class WorkedAttack(Strict):
    """A new problem built from material, which the attacker's prompt shows, because small models cannot follow a mere
    description of the reply's sections.
    """

    material: tuple[str, ...]
    sections: dict[str, str]


class Domain(Strict):
    """The content of a domain's file, with its prompt templates (name → text).

    Seeds come from `datasets`. `evaluates` are further benchmarks that are prompted and scored like those in
    `datasets`; `free_text` are the benchmarks in either list whose answers only a judge can grade. `focus` is the part
    of the attacker's prompt that describes the questions to write. `letters` are the letters of a question's options,
    `budgets` the defender's tokens by section, and `stop` the stop strings of its reply. `tags` are the XML elements of
    a solution; `rubric` lists the criteria for its reasoning. `programs` says whether the seeds have programs, so that
    a program can be the attacker or the judge. With `code_check`, the judge writes a program that verifies each
    solution. The judge's error rates are measured on `trial` right solutions and the same number of wrong ones. With
    `quality`, the judge rates the reasoning of kept examples; with `fact_check`, it looks up the facts that questions
    claim. `checks`, if there are any, replace the checks of every rule set.
    """

    name: str
    title: str
    answer: AnswerKind
    datasets: tuple[str, ...]
    evaluates: tuple[str, ...] = ()
    programs: bool = False
    code_check: bool = False
    trial: int = Field(default=12, ge=0, le=1000)
    quality: bool = False
    fact_check: bool = False
    checks: tuple[str, ...] = ()
    letters: str = ""
    seeds: SeedCount
    novelty: PaperNovelty
    confidence: float = Field(default=0.9, ge=0, le=1)
    sections: Sections = Sections()
    budgets: dict[str, PositiveInt] = Field(default={"ANALYSIS": 500, "SOLUTION": 1500, "ANSWER": 100})
    stop: tuple[str, ...] = ()
    focus: str = ""
    tags: tuple[str, ...] = ()
    rubric: tuple[str, ...] = ()
    free_text: tuple[str, ...] = ()
    examples: tuple[WorkedExample, ...] = ()
    attacks: tuple[WorkedAttack, ...] = ()
    prompts: dict[str, str] = Field(default={})

    @property
    def answer_rule(self) -> str:
        """The sentence in prompts that says how to write the answer, so that a program can read it."""
        if self.answer == "number":
            return "The answer is one number, written alone, without a unit."
        if self.answer == "choice":
            return f"The answer is one option letter ({', '.join(self.letters)}), written alone."
        return "The answer is one short phrase."

    @property
    def budget_keys(self) -> set[str]:
        """The sections that may have a budget: the defender's, and the default ones, for which a profile or an extended
        domain may set budgets even if this domain lacks them.
        """
        return {*self.sections.defender, *Sections().defender}

    @property
    def cites(self) -> bool:
        """Whether the attacker cites the passages that its question rests on."""
        return "CITATIONS" in self.sections.attacker

    @property
    def trial_kinds(self) -> tuple[TrialKind, ...]:
        """The kinds of known solutions that a program can create or grade for this domain. Grading needs answers that
        are numbers or letters; only questions with numerical answers have quantities that can be removed or changed.
        """
        if self.answer == "text":
            return ("slip", "answer")
        if self.answer == "choice":
            return ("slip", "answer", "mistake", "own")
        return ("slip", "answer", "mistake", "removed", "changed", "own")

    @property
    def hash(self) -> str:
        """The digest of the fields that affect requests. Prompts and settings are left out, because each run records
        them.
        """
        recorded_elsewhere = {
            "seeds",
            "novelty",
            "confidence",
            "code_check",
            "trial",
            "quality",
            "fact_check",
            "checks",
            "budgets",
            "prompts",
            "datasets",
            "evaluates",
            "free_text",
        }
        return digest(self.model_dump(mode="json", exclude=recorded_elsewhere, exclude_defaults=True))

    def with_letters(self, options: Mapping[str, str]) -> "Domain":
        """This domain with the letters of an item's options. Items of one domain may have different numbers of options:
        in MedQA four or five, in PubMedQA three.
        """
        letters = "".join(options)
        return self.model_copy(update={"letters": letters}) if letters else self

    def defaults(self) -> Settings:
        """The values that this domain contributes to a run's configuration."""
        return {
            "domain": self.name,
            "seeds": self.seeds.model_dump(),
            "novelty": self.novelty.model_dump(exclude={"embedder"}),
            "judge": {
                "confidence": self.confidence,
                "code_check": self.code_check,
                "trial": self.trial,
                "trial_kinds": list(self.trial_kinds),
                "quality": self.quality,
                "fact_check": self.fact_check,
                **({"checks": list(self.checks)} if self.checks else {}),
            },
            "budgets": dict(self.budgets),
        }

    def render(self, prompt: str, values: Mapping[str, Any]) -> str:
        """Fill `values` into a prompt's template. Raises jinja2.UndefinedError if the template uses a variable that
        `values` lacks.
        """
        return str(_compile_template(self.prompts[prompt]).render(domain=self, **values)).strip()


@cache
def _compile_template(text: str) -> Any:
    """The compiled template of a prompt."""
    from jinja2 import StrictUndefined  # deferred: most commands render no prompt
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.from_string(text)


def list_built_in() -> list[str]:
    """The names of the built-in domains."""
    folder = resources.files(__package__) / "catalog"
    file_names = [entry.name for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return sorted(file_name.removesuffix(".toml") for file_name in file_names)


@cache
def load_built_in(name: str) -> Domain:
    """A built-in domain by its name. A domain that `extends` another inherits the values of that domain."""
    folder = resources.files(__package__)
    values = tomllib.loads((folder / "catalog" / f"{name}.toml").read_text(encoding="utf-8"))
    base = values.pop("extends", "")
    prompt_files = values.pop("prompt_files", {})
    if base:
        inherited = load_built_in(base).model_dump(exclude={"name"})
    else:
        inherited = {"prompts": {}}
        prompt_files = {prompt: f"{prompt}.md" for prompt in PROMPTS} | prompt_files
    prompts = {prompt: (folder / "prompts" / file).read_text(encoding="utf-8") for prompt, file in prompt_files.items()}
    return extend_domain(inherited, values, name, prompts, f"domain {name}")


def extend_domain(
    inherited: Mapping[str, Any], values: Mapping[str, Any], name: str, prompts: Mapping[str, str], source: str
) -> Domain:
    """A domain whose `values` and `prompts` override the `inherited` values and prompts. Errors name `source`, the file
    or domain that the values come from.
    """
    all_values = {**merge_tables(inherited, values), "name": name, "prompts": inherited["prompts"] | prompts}
    return validate_model(Domain, all_values, source)
