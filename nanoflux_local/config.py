"""The frozen configuration of a run: every setting that determines its result. It is validated once and stored in full.

Values come from the domain, the profile, a file and `--set`; each overrides the ones before it. An unknown key is an
error that names the key.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from nanoflux_local.errors import ConfigError
from nanoflux_local.records import Sampling
from nanoflux_local.suggestions import nearest, suggest
from nanoflux_local.text_files import EncodingError, read_utf8
from nanoflux_local.value_errors import describe_value_error

ROLES = ("attacker", "defender", "judge")
PROGRAM = "program"
"""The value of `endpoint` that lets a built-in program play the attacker or the judge."""

Settings = dict[str, Any]
"""Settings as nested tables by key, as in a TOML file; they become a configuration once they are validated."""
SETTING_EXAMPLE = "--set novelty.question=0.8"
"""The example in the error for a setting that is not KEY=VALUE, unless a command passes another."""


class Strict(BaseModel):
    """The base class of all configuration models: they are frozen, and unknown keys are errors."""

    # `hide_input_in_errors`: pydantic's errors would otherwise quote the input, which can contain a password.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


TrialKind = Literal["slip", "answer", "mistake", "removed", "changed", "own"]
"""The kinds of solutions that a judge's trial may contain in addition to the dataset's solutions (`run.trials`)."""


class SeedCount(Strict):
    """The number of seed questions for one new question, drawn uniformly from [min, max] (paper §3)."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _check_order(self) -> "SeedCount":
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return self


class Novelty(Strict):
    """The thresholds θq of questions and θs of solutions (paper §3), as cosine similarities in [-1, 1]. A text that is
    more similar than its threshold to an earlier question, or to the attacker's solution, is not novel.
    """

    question: float = Field(ge=-1, le=1)
    solution: float = Field(ge=-1, le=1)


class JudgeRules(Strict):
    """The rules that the judge follows.

    A verdict below `confidence` is requested again; after `strikes` such verdicts the question is discarded. With
    `code_check`, a model judge writes a program to verify each solution that it accepts (paper §3); with `fact_check`,
    it looks up the claims of a question before it judges; `checks` lists further checks (`roles.checks`). The judge's
    error rates are measured in a trial on `trial` right and as many wrong solutions of the kinds in `trial_kinds`. With
    `quality`, the judge rates the reasoning of kept examples (A.4). With `grading` = "judge", the judge evaluates the
    defender's first answer; with "program", it evaluates only free text, and a program compares numbers and letters
    with the attacker's answer. `panel` lists endpoints that judge in addition to the endpoint of the role; `panel_rule`
    says how their votes are combined.

    The check `blind` requests `solutions` solutions that are written from the question alone. If the domain's answers
    are numbers, at most `programs` of these are programs. The endpoints in `solvers` write them in turn; if `solvers`
    is empty, the judge's endpoint writes all of them. The check supports an answer that at least `agreeing` solutions
    reach (0: all of them); if any solutions are programs, at least one of those that agree must be a program. The
    defaults follow from the trial in docs/explanation/judge.md.
    """

    confidence: float = Field(default=0.9, ge=0, le=1)
    strikes: int = Field(default=3, ge=1)
    code_check: bool = False
    trial: int = Field(default=0, ge=0, le=1000)
    trial_kinds: tuple[TrialKind, ...] = ("slip", "answer")
    quality: bool = False
    grading: Literal["judge", "program"] = "judge"
    fact_check: bool = False
    checks: tuple[str, ...] = ()
    panel: tuple[str, ...] = ()
    panel_rule: Literal["majority", "minimum"] = "majority"
    solvers: tuple[str, ...] = ()
    solutions: int = Field(default=4, ge=1, le=64)
    programs: int = Field(default=2, ge=0, le=64)
    agreeing: int = Field(default=2, ge=0, le=64)

    @model_validator(mode="after")
    def _check_rules(self) -> "JudgeRules":
        if self.agreeing > self.solutions:
            raise ValueError("agreeing must not be larger than solutions")
        kinds_of_wrong_solutions = set(self.trial_kinds) - {"own"}  # "own" adds right solutions
        if not kinds_of_wrong_solutions:
            raise ValueError("trial_kinds must name at least one kind of wrong solution")
        return self

    @property
    def check_names(self) -> frozenset[str]:
        """The enabled checks: those in `checks`, and those that `code_check` and `fact_check` enable."""
        switches = {"code": self.code_check, "facts": self.fact_check}
        return frozenset(self.checks) | {name for name, enabled in switches.items() if enabled}


