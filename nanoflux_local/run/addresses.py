"""Changes the addresses of a run's endpoints. On resume, a server may have a new address, but must serve the same
model.
"""

import json
from collections.abc import Mapping
from typing import Any

from nanoflux_local.config import RunConfig, merge_tables, validate_model
from nanoflux_local.errors import RefusedError
from nanoflux_local.jobs import RUN, Job, hold_lock
from nanoflux_local.ledger.store import Ledger, now
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import Identity
from nanoflux_local.run.binding import bind, read_recorded_identities
from nanoflux_local.run.commands import fork_command
from nanoflux_local.run.configs import validate_run

ADDRESS_KEYS = ("url", "urls", "key_env", "key_file", "timeout_s", "capacity")
"""The settings of an endpoint that determine how its server is reached, but not which model answers."""
CLEARED_SETTINGS = {"url": {"urls": []}, "urls": {"url": ""}}
"""An endpoint has only one of the keys `url` and `urls`: for each of them, the settings that clear the other."""

Changes = Mapping[str, Mapping[str, Any]]
"""New values by the name of the endpoint and the key of the setting."""


async def move_endpoints(home: Home, run: str, changes: Changes) -> RunConfig:
    """Change how the servers of a run are reached (`ADDRESS_KEYS`), and record the change in the run. Returns the new
    configuration.

    A change that affects the identity of an endpoint is refused; if an endpoint has no `revision`, its address is part
    of its identity.

    Raises:
        RefusedError: another model might answer after the change, or another process is executing the run.
        ConfigError: a value cannot be used.
    """
    with hold_lock(home, Job(RUN, run)):
        with LedgerView(home.ledger) as view:
            row = view.find_run(run)
        config = validate_model(RunConfig, json.loads(row["config"]), f"run {run}")
        environment = json.loads(row["environment"])
        _refuse_fixed_settings(run, config, changes)
        values = config.model_dump(mode="json")
        for name, settings in changes.items():
            for key in settings:
                values = merge_tables(values, {"endpoints": {name: CLEARED_SETTINGS.get(key, {})}})
            values = merge_tables(values, {"endpoints": {name: settings}})
        new_config = validate_run(values)
        await _refuse_changed_models(home, run, new_config, read_recorded_identities(environment), changes)
        changed_addresses = _diff_addresses(config, new_config)
        if changed_addresses:
            environment["moves"] = [*environment.get("moves", []), {"at": now(), **changed_addresses}]
            with Ledger(home.ledger) as ledger:
                ledger.reconfigure_run(row["id"], new_config.model_dump(mode="json"), environment)
    return new_config


def _refuse_fixed_settings(run: str, config: RunConfig, changes: Changes) -> None:
    """Refuse a change to a setting that is not in `ADDRESS_KEYS`, or to a setting of an endpoint that the run does not
    have.
    """
    for name, settings in changes.items():
        for key in settings:
            if key not in ADDRESS_KEYS or name not in config.endpoints:
                raise RefusedError(
                    f"endpoints.{name}.{key} affects the result of run {run}, so it is fixed once the run has started",
                    f"fork the run, which reuses every call that still applies: {_format_fork_command(run, changes)}",
                )


async def _refuse_changed_models(
    home: Home, run: str, config: RunConfig, recorded_identities: Mapping[str, Identity], changes: Changes
) -> None:
    """Refuse a configuration whose endpoints do not have the recorded identities."""
    run_endpoints = bind(config, home)
    try:
        current_identities = await run_endpoints.identities()
    finally:
        await run_endpoints.close()
    for name, identity in recorded_identities.items():
        if current_identities.get(name) != identity:
            raise RefusedError(
                f"endpoint {name} of run {run} has no `revision`, so only its address identifies its model",
                f"fork the run, which asks the model at the new address: {_format_fork_command(run, changes)}",
            )


def _format_fork_command(run: str, changes: Changes) -> str:
    """The command that starts a fork with these changes."""
    return fork_command(run, {"endpoints": {name: dict(settings) for name, settings in changes.items()}})


def _diff_addresses(old: RunConfig, new: RunConfig) -> dict[str, Any]:
    """The changed addresses: [old value, new value] by the dotted key of the setting."""
    old_endpoints = old.model_dump(mode="json")["endpoints"]
    new_endpoints = new.model_dump(mode="json")["endpoints"]
    return {
        f"endpoints.{name}.{key}": [old_endpoints[name][key], new_endpoints[name][key]]
        for name in new_endpoints
        for key in ADDRESS_KEYS
        if old_endpoints[name][key] != new_endpoints[name][key]
    }
