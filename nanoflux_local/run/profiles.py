"""Lists profiles, writes a new commented profile, sets keys in a profile, and checks whether a run could start with a
profile.
"""

import asyncio
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local.config import ROLES, EndpointConfig, RunConfig, refuse_secrets
from nanoflux_local.endpoints.build import build_endpoint
from nanoflux_local.endpoints.kinds.base import find_kind
from nanoflux_local.endpoints.remote.keys import read_key
from nanoflux_local.endpoints.remote.listing import fetch_listing, is_same_model
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.errors import ConfigError, NanofluxError, RefusedError, UsageError
from nanoflux_local.files import write_atomically, write_new
from nanoflux_local.paths import Home
from nanoflux_local.run.configs import find_profile, list_profile_paths, load_profile, resolve
from nanoflux_local.suggestions import suggest
from nanoflux_models.manifest import list_manifests
from nanoflux_models.weights import list_installed

PROFILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""The names that a new profile can have."""
MODEL_PLACEHOLDER, URL_PLACEHOLDER = "MODEL", "http://127.0.0.1:8000/v1"
"""The model and the url in a new profile that is written without `--server`."""
MAX_LISTED_MODELS = 5
"""The maximum number of models that a message lists."""


@dataclass(frozen=True, slots=True)
class ProfileEntry:
    """A profile as listed by `profiles list`: whether its file is in the user's home (`own`), its first line if that is
    a comment (`summary`), and the model of each role (`models`).
    """

    name: str
    path: str
    own: bool
    summary: str
    models: dict[str, str]


@dataclass(frozen=True, slots=True)
class ProfileCheck:
    """The result of checking one requirement of a profile. `subject` names what was checked, for instance an endpoint,
    and `state` describes the result. If the requirement is not met (`ok` is False), `fix` says how to meet it; if it is
    met, `fix` may contain advice.
    """

    subject: str
    ok: bool
    state: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One of the user's own servers: the name of the model that it serves, and its address."""

    model: str
    url: str

    @classmethod
    def parse(cls, text: str) -> "ServerAddress":
        """Parse `MODEL@URL`, for instance `qwen3-32b@http://10.0.0.5:8000/v1`.

        Raises:
            UsageError: there is no model or no "@", the address does not start with "http://" or "https://", or it
                contains a user, a password or a query.
        """
        model, _, url = text.partition("@")
        if not model or not url.startswith(("http://", "https://")):
            raise UsageError(f"{text!r} is not MODEL@URL", "write e.g. --server qwen3-32b@http://10.0.0.5:8000/v1")
        try:
            refuse_secrets(url)
        except ValueError as error:
            raise UsageError(f"the address of {model} is refused: {error}", "write e.g. --server MODEL@URL") from None
        return cls(model, url)


def list_entries(home: Home) -> list[ProfileEntry]:
    """All profiles, sorted by name. The summary of a file that is not TOML is the error that reading it raised."""
    return [_read_entry(name, path, home) for name, path in sorted(list_profile_paths(home).items())]


def _read_entry(name: str, path: Path, home: Home) -> ProfileEntry:
    own = path.is_relative_to(home.profiles)
    try:
        values = load_profile(name, home)
    except NanofluxError as error:
        return ProfileEntry(name, str(path), own, error.message, {})
    first_line = path.read_text("utf-8").partition("\n")[0]
    summary = first_line.lstrip("# ") if first_line.startswith("#") else ""
    return ProfileEntry(name, str(path), own, summary, _list_models(values))


def _list_models(values: dict[str, Any]) -> dict[str, str]:
    """The model of each role that a profile assigns, or the name of the role's endpoint if the profile has no valid
    table for that endpoint.
    """
    roles, endpoints = values.get("roles", {}), values.get("endpoints", {})
    model_by_role = {}
    for role in ROLES:
        role_table = roles.get(role)
        if not isinstance(role_table, dict):
            continue
        endpoint_name = str(role_table.get("endpoint", ""))
        endpoint_table = endpoints.get(endpoint_name)
        is_valid = isinstance(endpoint_table, dict)
        model = endpoint_table.get("model", endpoint_name) if is_valid else endpoint_name
        model_by_role[role] = str(model)
    return model_by_role


