"""Configuration: how `--set` is read, which value takes precedence, and errors that name the key and the valid keys."""

import re

import pytest

from nanoflux_local.config import (
    EndpointConfig,
    Novelty,
    RunConfig,
    merge_tables,
    parse_setting,
    read_toml,
    validate_model,
)
from nanoflux_local.endpoints.build import build_embedder, build_endpoint
from nanoflux_local.endpoints.scripted import HashingEmbedder, ScriptedEndpoint
from nanoflux_local.errors import ConfigError, RefusedError
from nanoflux_local.paths import Home
from nanoflux_local.records import CutRequest, Identity
from nanoflux_local.run.binding import RunEndpoints, build_rules
from nanoflux_local.run.configs import load_profile, resolve
from nanoflux_local.tools.python_check import PythonTool

# The manifest of an embedder with thresholds for the domain `gsmhard` and for all other domains.
MANIFEST = """
name = "other-embedder"
kind = "embedder"
description = "For tests."
licence = "none"
parameters = 1
context = 256
[source]
kind = "file"
[embedder]
dimensions = 8
[embedder.thresholds]
question = { default = 0.61, gsmhard = 0.62 }
solution = { default = 0.51, gsmhard = 0.52 }
"""


@pytest.fixture
def home(tmp_path) -> Home:
    """An empty home."""
    return Home(tmp_path)


@pytest.fixture
def embedder_settings(home) -> dict:
    """The settings of a run that uses the embedder of `MANIFEST`, whose manifest is in the home."""
    (home.root / "models").mkdir()
    (home.root / "models" / "other-embedder.toml").write_text(MANIFEST)
    return {"endpoints": {"e": {"interface": "embedder", "model": "other-embedder"}}, "embedder": "e"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seed=3", {"seed": 3}),
        ("novelty.question=0.8", {"novelty": {"question": 0.8}}),
        (" novelty.question = 0.8 ", {"novelty": {"question": 0.8}}),
        ("a.b.c=true", {"a": {"b": {"c": True}}}),
        ("roles.judge.endpoint=arbiter", {"roles": {"judge": {"endpoint": "arbiter"}}}),
        ('a="3"', {"a": "3"}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a={b = 1}", {"a": {"b": 1}}),
        ("a=b=c", {"a": "b=c"}),
        ("url=http://127.0.0.1:8000/v1", {"url": "http://127.0.0.1:8000/v1"}),
        ("a=", {"a": ""}),
    ],
)
def test_parse_setting_reads_nested_toml_and_bare_words(text, value):
    assert parse_setting(text) == value


@pytest.mark.parametrize("text", ["", "seed", "=3", "  = 3"])
def test_setting_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="is not KEY=VALUE"):
        parse_setting(text)