class SearchConfig(Strict):
    """The search engine for the judge's queries: the local corpus, DuckDuckGo, a SearXNG server at `url`, or Google's
    Custom Search with the engine id `cx` and a key in `key_env` or `key_file`. Choosing an engine permits requests to
    its host. `queries` limits the queries for one question, `top` the results of a query.
    """

    engine: Literal["corpus", "duckduckgo", "searxng", "google"] = "corpus"
    url: str = ""
    cx: str = ""
    key_env: str = ""
    key_file: str = ""
    queries: int = Field(default=5, ge=1, le=20)
    top: int = Field(default=5, ge=1, le=20)
    timeout_s: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def _check_engine_settings(self) -> "SearchConfig":
        refuse_secrets(self.url)
        if self.engine == "searxng" and not self.url:
            raise ValueError("searxng needs the url of its server")
        if self.engine == "google" and not (self.cx and (self.key_env or self.key_file)):
            raise ValueError("google needs cx, the id of the search engine, and key_env or key_file")
        return self


class Retries(Strict):
    """The maximum number of new attempts after rejected questions (`validation`, paper A.1), and of retries of an
    unreadable reply (`parse`).
    """

    validation: int = Field(default=5, ge=0)
    parse: int = Field(default=2, ge=0)


class Price(Strict):
    """The prices of an endpoint's prompt tokens and completion tokens, in US dollars per million tokens.

    `cached` is the price of cached prompt tokens, if it differs from that of other prompt tokens. Reasoning tokens are
    charged as completion tokens, whether the reply shows them or not.
    """

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """The cost of a request in US dollars; `cached_tokens` are part of `prompt_tokens`."""
        cached_count = min(cached_tokens, prompt_tokens)
        cached_price = self.prompt if self.cached is None else self.cached
        cost_times_million = (
            self.prompt * (prompt_tokens - cached_count)
            + cached_price * cached_count
            + self.completion * completion_tokens
        )
        return cost_times_million / 1e6


def refuse_secrets(url: str) -> None:
    """Raise ValueError if a url contains a user, a password or a query, which may be secret."""
    if not url:
        return
    parts = urlsplit(url)
    has_credentials = parts.username is not None or parts.password is not None
    if has_credentials or parts.query or parts.fragment:
        raise ValueError(
            "a stored url must not contain a user, password, query or fragment: "
            "put the key into the variable that key_env names"
        )


class Send(Strict):
    """Which parameters are sent to a server. A setting that is None is derived from the model's name and from the
    parameters that the server refuses.

    `false` omits a parameter. `seed = "int32"` shortens the seed to 32 bits, and `stop = N` sends at most N stop
    strings. `max_tokens` is what the server calls the parameter that limits a reply's tokens. With
    `temperature_with_top_p = false`, only one of these two parameters is sent: the one that differs from its default.
    `system = false` moves the system message's text to the beginning of the first user message.
    """

    seed: bool | Literal["int32"] | None = None
    temperature: bool | None = None
    top_p: bool | None = None
    temperature_with_top_p: bool | None = None
    stop: bool | PositiveInt | None = None
    max_tokens: Literal["max_tokens", "max_completion_tokens"] | None = None
    system: bool | None = None


