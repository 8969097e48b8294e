"""Builds the frozen configuration of a run from a domain, a profile and overrides.

The domain supplies defaults, and the profile supplies the models; the overrides take precedence over both. Values that
depend on a chosen model (novelty thresholds, prices, reasoning tokens) are looked up and recorded, so that later
changes to manifests and price lists do not affect the run.
"""

import logging
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nanoflux_local.config import PROGRAM, EndpointConfig, RunConfig, Settings, merge_tables, read_toml, validate_model
from nanoflux_local.domains.base import Domain
from nanoflux_local.domains.own import load_domain
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.build import (
    build_endpoint,
    check_endpoint,
    check_endpoints,
    complete_endpoint,
    find_manifest_reasoning_limit,
    find_reasoning_limit,
    lacks_price,
)
from nanoflux_local.endpoints.prices import find_price
from nanoflux_local.errors import ConfigError
from nanoflux_local.paths import Home
from nanoflux_local.records import digest
from nanoflux_local.run.rule_sets import PAPER, find_rule_settings
from nanoflux_local.seeds.datasets import choose_held_out, list_datasets_with_seeds, list_seed_datasets
from nanoflux_local.suggestions import suggest
from nanoflux_local.transcript import PROVING_CHECKS
from nanoflux_models.manifest import load_manifest


def list_profiles(home: Home | None = None) -> list[str]:
    """The names of the shipped profiles and of those in `<home>/profiles`."""
    return sorted(list_profile_paths(home))


def load_profile(name: str, home: Home | None = None) -> Settings:
    """Load a profile by its name, or by a path that ends in ".toml".

    Raises:
        ConfigError: there is no such profile, or it is not TOML.
    """
    return read_toml(find_profile(name, home))


def find_profile(name: str, home: Home | None = None) -> Path:
    """The file of a profile, given by its name or by a path that ends in ".toml". A profile in `<home>/profiles`
    replaces a shipped one of the same name. A path is returned even if no file exists there.

    Raises:
        ConfigError: there is no profile of that name.
    """
    paths = list_profile_paths(home)
    if name in paths:
        return paths[name]
    if name.endswith(".toml"):
        return Path(name)
    raise ConfigError(f"there is no profile {name!r}", f"{suggest(name, paths)}, or pass a .toml file")


def list_profile_paths(home: Home | None) -> dict[str, Path]:
    """The files of the shipped profiles and of those in `<home>/profiles`, by name."""
    shipped_folder = Path(str(resources.files("nanoflux_local.profiles")))
    folders = [shipped_folder] if home is None else [shipped_folder, home.profiles]
    return {path.stem: path for folder in folders for path in folder.glob("*.toml")}


def resolve(domain_name: str, profile_name: str, overrides: Mapping[str, Any], home: Home) -> RunConfig:
    """Build the frozen configuration from the domain, the rule set, the profile, the embedder's thresholds and
    `overrides`. Later sources take precedence.

    Raises:
        ConfigError: a name, key or value is wrong; the message says where.
    """
    domain = load_domain(domain_name, home.root)
    profile = load_profile(profile_name, home)
    without_programs = profile.pop("without_programs", {})
    if not isinstance(without_programs, dict):
        raise ConfigError(f"profile {profile_name}: without_programs is not a table", "correct the profile")
    if not domain.programs:
        profile = merge_tables(profile, without_programs)
    rule_set = merge_tables(profile, overrides).get("rules")
    rule_settings = {} if rule_set == PAPER else find_rule_settings(rule_set, domain)
    values = merge_tables(merge_tables(domain.defaults(), rule_settings), profile)
    values = merge_tables(values, {"profile": profile_name, "domain_hash": domain.hash})
    values["prompts"] = {name: digest(text) for name, text in domain.prompts.items()}
    # The draft has no budget: prices are looked up only below, and a cap in dollars is refused without prices.
    draft = validate_run({**merge_tables(values, overrides), "budget": {}})
    values = merge_tables(values, {"novelty": _find_thresholds(draft.endpoints[draft.embedder], domain, home)})
    values = merge_tables(values, {"endpoints": _find_prices(draft, home)})
    values = merge_tables(values, {"endpoints": _find_reasoning_tokens(draft.endpoints, home)})
    config = validate_run(merge_tables(values, overrides))
    _refuse_unsuitable(config, domain)
    # The names of the seed and held-out datasets are recorded, so that datasets imported later do not affect the run.
    datasets = config.datasets or list_datasets_with_seeds(home.ledger, list_seed_datasets(domain))
    held_out = config.held_out
    if "held_out" not in config.model_fields_set:
        held_out = choose_held_out(home.ledger, datasets, (*list_seed_datasets(domain), *domain.evaluates))
    return config.model_copy(update={"datasets": datasets, "held_out": held_out})