def test_merge_tables_prefers_later_values_and_changes_no_input():
    base, overrides = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": 4}
    assert merge_tables(base, overrides) == {"a": {"b": 9, "c": 2}, "d": 3, "e": 4}
    assert (base, overrides) == ({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": 4})
    assert merge_tables({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert merge_tables({"a": 2}, {"a": {"b": 1}}) == {"a": {"b": 1}}


# Settings with an unknown key, each with the key as the error names it, and a part of the list of valid keys.
UNKNOWN_KEYS = {
    "foo=1": ("'foo'", "max_turns"),
    "novelty.foo=1": ("'novelty.foo'", "question, solution"),
    "roles.attacker.sampling.heat=1": ("'roles.attacker.sampling.heat'", "temperature, top_p"),
    "roles.poet.endpoint=x": ("'roles.poet'", "attacker, defender, judge"),
    "endpoints.minilm.modell=x": ("'endpoints.minilm.modell'", "adapter, args, batch_invariant, capacity, context"),
    "budgets.POEM=5": ("'budgets.POEM'", "ANSWER, SOLUTION"),
}


@pytest.mark.parametrize(("setting", "keys"), UNKNOWN_KEYS.items())
def test_error_on_an_unknown_key_lists_the_valid_keys(home, setting, keys):
    with pytest.raises(ConfigError) as error:
        resolve("starter", "embedded", parse_setting(setting), home)
    unknown_key, valid_keys = keys
    assert f"unknown key {unknown_key}" in error.value.message
    assert valid_keys in error.value.fix
    assert error.value.exit_code == 2


# Settings with an invalid value, each with a part of the error.
INVALID_VALUES = {
    "seed=-1": "seed",
    "seed=1.5": "seed",
    "novelty=3": "novelty",
    "novelty.question=1.1": "novelty.question",
    "novelty.question=nan": "novelty.question",
    "judge.confidence=95": "judge.confidence",
    "judge.strikes=0": "judge.strikes",
    "retries.validation=-1": "retries.validation",
    "seeds.min=9": "seeds: min is larger than max",
    "seeds.min=0": "seeds.min",
    "sandbox_wall_s=inf": "sandbox_wall_s",
    "sandbox_wall_s=1e7": "sandbox_wall_s: must be less than or equal to 86400",
    "roles.attacker.sampling.temperature=inf": "roles.attacker.sampling.temperature",
    "budgets.ANSWER=0": "budgets.ANSWER",
    "concurrency=0": "concurrency",
    "embedder=[1]": "embedder",
    "embedder=nobody": "embedder names 'nobody', but there is no such endpoint; choose one of: minilm, smollm2",
    "endpoints=1": "endpoints",
    "endpoints.x=1": "endpoints.x",
    "endpoints.x.model=y": "endpoints.x.interface",
    "roles.judge.endpoint=nobody": (
        "roles.judge.endpoint names 'nobody', but there is no such endpoint; choose one of: minilm, program, smollm2"
    ),
    "roles.defender.endpoint=program": "roles.defender.endpoint must be a model",
    "domain=gsmhard": "the settings are for the domain 'gsmhard', not 'starter'",
}


@pytest.mark.parametrize(("setting", "message"), INVALID_VALUES.items())
def test_error_on_an_invalid_value_names_its_key(home, setting, message):
    with pytest.raises(ConfigError) as error:
        resolve("starter", "embedded", parse_setting(setting), home)
    assert message in error.value.message
    assert error.value.fix


@pytest.mark.parametrize(
    ("domain", "profile", "names"),
    [
        ("poetry", "embedded", "gsmhard"),
        ("starter", "cloud", "embedded, hosted, hybrid, scripted"),
        ("../starter", "embedded", ""),
    ],
)
def test_error_on_an_unknown_domain_or_profile_lists_the_valid_names(home, domain, profile, names):
    with pytest.raises(ConfigError) as error:
        resolve(domain, profile, {}, home)
    assert names in error.value.fix


@pytest.mark.parametrize(
    ("domain", "seeds", "question_threshold"),
    [("gsmhard", (5, 7), 0.85), ("starter-genetics", (5, 7), 0.80), ("starter-medicine", (7, 12), 0.75)],
)
def test_domain_defaults_are_the_settings_of_the_paper(home, domain, seeds, question_threshold):
    """An embedder without a manifest uses the thresholds of the paper."""
    config = resolve(domain, "scripted", {}, home)
    assert (config.seeds.min, config.seeds.max) == seeds
    assert config.novelty == Novelty(question=question_threshold, solution=0.75)
    assert config.budgets == {"ANALYSIS": 500, "SOLUTION": 1500, "ANSWER": 100}
    assert 0.9 <= config.judge.confidence <= 0.95
    assert (config.judge.strikes, config.retries.validation, config.retries.parse) == (3, 5, 2)
    assert (config.target, config.max_turns) == (200, 1000)


@pytest.mark.parametrize(("domain", "thresholds"), [("starter", (0.61, 0.51)), ("gsmhard", (0.62, 0.52))])
def test_thresholds_come_from_the_manifest_of_the_chosen_embedder(home, embedder_settings, domain, thresholds):
    config = resolve(domain, "embedded", embedder_settings, home)
    assert (config.novelty.question, config.novelty.solution) == thresholds


def test_changed_embedder_model_changes_the_thresholds(home, embedder_settings):
    config = resolve("starter", "embedded", {"endpoints": {"minilm": {"model": "other-embedder"}}}, home)
    assert config.novelty.question == 0.61


def test_explicit_threshold_takes_precedence_over_the_manifest(home, embedder_settings):
    config = resolve("starter", "embedded", {**embedder_settings, "novelty": {"question": 0.7}}, home)
    assert (config.novelty.question, config.novelty.solution) == (0.7, 0.51)


@pytest.mark.parametrize("domain", ["starter", "gsmhard"])
def test_domain_with_programs_uses_them_as_attacker_and_judge(home, domain):
    roles = resolve(domain, "embedded", {}, home).roles
    assert (roles.attacker.endpoint, roles.defender.endpoint, roles.judge.endpoint) == ("program", "smollm2", "program")


@pytest.mark.parametrize("domain", ["starter-genetics", "starter-medicine"])
def test_domain_without_programs_uses_the_models_of_the_profile(home, domain):
    roles = resolve(domain, "embedded", {}, home).roles
    assert {roles.attacker.endpoint, roles.defender.endpoint, roles.judge.endpoint} == {"smollm2"}
    assert roles.attacker.sampling.temperature == 0.8


@pytest.mark.parametrize(
    ("domain", "role", "endpoint", "message"),
    [
        ("starter-genetics", "attacker", "program", "have no programs, so the attacker cannot be a program"),
        ("starter-genetics", "judge", "program", "have no programs, so the judge cannot be a program"),
        ("starter", "attacker", "smollm2", "can judge only questions that a program wrote"),
    ],
)
def test_program_is_refused_in_a_role_that_it_cannot_play(home, domain, role, endpoint, message):
    with pytest.raises(ConfigError, match=message):
        resolve(domain, "embedded", {"roles": {role: {"endpoint": endpoint}}}, home)


def test_configuration_is_frozen_and_survives_conversion_to_json_and_back(home):
    config = resolve("starter", "embedded", {"seed": 5}, home)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 6
    assert validate_model(RunConfig, config.model_dump(mode="json"), "stored") == config


def test_run_with_changed_prompts_is_refused(home):
    config = resolve("starter", "scripted", {}, home)
    identities = {name: Identity("scripted", name) for name in ("duelist-a", "duelist-b", "arbiter", "embedder")}
    assert build_rules(config, identities, home).config == config
    earlier_config = config.model_copy(update={"prompts": {**config.prompts, "evaluation": "0" * 64}})
    with pytest.raises(RefusedError, match="the prompt 'evaluation'"):
        build_rules(earlier_config, identities, home)


def test_toml_file_may_start_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_toml(path) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = \nb = 1", "line 1"),
        (b"a = 1\na = 2\n", "line 2"),
        (b"\xff\xfe", "the file is UTF-16, not UTF-8"),
        (b"a = \xe9", "line 1 is not UTF-8"),
        (b"a = " + b"[" * 100_000, "too deep"),
        (None, "No such file"),
    ],
)
def test_error_on_invalid_toml_names_the_file_and_the_problem(tmp_path, content, message):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_toml(path)
    assert str(path) in error.value.message and message in error.value.message


def test_profile_may_be_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('embedder = "x"\n')
    assert load_profile(str(path)) == {"embedder": "x"}


@pytest.mark.parametrize("count", [5, 6, 12])
def test_seed_count_may_be_fixed(home, count):
    """The complexity ablation of the paper fixes n, the number of seeds."""
    config = resolve("starter-medicine", "scripted", {"seeds": {"min": count, "max": count}}, home)
    assert config.seeds.min == config.seeds.max == count


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interface": "openai_chat", "model": "m"}, "endpoints.x.url is missing"),
        ({"interface": "embedder", "model": "m"}, "endpoints.x: the interface 'embedder' has no chat models"),
    ],
)
def test_error_on_an_unusable_endpoint_names_the_reason(home, values, message):
    with pytest.raises(ConfigError, match=message):
        build_endpoint("x", EndpointConfig(**values), home)