class EndpointConfig(Strict):
    """A model that plays a role, or an embedder. `interface` is the kind of endpoint (`endpoints.kinds`), and `adapter`
    the hash of a LoRA adapter ("" for none).

    The following settings are for servers. `url` is the server's address, and `urls` are those of several replicas that
    share the requests. `key_env` or `key_file` names the source of the API key. `revision` tells versions of a model
    apart that have the same name. `capacity` limits the concurrent requests to each server. `timeout_s` is the shortest
    timeout of a request; the timeout grows with the durations of recent requests. With `structured`, sections are
    requested as JSON. `send` says which parameters the server accepts.

    A model that reasons before it answers may use `reasoning_tokens` in addition to the token limit of its reply; the
    default comes from the model's manifest and is recorded when the run starts. Stop strings end only the answer of
    such a model, not its reasoning.

    The following settings are for managed servers. Servers with the same `shares` take turns on one GPU: all but one of
    them sleep. `python` is the interpreter that has vLLM, `context` the maximum length of a conversation in tokens, and
    `args` are arguments of vLLM. `batch_invariant` makes replies independent of the other requests in a batch, which
    needs a GPU of compute capability 8.0 or higher.

    `rows` is the number of requests that an in-process model decodes together (0: the default). `delay_s` is the mean
    delay of a scripted model.
    """

    interface: str
    model: str
    adapter: str = ""
    url: str = ""
    urls: tuple[str, ...] = ()
    key_env: str = ""
    key_file: str = ""
    revision: str = ""
    structured: bool = False
    reasoning_tokens: int = Field(default=0, ge=0)
    capacity: int = Field(default=32, ge=1, le=1024)
    timeout_s: float = Field(default=60.0, gt=0)
    rows: int = Field(default=0, ge=0)
    delay_s: float = Field(default=0.0, ge=0)
    shares: str = ""
    python: str = ""
    context: int = Field(default=0, ge=0)
    args: tuple[str, ...] = ()
    batch_invariant: bool = False
    price: Price | None = None
    send: Send = Send()

    @model_validator(mode="after")
    def _check_addresses(self) -> "EndpointConfig":
        if self.url and self.urls:
            raise ValueError("both url and urls are set: set url to one address, or urls to all of them")
        for url in (self.url, *self.urls):
            refuse_secrets(url)
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the endpoint's servers; if empty, the provider's default address is used."""
        if self.urls:
            return self.urls
        return (self.url,) if self.url else ()


class RoleSampling(Strict):
    """How the replies of a role are sampled; temperature 0 is greedy."""

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)


class RoleConfig(Strict):
    """The endpoint that plays a role ("program" for a built-in program), and the sampling of its replies."""

    endpoint: str
    sampling: RoleSampling = RoleSampling()


class Roles(Strict):
    """The endpoint and the sampling of each role."""

    attacker: RoleConfig
    defender: RoleConfig
    judge: RoleConfig


class Caps(Strict):
    """Hard caps on US dollars, prompt and completion tokens, and hours; None means no cap.

    A run's hours are its wall-clock time; a role's hours are the total duration of its calls.
    """

    usd: float | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    hours: float | None = Field(default=None, ge=0)


class RoleCaps(Strict):
    """Caps by role."""

    attacker: Caps = Caps()
    defender: Caps = Caps()
    judge: Caps = Caps()


class Budget(Caps):
    """The caps of a run and of each of its roles."""

    roles: RoleCaps = RoleCaps()


class FrozenQuestions(Strict):
    """The questions of another run's first `turns` turns, identified by the SHA-256 of their texts in order."""

    turns: int = Field(ge=0)
    questions: str
    """The SHA-256; stored configurations use this key for it."""


LIVE = ("concurrency", "target", "max_turns", "budget", "pause_after_unread", "pause_when_saturated")
"""The settings that may change during a run, since none of them affects the result of a turn."""