def validate_run(values: Mapping[str, Any], where: str = "the configuration") -> RunConfig:
    """Build a run's configuration and check its endpoints against their kinds.

    Raises:
        ConfigError: a key or value is wrong; the message begins with `where`.
    """
    config = validate_model(RunConfig, values, where)
    check_endpoints(config, where)
    return config


def derive_config(config: RunConfig, changes: Mapping[str, Any], home: Home) -> RunConfig:
    """The configuration of a new run: `config` with `changes` applied. Novelty thresholds belong to an embedder, and
    reasoning tokens to a model; if `changes` replace the embedder or a model, these values are looked up again unless
    `changes` state them. If `changes` name a different rule set, the settings of that rule set are applied as well.

    Raises:
        ConfigError: a name, key or value is wrong; the message says where.
    """
    domain = load_domain(config.domain, home.root)
    if changes.get("rules", config.rules) != config.rules:
        changes = merge_tables(find_rule_settings(changes["rules"], domain), changes)
    values = merge_tables(config.model_dump(mode="json"), changes)
    changed_config = validate_run(values)
    changed_embedder = changed_config.endpoints[changed_config.embedder]
    if changed_embedder != config.endpoints[config.embedder]:
        values = merge_tables(values, {"novelty": _find_thresholds(changed_embedder, domain, home)})
    values = merge_tables(values, {"endpoints": _replace_reasoning_tokens(config, changed_config, changes, home)})
    changed_config = validate_run(merge_tables(values, changes))
    _refuse_unsuitable(changed_config, domain)
    return changed_config


def _find_prices(config: RunConfig, home: Home) -> Settings:
    """Look up the prices of endpoints that state no price, so that a run keeps the prices at its start."""
    unpriced_endpoints = {name: endpoint for name, endpoint in config.endpoints.items() if lacks_price(endpoint)}
    price_by_name = {name: find_price(endpoint, home.root) for name, endpoint in unpriced_endpoints.items()}
    return {name: {"price": price.model_dump()} for name, price in price_by_name.items() if price is not None}


def _find_reasoning_tokens(endpoints: Mapping[str, EndpointConfig], home: Home) -> Settings:
    """Look up the reasoning tokens of endpoints in the manifests of local models, unless an endpoint states them."""
    return {name: {"reasoning_tokens": find_reasoning_limit(endpoint, home)} for name, endpoint in endpoints.items()}


def _replace_reasoning_tokens(
    config: RunConfig, changed_config: RunConfig, changes: Mapping[str, Any], home: Home
) -> Settings:
    """Look up the reasoning tokens of endpoints whose model changed, unless `changes` state them."""
    former_model_by_name = {name: endpoint.model for name, endpoint in config.endpoints.items()}
    changes_by_name = changes.get("endpoints", {})
    settings: Settings = {}
    for name, endpoint in changed_config.endpoints.items():
        is_same_model = endpoint.model == former_model_by_name.get(name)
        is_stated = "reasoning_tokens" in changes_by_name.get(name, {})
        if not is_same_model and not is_stated:
            settings[name] = {"reasoning_tokens": find_manifest_reasoning_limit(endpoint, home)}
    return settings


