"""Where each value of a run's configuration comes from: an option, a file, the profile, the domain, or a default."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanoflux_local.config import RunConfig, Settings, merge_tables
from nanoflux_local.domains.own import load_domain
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run.configs import load_profile
from nanoflux_local.run.rule_sets import PAPER, find_rule_settings

DEFAULT = "default"
LOOKUP_SOURCES = (
    (re.compile(r"endpoints\..+\.reasoning_tokens"), "model manifest"),
    (re.compile(r"endpoints\..+\.price(\..+)?"), "price list"),
    (re.compile(r"novelty\..+"), "embedder manifest"),
    (re.compile(r"datasets|held_out"), "imported benchmarks"),
    (re.compile(r"domain_hash|prompts\..+"), "domain"),
    (re.compile(r"profile"), "--profile"),
)
"""Patterns of the keys whose values are looked up and recorded when a run starts, each with the source of the value."""
HASHES = re.compile(r"domain_hash|prompts\..+")
"""Keys whose values are hashes, which say nothing to a reader."""
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
"""Keys that TOML allows without quotation marks."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings that come from one source. In a list of layers, later layers take precedence over earlier ones."""

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a configuration by its dotted key, and its source."""

    key: str
    value: Any
    source: str


def list_base_layers(domain_name: str, profile_name: str, home: Home, rules: str = "") -> list[Layer]:
    """The layers that a user's own settings override: the domain, then the rule set, then the profile. If `rules` is
    "", the rule set is that of the profile.

    Raises:
        ConfigError: there is no such domain or profile.
    """
    domain, profile = load_domain(domain_name, home.root), load_profile(profile_name, home)
    without_programs = profile.pop("without_programs", {})
    if not domain.programs:
        profile = merge_tables(profile, without_programs)
    rule_set = rules or profile.get("rules", PAPER)
    rule_layers = [] if rule_set == PAPER else [Layer(f"rules {rule_set}", find_rule_settings(rule_set, domain))]
    return [Layer("domain", domain.defaults()), *rule_layers, Layer(f"profile {profile_name}", profile)]


def list_fork_layers(run: str, home: Home, rules: str = "") -> list[Layer]:
    """The layers that the settings of a fork override: the stored configuration of `run`, then the rule set `rules` if
    it is not "" and differs from that of the run.

    Raises:
        NothingMatchedError: there is no such run.
    """
    with LedgerView(home.ledger) as view:
        row = view.find_run(run)
    config = json.loads(row["config"])
    layers = [Layer(f"run {row['id']}", config)]
    if rules and rules != config.get("rules", PAPER):
        domain = load_domain(config["domain"], home.root)
        layers.append(Layer(f"rules {rules}", find_rule_settings(rules, domain)))
    return layers


def merge_layers(layers: Sequence[Layer]) -> Settings:
    """The values of all layers. If several layers state a key, the value of the last one is used."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = merge_tables(values, layer.values)
    return values


def trace_settings(config: RunConfig, layers: Sequence[Layer]) -> list[Setting]:
    """All settings of a configuration that was built from `layers`, each with its source, in the order of the keys."""
    defaults = dict(list_leaves(_dump_defaults()))
    values_by_source = [(layer.source, dict(list_leaves(layer.values))) for layer in reversed(layers)]
    return [
        Setting(key, value, _find_source(key, value, values_by_source, defaults))
        for key, value in list_leaves(config.model_dump(mode="json"))
    ]


def _find_source(
    key: str,
    value: Any,
    values_by_source: Sequence[tuple[str, Mapping[str, Any]]],
    defaults: Mapping[str, Any],
) -> str:
    """The source of the value of `key`: the first of `values_by_source` that states this value; otherwise the source in
    which the value was looked up; otherwise "default". `values_by_source` starts with the source of highest precedence.
    """
    for source, values in values_by_source:
        if key in values and values[key] == value:
            return source
    is_unset = value in (None, 0)  # a lookup that failed
    if is_unset or (key in defaults and defaults[key] == value):
        return DEFAULT
    for pattern, source in LOOKUP_SOURCES:
        if pattern.fullmatch(key):
            return source
    return DEFAULT


def _dump_defaults() -> Settings:
    """The default values of the optional settings, by top-level key."""
    fields = {name: field for name, field in RunConfig.model_fields.items() if not field.is_required()}
    values = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    defaults: Settings = RunConfig.model_construct(**values).model_dump(mode="json", warnings=False)
    return defaults


def list_leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted key and the value of every setting in nested tables; an empty table counts as a value."""
    for name, value in values.items():
        toml_name = name if BARE_KEY.fullmatch(name) else json.dumps(name)
        key = f"{prefix}{toml_name}"
        if isinstance(value, Mapping) and value:
            yield from list_leaves(value, f"{key}.")
        else:
            yield key, list(value) if isinstance(value, tuple) else value


def render_toml(config: Mapping[str, Any]) -> str:
    """A stored configuration as TOML for `run start --config`, one dotted key per line; unset values are left out."""
    stated_settings = [(key, value) for key, value in list_leaves(config) if value is not None]
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in stated_settings)
