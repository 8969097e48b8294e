"""The commands that messages about a run suggest: how to resume it, and how to change one of its settings."""

import shlex
from collections.abc import Mapping
from typing import Any

from nanoflux_local.config import RunConfig, format_settings
from nanoflux_local.errors import EndpointError


def fork_command(run: str, settings: Mapping[str, Any]) -> str:
    """The command that starts a fork with these settings."""
    return shlex.join(["nanoflux", "run", "start", "--fork", run, *_set_options(settings)])


def resume_command(run: str, settings: Mapping[str, Any]) -> str:
    """The command that resumes a run with these settings; `addresses.move_endpoints` must allow each of them."""
    return shlex.join(["nanoflux", "run", "resume", run, *_set_options(settings)])


def _set_options(settings: Mapping[str, Any]) -> list[str]:
    """The command-line arguments `--set KEY=VALUE`, one pair for each setting."""
    return [word for setting in format_settings(settings) for word in ("--set", setting)]


def format_fix(error: EndpointError, run: str, config: RunConfig) -> str:
    """The fix of an endpoint's error, with the commands that retry this run or change the setting that caused the
    error.

    On resume, the address of an endpoint can change if the endpoint has a `revision`, which identifies the model. A
    change of any other setting needs a fork.
    """
    endpoint_names = [name for name, endpoint in config.endpoints.items() if error.address in endpoint.addresses]
    if not error.setting or not endpoint_names:
        return error.fix
    advice = error.fix.partition("; then `nanoflux run resume`")[0]  # the general command, which the one below replaces
    name = endpoint_names[0]
    endpoint = config.endpoints[name]
    key, placeholder = error.setting, error.setting.upper()
    new_settings: dict[str, Any] = {key: placeholder}
    if key == "url" and endpoint.urls:
        new_settings = {"urls": [placeholder]}
    settings = {"endpoints": {name: new_settings}}
    if error.setting == "url" and endpoint.revision:
        change = f"to change the url: `{resume_command(run, settings)}`"
    else:
        reason = ", because the endpoint states no revision" if error.setting == "url" else ""
        change = f"to change the {error.setting}, fork the run{reason}: `{fork_command(run, settings)}`"
    return f"{advice}; to try again: `{resume_command(run, {})}`; {change}"