def write_profile(home: Home, name: str, servers: Sequence[ServerAddress], original: str = "") -> Path:
    """Write a new commented profile into the home, and return its path. The profile is a copy of the profile `original`
    if that is not "", else a profile for up to three servers.

    Raises:
        UsageError: the name cannot be used, or there are more than three servers.
        RefusedError: the profile exists.
    """
    if not PROFILE_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name for a profile", "use lower-case letters, digits, '.', '_' and '-'"
        )
    path = home.profiles / f"{name}.toml"
    if path.exists():
        raise RefusedError(f"the profile {path} already exists", "choose another name, or edit the file")
    if original:
        text = find_profile(original, home).read_text("utf-8")
    elif len(servers) <= len(ROLES):
        placeholders = [ServerAddress(MODEL_PLACEHOLDER, URL_PLACEHOLDER)] * 2  # for an attacker and a defender
        text = render_profile(servers or placeholders)
    else:
        raise UsageError(
            f"{len(servers)} servers are given, but a profile has three roles", "pass at most three with --server"
        )
    write_new({path: text.encode()})
    return path


def change_profile(home: Home, name: str, settings: Mapping[str, Any], domain: str) -> Path:
    """Set keys in a profile in the home, and return its path. Other keys and all comments are preserved.

    Raises:
        RefusedError: the profile is not in the home.
        ConfigError: there is no such profile, or a key or value is wrong for `domain`; nothing is changed.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = home.profiles / f"{name}.toml"
    if find_profile(name, home) != path:
        fix = f"copy it first: `nanoflux profiles new NAME --copy {name}`"
        raise RefusedError(f"the profile {name} is not in {home.profiles}, and only profiles there can be changed", fix)
    load_profile(name, home)  # raises an error that names the line if the file is not TOML
    document = tomlkit.parse(path.read_text("utf-8"))
    try:
        _set_values(document, settings)
    except TOMLKitError as error:
        raise ConfigError(f"{path} cannot be changed: {error}", "change the file in an editor") from error
    content = tomlkit.dumps(document).encode()
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        draft.write_bytes(content)
        resolve(domain, str(draft), {}, home)  # raises an error if a key or value is wrong
    write_atomically(path, content)
    return path


def _set_values(table: Any, settings: Mapping[str, Any]) -> None:
    """Set values in a table of a TOML document, which is changed in place. Missing tables are added."""
    import tomlkit

    for key, value in settings.items():
        if not isinstance(value, Mapping):
            table[key] = value
            continue
        if not isinstance(table.get(key), Mapping):
            table[key] = tomlkit.table()
        _set_values(table[key], value)


def render_profile(servers: Sequence[ServerAddress]) -> str:
    """The text of a commented profile for one to three servers, which attack, defend and judge in this order. The first
    server also plays the roles for which there is no other server.
    """
    names = ["first", "second", "third"][: len(servers)]
    first_server_for_all = dict.fromkeys(ROLES, names[0])
    own_server_by_role = dict(zip(ROLES, names, strict=False))  # fewer names than roles if there are fewer servers
    endpoint_by_role = first_server_for_all | own_server_by_role
    endpoint_tables = [
        ENDPOINT_TEXT.format(name=name, model=server.model, url=server.url)
        for name, server in zip(names, servers, strict=True)
    ]
    role_tables = [ROLE_TEXTS[role].format(endpoint=endpoint) for role, endpoint in endpoint_by_role.items()]
    return "\n".join([HEAD_TEXT, *endpoint_tables, EMBEDDER_TEXT, *role_tables])


HEAD_TEXT = """\
# My own servers. Check this file with `nanoflux profiles check NAME --connect`.
# Every key is described in docs/reference/endpoints.md; a misspelt key is an error that suggests the right one.

concurrency = 8 # maximum number of concurrent requests; it does not affect the result
embedder = "minilm" # the endpoint that compares questions: the small model below, on this machine
"""
ENDPOINT_TEXT = """\
[endpoints.{name}]
interface = "openai_chat" # /v1/chat/completions: vLLM, llama.cpp, Ollama, SGLang and most gateways
model = "{model}" # the name under which the server lists the model
url = "{url}" # the base of its routes, usually ending in /v1
# revision = "2026-11"     # identifies the model, so that a run can resume when the server's address changes
# key_env = "LAB_KEY"      # the environment variable with the key; or key_file = "~/.config/nanoflux/lab.key"
# structured = true        # the server can enforce a JSON object with the requested sections
# reasoning_tokens = 4000  # token budget of the reasoning, if the model reasons before it answers
# capacity = 32            # maximum number of concurrent requests to this server
# price = {{ prompt = 0.5, completion = 2.0 }} # US dollars per million tokens, for budgets
"""
EMBEDDER_TEXT = """\
[endpoints.minilm]
interface = "embedder" # install it with `nanoflux models pull all-minilm-l6-v2`
model = "all-minilm-l6-v2"
"""
ROLE_TEXTS = {
    "attacker": """\