class RunConfig(Strict):
    """Everything that determines the result of a run's turns, and the settings in `LIVE`, which only affect their
    number, pace and cost.

    `target` is the number of examples to keep, and `concurrency` the number of turns that run at the same time.
    `endpoints` has the endpoints by name; `embedder` names the one that embeds texts. `prompts` has the digest of each
    of the domain's prompts, by name, and `domain_hash` identifies the domain. `budgets` are the token budgets of the
    defender's sections (`budget` limits the whole run); `reply_tokens` limits the replies of the attacker and the
    judge, whose sections have no budgets. The questions of the runs in `novel_against` count as earlier questions.
    Seeds are drawn from the train items of `datasets` (default: the domain's), and no question may repeat a test item
    of the datasets in `held_out`.

    If attacker and defender are two models, they swap roles after each turn (paper §3), unless `swap_roles` is false.

    `rules` is the set of rules from which the other settings were filled in (`run.rule_sets`). The defender answers
    each question `samples` times. `keep` says which questions become examples: with "failed", those that the defender's
    first answer gets wrong, or gets right by a novel solution (paper §3). With "provable", those that the defender
    solves sometimes but not always; a question that it never solves is kept only if blind solutions support the answer.
    With "supported", a question that the defender always solves is dropped, and one that it solves in more than half of
    its answers is kept; any other is kept only if blind solutions support the answer. With "confirmed", blind
    solutions are written first; a question whose answer they do not support is rejected before the judge sees it, and
    any other is kept unless the defender always solves it.

    The run pauses after `pause_after_unread` consecutive attempts in which the same step got no readable reply from the
    same model, whether the reply was unreadable or the prompt refused. It also pauses after `pause_when_saturated`
    consecutive attempts if nearly all of them were rejected for the same reason. A value of 0 disables the pause.
    """

    domain: str
    profile: str = "embedded"
    seed: int = Field(default=0, ge=0)
    target: int = Field(default=200, ge=1, le=10**9)
    max_turns: int = Field(default=1000, ge=1, le=10**9)
    concurrency: int = Field(default=8, ge=1, le=1024)
    pause_after_unread: int = Field(default=12, ge=0)
    pause_when_saturated: int = Field(default=200, ge=0)
    rules: Literal["paper", "proven"] = "paper"
    samples: int = Field(default=1, ge=1, le=64)
    keep: Literal["failed", "provable", "supported", "confirmed"] = "failed"
    swap_roles: bool = True
    seeds: SeedCount
    novelty: Novelty
    judge: JudgeRules = JudgeRules()
    search: SearchConfig = SearchConfig()
    retries: Retries = Retries()
    budget: Budget = Budget()
    budgets: dict[str, PositiveInt] = Field(default={})
    endpoints: dict[str, EndpointConfig]
    roles: Roles
    embedder: str
    sandbox_wall_s: float = Field(default=5.0, gt=0, le=86_400)
    reply_tokens: int = Field(default=2048, ge=1)
    prompts: dict[str, str] = Field(default={})
    domain_hash: str = ""
    novel_against: dict[str, FrozenQuestions] = Field(default={})
    datasets: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_endpoints(self) -> "RunConfig":
        for role in ROLES:
            _refuse_unknown_name(
                f"roles.{role}.endpoint", getattr(self.roles, role).endpoint, [PROGRAM, *self.endpoints]
            )
        if self.roles.defender.endpoint == PROGRAM:
            raise ValueError("roles.defender.endpoint must be a model: no program can be the defender")
        for key in ("panel", "solvers"):
            for name in getattr(self.judge, key):
                _refuse_unknown_name(f"judge.{key}", name, list(self.endpoints))
        if self.judge.panel and self.roles.judge.endpoint == PROGRAM:
            raise ValueError("judge.panel: a program that judges needs no panel; set roles.judge.endpoint to a model")
        _refuse_unknown_name("embedder", self.embedder, list(self.endpoints))
        return self

    @property
    def roles_swap(self) -> bool:
        """Whether attacker and defender are two models that swap roles after each turn."""
        attacker, defender = self.roles.attacker.endpoint, self.roles.defender.endpoint
        return self.swap_roles and PROGRAM not in (attacker, defender) and attacker != defender

    @property
    def role_endpoints(self) -> tuple[str, ...]:
        """The names of the endpoints that play a role, judge in the panel, or write blind solutions."""
        endpoint_names = (
            *(getattr(self.roles, role).endpoint for role in ROLES),
            *self.judge.panel,
            *self.judge.solvers,
        )
        return tuple(name for name in dict.fromkeys(endpoint_names) if name != PROGRAM)

    def sampling(self, role: str, max_tokens: int, stop: tuple[str, ...] = ()) -> Sampling:
        """How a role's replies are sampled."""
        role_sampling: RoleSampling = getattr(self.roles, role).sampling
        return Sampling(role_sampling.temperature, role_sampling.top_p, max_tokens, stop)