def test_chat_model_as_embedder_is_refused(home):
    with pytest.raises(ConfigError, match="the interface 'openai_chat' has no embedders"):
        build_embedder(EndpointConfig(interface="openai_chat", model="m"), home)


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 8, 9])
async def test_cut_reply_is_the_longest_prefix_within_the_token_limit(budget):
    """`budget` is a number of tokens as the endpoint counts them. The scripted endpoint counts each word as a token."""
    text = "one two three four five six seven eight"
    endpoint = ScriptedEndpoint("fake")
    run_endpoints = RunEndpoints({"fake": endpoint}, HashingEmbedder("e"), PythonTool(), runs_programs=False)
    reply = await run_endpoints.answers()["cut"](CutRequest(endpoint.identity, text, budget))
    assert reply.exact and text.startswith(reply.text)
    assert endpoint.count_tokens(reply.text) <= budget
    if reply.text != text:
        longer_prefix = text[: len(reply.text) + 1]
        assert endpoint.count_tokens(longer_prefix) > budget


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("judge.agreeing=5", "judge: agreeing must not be larger than solutions"),
        ('judge.solvers=["nobody"]', "judge.solvers names 'nobody'"),
        ("keep=confirmed", "needs a check that solves the question: blind or open_book"),
        ("samples=0", "samples"),
        ("keep=all", "keep"),
        ("rules=strict", "rules"),
        ("pause_when_saturated=-1", "pause_when_saturated"),
    ],
)
def test_invalid_setting_of_the_rules_is_refused(home, setting, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve("starter-genetics", "embedded", parse_setting(setting), home)


def test_configuration_of_an_older_version_takes_the_defaults_of_newer_fields(home):
    config = resolve("starter-genetics", "embedded", {}, home)
    stored_config = config.model_dump(mode="json")
    for key in ("rules", "samples", "keep", "pause_when_saturated"):
        del stored_config[key]
    for key in ("solvers", "solutions", "programs", "agreeing", "grading"):
        del stored_config["judge"][key]
    assert RunConfig.model_validate(stored_config) == config