# The attacker writes questions. If attacker and defender are two models, they swap after each turn.
[roles.attacker]
endpoint = "{endpoint}"
sampling = {{ temperature = 0.7, top_p = 0.95 }}
""",
    "defender": """\
# The defender answers; a question is kept if the defender gets it wrong or solves it in a new way.
[roles.defender]
endpoint = "{endpoint}"
sampling = {{ temperature = 0.7, top_p = 0.95 }}
""",
    "judge": """\
# The judge validates questions and evaluates answers. It decodes greedily unless `sampling` is set.
[roles.judge]
endpoint = "{endpoint}"
""",
}


def check_profile(name: str, domain: str, home: Home, connect: bool) -> Iterator[ProfileCheck]:
    """Check a profile for use with a domain: its keys and values, then the weights and API keys of the endpoints that
    roles use and, if `connect` is True, their servers. No process is started.

    Raises:
        ConfigError: a key or value is wrong; the message names the key.
    """
    config = resolve(domain, name, {}, home)
    roles = ", ".join(f"{role} {getattr(config.roles, role).endpoint}" for role in ROLES)
    yield ProfileCheck("settings", True, f"valid with the domain {domain}: {roles}")
    for endpoint_name in (*config.role_endpoints, config.embedder):
        yield from _check_endpoint(endpoint_name, config, home, connect)
    unused = sorted(config.endpoints.keys() - {*config.role_endpoints, config.embedder})
    if unused:
        yield ProfileCheck("unused", True, f"no role uses {', '.join(unused)}")


def _check_endpoint(name: str, config: RunConfig, home: Home, connect: bool) -> Iterator[ProfileCheck]:
    """Check one endpoint: the weights of a local model, or the key and, if `connect` is True, the servers of a remote
    model.
    """
    endpoint = config.endpoints[name]
    subject, kind = f"endpoints.{name}", find_kind(endpoint.interface)
    if not kind.charges:
        yield _check_weights(subject, endpoint, home)
        return
    if endpoint.model == MODEL_PLACEHOLDER:
        yield ProfileCheck(
            subject, False, f"{subject}.model is the placeholder {MODEL_PLACEHOLDER}", "set it to the server's model"
        )
        return
    try:
        read_key(endpoint.key_env, endpoint.key_file)
        built_endpoint = build_endpoint(name, endpoint, home) if name != config.embedder else None
    except NanofluxError as error:
        yield ProfileCheck(subject, False, error.message, error.fix)
        return
    if connect and isinstance(built_endpoint, OpenAIChatEndpoint):
        yield from _check_servers(subject, endpoint, built_endpoint)
    else:
        addresses = ", ".join(endpoint.addresses) or kind.default_host
        yield ProfileCheck(subject, True, f"{endpoint.model} at {addresses}, not contacted")
    if endpoint.addresses and not endpoint.revision:
        fix = f"set {subject}.revision, so that a run can resume at another address"
        yield ProfileCheck(subject, True, "no revision: the address identifies the model", fix)


def _check_weights(subject: str, endpoint: EndpointConfig, home: Home) -> ProfileCheck:
    """Check that a local model is installed. Scripted models need no weights."""
    if endpoint.model not in {manifest.name for manifest in list_manifests(home.root)}:
        if not find_kind(endpoint.interface).local:
            return ProfileCheck(subject, True, f"{endpoint.interface} needs no weights")
        return ProfileCheck(
            subject, False, f"there is no model {endpoint.model}", "list models with `nanoflux models list`"
        )
    if any(record.name == endpoint.model for record in list_installed(home.root)):
        return ProfileCheck(subject, True, f"{endpoint.model} is installed")
    return ProfileCheck(
        subject, False, f"{endpoint.model} is not installed", f"run `nanoflux models pull {endpoint.model}`"
    )


def _check_servers(
    subject: str, endpoint: EndpointConfig, built_endpoint: OpenAIChatEndpoint
) -> Iterator[ProfileCheck]:
    """Check that each server of an endpoint answers and lists the endpoint's model."""
    for url in built_endpoint.service.urls:
        try:
            models = asyncio.run(fetch_listing(url, built_endpoint.service.key.text))
        except NanofluxError as error:
            yield ProfileCheck(subject, False, error.message, error.fix)
            continue
        if any(is_same_model(endpoint.model, listed) for listed in models):
            yield ProfileCheck(subject, True, f"{url} serves {endpoint.model}")
        else:
            fix = f"correct {subject}.model: {suggest(endpoint.model, models[:MAX_LISTED_MODELS])}"
            yield ProfileCheck(subject, False, f"{url} does not list the model {endpoint.model}", fix)
