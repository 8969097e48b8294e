"""Checks of the safety layers: sandbox, network guard, loopback. Each check really tries the layer."""

import os
import subprocess

from nanoflux_local.doctor.check import Check
from nanoflux_local.paths import Home
from nanoflux_models import guard as keeper
from nanoflux_models.child import python_command
from nanoflux_models.errors import ModelsError
from nanoflux_models.offline import SETTINGS, guard_environment
from nanoflux_models.supervisor import Supervisor, free_port

ELSEWHERE = "192.0.2.1"
"""An address reserved for documentation (RFC 5737): no host has it."""
_TRY = f"import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('{ELSEWHERE}', 9))"
"""Connects a datagram socket, which sends nothing even without the guard."""


def check_sandbox() -> Check:
    """The isolation layers that withstand a probe."""
    from nanoflux_sandbox.probe import probe

    report = probe().as_dict()
    held = [layer for layer, holds in report["layers"].items() if holds]
    missing = [layer for layer, holds in report["layers"].items() if not holds]
    layers = f"{', '.join(held) or 'no layer'} {'hold' if len(held) > 1 else 'holds'}"
    layers += f"; missing: {', '.join(missing)}" if missing else ""
    fix = f"{'; '.join(report['reasons'])} (docs/explanation/sandbox.md)" if missing else ""
    return Check("sandbox", bool(report["safe"]), layers, fix)


def check_guard() -> Check:
    """This process has the network guard, offline switches of libraries are set, and child processes refuse too."""
    if not keeper.is_installed():
        return Check("guard", False, "this process has no network guard", "start it as `nanoflux`")
    unset = [name for name, value in SETTINGS.items() if os.environ.get(name) != value]
    if unset:
        return Check(
            "guard", False, f"offline switches of libraries are not set: {', '.join(unset)}", "start it as `nanoflux`"
        )
    if not _refuses():
        fix = "remove any other sitecustomize from PYTHONPATH, and do not run Python isolated (-I)"
        return Check("guard", False, "a guarded child process can reach other machines", fix)
    named = keeper.allowed_hosts()
    if named:
        fix = f"unset {keeper.VARIABLE} to block these hosts again"
        return Check("guard", True, f"open: loopback, and {', '.join(named)}", fix)
    return Check("guard", True, "open: loopback only, until a profile names a host")


def check_ports(home: Home) -> Check:
    """Loopback has free ports, and the recorded servers are running."""
    try:
        free_port()
    except (ModelsError, OSError) as error:
        return Check("ports", False, f"cannot listen on loopback: {error}", "bring it up with `ip link set lo up`")
    servers = Supervisor(home.root).servers()
    dead = [server.name for server in servers if not server.alive]
    alive = [f"{server.name} on {server.port}" for server in servers if server.alive]
    if dead:
        return Check(
            "ports",
            False,
            f"servers that ended unexpectedly: {', '.join(dead)}",
            f"run `nanoflux models stop {dead[0]}`",
        )
    return Check("ports", True, f"loopback; servers: {', '.join(alive) or 'none'}")


def _refuses() -> bool:
    closed = {key: value for key, value in os.environ.items() if key != keeper.VARIABLE}
    done = subprocess.run(
        python_command("-c", _TRY),
        env=guard_environment(closed),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return f"refused to reach {ELSEWHERE}" in done.stderr