def _refuse_unknown_name(key: str, name: str, valid_names: Sequence[str]) -> None:
    """Raise ValueError if the setting `key` names an endpoint that does not exist."""
    if name not in valid_names:
        choices = suggest(name, valid_names)
        raise ValueError(f"{key} names {name!r}, but there is no such endpoint; {choices}")


M = TypeVar("M", bound=BaseModel)


def validate_model(model: type[M], values: Mapping[str, Any], where: str) -> M:
    """Build `model` from `values`. `where` is the file or option that the values come from; errors name it.

    Raises:
        ConfigError: an unknown key, a missing one, or a value out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _translate_error(error, model, values, where) from error


def _translate_error(
    error: ValidationError, model: type[BaseModel], values: Mapping[str, Any], where: str
) -> ConfigError:
    """The ConfigError for one of pydantic's errors: the first unknown key, or else the first error. Unknown keys come
    first because pydantic reports a misspelt key also as missing under its correct name, which would hide the mistake.
    """
    details = error.errors()
    unknown_keys = [detail for detail in details if detail["type"] == "extra_forbidden"]
    first_detail = unknown_keys[0] if unknown_keys else details[0]
    key = ".".join(str(part) for part in first_detail["loc"])
    if unknown_keys:
        return ConfigError(f"{where}: unknown key {key!r}", suggest_key(model, key))
    undefined_endpoint = _find_undefined_endpoint(details)
    if undefined_endpoint:
        defined_endpoints = values["endpoints"].keys() - {undefined_endpoint}
        if nearest(undefined_endpoint, defined_endpoints):
            fix = f"{suggest(undefined_endpoint, defined_endpoints)}; a new endpoint needs an interface and a model"
            return ConfigError(f"{where}: no endpoint {undefined_endpoint!r}", fix)
    location = f"{where}: {key}" if key else where
    return ConfigError(
        f"{location}: {describe_value_error(first_detail)}", _find_value_fix(str(first_detail["type"]), key, where)
    )


def _find_value_fix(error_type: str, key: str, where: str) -> str:
    """The fix for one of pydantic's errors, other than an unknown key. `key` is "" if the error concerns several."""
    if not key:
        return f"correct the values that the message names in {where}"
    return f"add {key} to {where}" if error_type == "missing" else f"give {key} another value in {where}"


def _find_undefined_endpoint(details: Sequence[Mapping[str, Any]]) -> str:
    """The name of an endpoint that has settings, but neither an interface nor a model; "" if the first of pydantic's
    errors is about something else.
    """
    location = details[0]["loc"]
    name = str(location[1]) if len(location) == 3 else ""
    missing_keys = {detail["loc"] for detail in details if detail["type"] == "missing"}
    required_keys = {("endpoints", name, "interface"), ("endpoints", name, "model")}
    return name if required_keys <= missing_keys else ""


def suggest_key(model: type[BaseModel], key: str) -> str:
    """The fix for an unknown dotted key: the most similar key of the same table, or the same key in other tables."""
    *path, name = key.split(".")
    table_keys = sorted(_find_table(model, path).model_fields)
    introduction = f"keys of {'.'.join(path)}" if path else "top-level keys"
    keys_elsewhere = [dotted_key for dotted_key in _list_dotted_keys(model) if dotted_key.rpartition(".")[2] == name]
    if not nearest(name, table_keys) and keys_elsewhere:
        return f"did you mean {' or '.join(map(repr, keys_elsewhere[:4]))}? {introduction}: {', '.join(table_keys)}"
    return suggest(name, table_keys, introduction)