def _refuse_unsuitable(config: RunConfig, domain: Domain) -> None:
    """Refuse a configuration that does not suit its domain. `RunConfig` cannot check this, since it does not know the
    domain.
    """
    if config.domain != domain.name:
        raise ConfigError(
            f"the settings are for the domain {config.domain!r}, not {domain.name!r}",
            f"leave out `domain`; another domain needs a new run: `nanoflux run start --domain {config.domain}`",
        )
    unknown_names = [name for name in config.budgets if name not in domain.budget_keys]
    if unknown_names:
        fix = suggest(unknown_names[0], domain.budget_keys, "keys of budgets")
        raise ConfigError(f"the settings of this run have an unknown key 'budgets.{unknown_names[0]}'", fix)
    unavailable_kinds = [kind for kind in config.judge.trial_kinds if kind not in domain.trial_kinds]
    if unavailable_kinds:
        raise ConfigError(
            f"judge.trial_kinds: the domain {domain.name!r} has no solutions of the kind {unavailable_kinds[0]!r}",
            f"choose from: {', '.join(domain.trial_kinds)}",
        )
    program_roles = [role for role in ("attacker", "judge") if getattr(config.roles, role).endpoint == PROGRAM]
    if program_roles and not domain.programs:
        raise ConfigError(
            f"the seeds of {domain.name!r} have no programs, so the {program_roles[0]} cannot be a program",
            f"choose a model: --set roles.{program_roles[0]}.endpoint=NAME",
        )
    if config.roles.attacker.endpoint != PROGRAM and config.roles.judge.endpoint == PROGRAM:
        raise ConfigError(
            "a program can judge only questions that a program wrote", "choose a model: --set roles.judge.endpoint=NAME"
        )
    needs_support = config.keep == "confirmed" and config.roles.judge.endpoint != PROGRAM
    if needs_support and config.judge.check_names.isdisjoint(PROVING_CHECKS):
        raise ConfigError(
            f'keep = "confirmed" needs a check that solves the question: {" or ".join(PROVING_CHECKS)}',
            "add one of them to judge.checks, or let the defender's answers count: --set keep=provable",
        )


def _find_thresholds(endpoint: EndpointConfig, domain: Domain, home: Home) -> dict[str, float]:
    """The novelty thresholds that belong to an embedding model, by kind ("question", "solution"): those of the domain
    if the model is the domain's embedder, else those of the model's manifest. {} if the manifest has none, so that the
    domain's thresholds remain in effect.
    """
    if endpoint.interface != "embedder":
        return {}
    if endpoint.model == domain.novelty.embedder:
        return domain.novelty.model_dump(exclude={"embedder"})
    embedder = load_manifest(endpoint.model, home.root).embedder
    if embedder is None:
        return {}
    if embedder.thresholds is None:
        logging.getLogger(__name__).warning(
            "%s has no calibrated novelty thresholds; the domain's are used, which belong to another embedder",
            endpoint.model,
        )
        return {}
    thresholds_by_kind = {"question": embedder.thresholds.question, "solution": embedder.thresholds.solution}
    return {kind: table.get(domain.name, table["default"]) for kind, table in thresholds_by_kind.items()}


def build_profile_endpoint(
    profile: str, name: str, home: Home, role: str = "", settings: Mapping[str, Any] | None = None
) -> tuple[Endpoint, EndpointConfig]:
    """Build an endpoint of a profile, and return it with its configuration: the endpoint `name`, or the endpoint of
    `role` if `name` is "". `settings` override the profile's.

    Raises:
        ConfigError: the profile has no such endpoint, or a program plays `role`.
    """
    values = load_profile(profile, home)
    name = name or str(values.get("roles", {}).get(role, {}).get("endpoint", ""))
    endpoints = values.get("endpoints", {})
    if name not in endpoints:
        purpose = f" for the role {role}" if role else ""
        problem = f"profile {profile} has no endpoint {name!r}{purpose}"
        raise ConfigError(problem, suggest(name, endpoints, "choose one of"))
    where = f"profile {profile}: endpoints.{name}"
    config = validate_model(EndpointConfig, {**endpoints[name], **(settings or {})}, where)
    check_endpoint(config, where)
    config = complete_endpoint(config, home)
    return build_endpoint(name, config, home), config
