"""Loads a user's domains: `<home>/domains/NAME.toml` with prompt files in the same folder. Missing values and prompts
are inherited from the domain that the file `extends`.

A file is checked completely when it is loaded. An unknown key, an invalid template, an unknown variable in a prompt or
a missing section is an error that names the file.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.config import read_toml
from nanoflux_local.domains.base import Domain, extend_domain, list_built_in, load_built_in
from nanoflux_local.errors import ConfigError, UsageError
from nanoflux_local.files import write_new
from nanoflux_local.suggestions import suggest
from nanoflux_local.text_files import EncodingError, read_utf8
from nanoflux_local.transcript import Attack, Defence, Seed

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""The pattern of valid names for a user's domains."""
VARIABLES = {
    "attacker": {"seeds", "first"},
    "defender": {"question", "budgets", "first"},
    "validation": {"attack", "evidence"},
    "evaluation": {"attack", "defence"},
    "confidence": {"confidence"},
    "code": {"attack", "problem"},
    "quality": {"attack"},
    "claims": {"attack", "queries"},
    "blind": {"question"},
    "blind_program": {"question"},
    "answerable": {"question"},
    "grounded": {"attack", "passages"},
    "open_book": {"question", "passages"},
}
"""The variables that each prompt may use besides `domain`."""
REQUIRED_SECTIONS = {
    "attacker": {"QUESTION", "SOLUTION", "ANSWER"},
    "defender": {"SOLUTION", "ANSWER"},
    "validation": {"DECISION", "CONFIDENCE", "EXPLANATION"},
    "evaluation": {"REASONING QUALITY", "DECISION", "CONFIDENCE", "EXPLANATION"},
}
"""The sections that every domain needs, since the roles read them from the replies."""


def list_domain_names(root: Path | None = None) -> list[str]:
    """The names of all domains: the built-in ones, then those of the home at `root`."""
    built_in_names = list_built_in()
    files = sorted((root / "domains").glob("*.toml")) if root else []
    user_names = [path.stem for path in files if NAME.fullmatch(path.stem) and path.stem not in built_in_names]
    return [*built_in_names, *user_names]


@dataclass(frozen=True, slots=True)
class DomainEntry:
    """A domain as listed by `domains list`. If its file has an error, that error is the title, and `answer` and
    `datasets` are empty.
    """

    name: str
    title: str
    answer: str
    datasets: tuple[str, ...]


def list_entries(root: Path) -> list[DomainEntry]:
    """All domains: the built-in ones, then those of the home at `root`."""
    return [_build_entry(name, root) for name in list_domain_names(root)]


def _build_entry(name: str, root: Path) -> DomainEntry:
    try:
        domain = load_domain(name, root)
    except ConfigError as error:
        return DomainEntry(name, error.message, "", ())
    return DomainEntry(domain.name, domain.title, domain.answer, domain.datasets)


def load_domain(name: str, root: Path | None = None) -> Domain:
    """A built-in domain, or one of the home at `root`.

    Raises:
        ConfigError: no domain has this name (the fix lists the names), its file has an error, or the home has a file
            with the name of this built-in domain.
    """
    if name in list_built_in():
        _refuse_built_in_name(name, root)
        return load_built_in(name)
    if root and name in list_domain_names(root):
        return _read_domain(name, root / "domains" / f"{name}.toml")
    fix = f"{suggest(name, list_domain_names(root))}; or write one: docs/how-to/domains.md"
    raise ConfigError(f"there is no domain {name!r}", fix)


def _refuse_built_in_name(name: str, root: Path | None) -> None:
    """Raise ConfigError if the home at `root` has a file for the built-in domain `name`. Otherwise it would be unclear
    which of the two domains a run uses.
    """
    path = root / "domains" / f"{name}.toml" if root else None
    if path and path.exists():
        raise ConfigError(
            f"{path}: the name {name!r} belongs to a built-in domain", f"rename the file, for example to my-{name}.toml"
        )


def list_domain_files(name: str, root: Path) -> list[Path]:
    """The files of a domain in the home at `root`; empty for a built-in domain."""
    if name in list_built_in():
        return []
    path = root / "domains" / f"{name}.toml"
    prompt_files = read_toml(path).get("prompt_files", {}).values()
    return [path, *(path.parent / file for file in prompt_files)]


def find_documents_domain(root: Path, name: str, dataset: str) -> Path:
    """The file of a domain that draws its seeds from the passages of `dataset`; it may not exist yet.

    Raises:
        UsageError: the name is not allowed.
        ConfigError: the domain exists and draws its seeds from other datasets.
    """
    path = root / "domains" / f"{name}.toml"
    if not NAME.fullmatch(name) or name in list_built_in():
        raise UsageError(
            f"{name!r} is not a valid name for a new domain",
            "choose a name of lower-case letters, digits and '-' that no built-in domain has",
        )
    if path.exists() and dataset not in _read_domain(name, path).datasets:
        fix = f'add "{dataset}" to its datasets, or choose another name'
        raise ConfigError(f"{path}: the domain exists and draws its seeds from other data", fix)
    return path


def write_documents_domain(path: Path, dataset: str) -> None:
    """Write the file of a domain whose seeds are the passages of `dataset`, with the values and prompts of the domain
    `documents`. An existing file is not changed.
    """
    if path.exists():
        return
    values = {"extends": "documents", "title": dataset.replace("-", " "), "datasets": [dataset]}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    write_new({path: text.encode()})