def _find_table(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """The model of the table at `path`; all tables in a table of tables (`endpoints.NAME`) have the same model."""
    for key in path:
        subtable = _find_subtable(model, key)
        if subtable is not None:
            model = subtable
    return model


def _find_subtable(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model of the table, or of each table, under `key`; None if the value is not a table."""
    field = model.model_fields.get(key)
    if field is None:
        return None
    types = (field.annotation, *get_args(field.annotation))
    return next((cls for cls in types if isinstance(cls, type) and issubclass(cls, BaseModel)), None)


def _list_dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All keys of `model` and of the tables in it, with dots between tables and keys. "NAME" stands for the name of a
    table in a table of tables: `endpoints.NAME.model`.
    """
    keys: list[str] = []
    for key, field in model.model_fields.items():
        table = _find_subtable(model, key)
        keys.append(f"{prefix}{key}")
        if table is not None:
            is_table_of_tables = field.annotation is not table and get_origin(field.annotation) is dict
            table_prefix = f"{prefix}{key}.NAME." if is_table_of_tables else f"{prefix}{key}."
            keys += _list_dotted_keys(table, table_prefix)
    return keys


def read_toml(path: Path) -> Settings:
    """Read the settings in a TOML file.

    Raises:
        ConfigError: the file is missing, not readable, not UTF-8 or not TOML; the message names the line.
    """
    try:
        return tomllib.loads(read_utf8(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "pass a file that exists and can be read") from error
    except (tomllib.TOMLDecodeError, EncodingError) as error:
        raise ConfigError(f"{path}: {error}", "correct the file; it must be TOML in UTF-8") from error
    except RecursionError:
        raise ConfigError(f"{path}: its values are nested too deep", "correct the file") from None


def parse_setting(text: str, example: str = SETTING_EXAMPLE) -> Settings:
    """Parse an argument such as `novelty.question=0.8` as a nested table. A value that is not TOML, such as a bare
    word, is read as a string.

    Raises:
        ConfigError: there is no "=" or no key; the fix shows `example`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is not KEY=VALUE", f"write for instance {example}")
    nested: Any
    try:
        nested = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        nested = value.strip()
    for name in reversed(key.strip().split(".")):
        nested = {name: nested}
    settings: Settings = nested
    return settings


def parse_settings(texts: Iterable[str], example: str = SETTING_EXAMPLE) -> Settings:
    """Parse several settings as one nested table; if a key occurs twice, the later value wins.

    Raises:
        ConfigError: an argument has no "=" or no key; the fix shows `example`.
    """
    values: Settings = {}
    for text in texts:
        values = merge_tables(values, parse_setting(text, example))
    return values


def format_settings(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A nested table as KEY=VALUE arguments for the commands that messages suggest; `parse_settings` undoes this."""
    arguments: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            arguments += format_settings(value, f"{prefix}{key}.")
        else:
            arguments.append(f"{prefix}{key}={_format_toml_value(value)}")
    return arguments


def _format_toml_value(value: Any) -> str:
    """A JSON value as TOML. Strings are quoted only if `parse_setting` would misread them without quotation marks."""
    if isinstance(value, str) and parse_setting(f"key={value}") == {"key": value}:
        return value
    return json.dumps(value, ensure_ascii=False)  # TOML writes numbers, booleans, strings and lists as JSON does


def merge_tables(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    """A copy of `base` with the values of `overrides`; tables with the same key are merged recursively."""
    result: Settings = dict(base)
    for key, value in overrides.items():
        base_value = result.get(key)
        if isinstance(base_value, Mapping) and isinstance(value, Mapping):
            result[key] = merge_tables(base_value, value)
        else:
            result[key] = value
    return result