def _read_domain(name: str, path: Path) -> Domain:
    """Read and check a user's domain. Raises ConfigError if its file or one of its prompt files has an error."""
    values = read_toml(path)
    base = values.pop("extends", None)
    if base is not None and base not in list_built_in():
        raise ConfigError(
            f"{path}: extends: there is no domain {base!r}", f"choose one of: {', '.join(list_built_in())}"
        )
    inherited = load_built_in(base).model_dump(exclude={"name"}) if base else {"prompts": _load_shared_prompts()}
    prompt_files = values.pop("prompt_files", {})
    prompts = {prompt: _read_prompt(path, prompt, file) for prompt, file in _list_prompt_files(path, prompt_files)}
    domain = extend_domain(inherited, values, name, prompts, str(path))
    _check_sections(path, domain)
    _refuse_unknown_budgets(path, domain)
    for prompt in prompts:
        _check_prompt_renders(path.parent / prompt_files[prompt], domain, prompt)
    return domain


def _check_prompt_renders(source: Path, domain: Domain, prompt: str) -> None:
    """Raise ConfigError if the prompt of the file `source` cannot be filled in."""
    import jinja2

    try:
        render_prompt(domain, prompt)
    except (jinja2.TemplateError, TypeError, KeyError) as error:
        raise ConfigError(f"{source}: the template cannot be filled in: {error}", "correct the template") from error


def render_prompt(domain: Domain, prompt: str) -> str:
    """A prompt filled in with a small example, for display.

    Raises:
        ConfigError: the domain has no prompt of this name.
    """
    if prompt not in domain.prompts:
        raise ConfigError(f"unknown prompt {prompt!r}", f"choose one of: {', '.join(domain.prompts)}")
    attack = Attack("Two bags hold 12 beads each. How many are there?", "2 * 12 = 24 beads.", "24")
    options = {letter: f"option {letter}" for letter in domain.letters}
    seeds = (Seed("seed", domain.name, "How many beads are in 3 bags of 12?", "36", options=options),)
    defence = Defence("2 + 12 = 14 beads.", "14", "The number of all beads is asked.")
    values: dict[str, Any] = {
        "seeds": seeds, "question": attack.question, "budgets": dict(domain.budgets), "first": True, "attack": attack,
        "defence": defence, "confidence": 0.7, "problem": "", "evidence": (), "queries": 5, "passages": seeds,
    }  # fmt: skip
    return domain.render(prompt, {name: values[name] for name in VARIABLES[prompt]})


def _load_shared_prompts() -> dict[str, str]:
    """The prompts that all domains share (`prompts/*.md`)."""
    return dict(load_built_in("gsmhard").prompts)  # this domain replaces none of the shared prompts


def _list_prompt_files(path: Path, prompt_files: Any) -> list[tuple[str, str]]:
    """The prompts that a domain replaces, each with the name of its file. Raises ConfigError if the table
    `prompt_files` is invalid.
    """
    if not isinstance(prompt_files, dict) or not all(isinstance(file, str) for file in prompt_files.values()):
        raise ConfigError(
            f"{path}: prompt_files is not a table of file names",
            'write, for example, prompt_files = { attacker = "mine.md" }',
        )
    unknown_prompts = [prompt for prompt in prompt_files if prompt not in VARIABLES]
    if unknown_prompts:
        fix = suggest(unknown_prompts[0], VARIABLES, "keys of prompt_files")
        raise ConfigError(f"{path}: unknown key 'prompt_files.{unknown_prompts[0]}'", fix)
    return list(prompt_files.items())


def _read_prompt(path: Path, prompt: str, file: str) -> str:
    """The text of a prompt's file. Raises ConfigError if it is not a template, or uses a variable that the prompt does
    not have.
    """
    import jinja2
    from jinja2 import meta

    source = path.parent / file
    if source.parent != path.parent:
        raise ConfigError(
            f"{path}: prompt_files.{prompt}: {file!r} is in another folder",
            "put the prompt file next to the domain's file",
        )
    try:
        text = read_utf8(source)
        syntax_tree = jinja2.Environment(autoescape=False).parse(text)
        used_variables = meta.find_undeclared_variables(syntax_tree)
    except (OSError, EncodingError) as error:
        raise ConfigError(
            f"{path}: prompt_files.{prompt}: {source}: {error}", "set it to a file of UTF-8 text"
        ) from error
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{source}, line {error.lineno}: {error.message}", "correct the template") from error
    allowed_variables = {"domain", *VARIABLES[prompt]}
    unknown_variables = sorted(used_variables - allowed_variables)
    if unknown_variables:
        raise ConfigError(
            f"{source}: uses the unknown variable {unknown_variables[0]!r}",
            f"use one of: {', '.join(sorted(allowed_variables))}",
        )
    return text


def _check_sections(path: Path, domain: Domain) -> None:
    """Raise ConfigError if a role lacks a required section, or if a domain with multiple-choice questions has no
    letters.
    """
    for role, required_sections in REQUIRED_SECTIONS.items():
        missing_sections = sorted(required_sections - set(getattr(domain.sections, role)))
        if missing_sections:
            fix = f"add it; these sections are needed: {', '.join(sorted(required_sections))}"
            raise ConfigError(f"{path}: sections.{role} lacks {missing_sections[0]}", fix)
    if domain.answer == "choice" and not domain.letters:
        raise ConfigError(f"{path}: letters is missing", 'set letters = "ABCD", or the letters of your options')


def _refuse_unknown_budgets(path: Path, domain: Domain) -> None:
    """Raise ConfigError if a budget is for a section that the defender's reply cannot have."""
    unknown_keys = [key for key in domain.budgets if key not in domain.budget_keys]
    if unknown_keys:
        fix = suggest(unknown_keys[0], domain.budget_keys, "keys of budgets")
        raise ConfigError(f"{path}: unknown key 'budgets.{unknown_keys[0]}'", fix)
