"""What keeps things in: the sandbox, the guard of the network, loopback. Each is tried for real, not believed."""

import os
import subprocess

from nanoflux_local.doctor.check import Check
from nanoflux_local.paths import Home
from nanoflux_models import guard as keeper
from nanoflux_models.child import python_command
from nanoflux_models.errors import ModelsError
from nanoflux_models.offline import SETTINGS, guarded
from nanoflux_models.supervisor import Supervisor, free_port

ELSEWHERE = "192.0.2.1"
"""Of the block that is kept for documentation: no such host is anywhere."""
_TRY = f"import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('{ELSEWHERE}', 9))"
"""Sends nothing, with a guard or without."""


def sandbox() -> Check:
    """The layers that hold when they are attacked."""
    from nanoflux_sandbox.probe import probe

    report = probe().as_dict()
    held = [layer for layer, holds in report["layers"].items() if holds]
    missing = [layer for layer, holds in report["layers"].items() if not holds]
    found = f"{', '.join(held) or 'no layer'} {'hold' if len(held) > 1 else 'holds'}"
    found += f"; missing: {', '.join(missing)}" if missing else ""
    fix = f"{'; '.join(report['reasons'])} (docs/explanation/sandbox.md)" if missing else ""
    return Check("sandbox", bool(report["safe"]), found, fix)


def guard() -> Check:
    """This process is guarded, the libraries' switches are set, and a Python that is started for a server refuses."""
    if not keeper.installed():
        return Check("guard", False, "this process is not guarded", "start it as `nanoflux`, which guards itself")
    unset = [name for name, value in SETTINGS.items() if os.environ.get(name) != value]
    if unset:
        return Check("guard", False, f"switches of libraries are off: {', '.join(unset)}", "start it as `nanoflux`")
    if not _refuses():
        fix = "no other sitecustomize may come first on PYTHONPATH, and Python may not be isolated (-I)"
        return Check("guard", False, "a Python that is started to stay on this machine does not", fix)
    named = keeper.allowed()
    if named:
        fix = f"close it again: unset {keeper.VARIABLE}"
        return Check("guard", True, f"open: loopback, and {', '.join(named)}", fix)
    return Check("guard", True, "open: loopback alone, until a profile names a host")


def ports(home: Home) -> Check:
    """Loopback has ports to listen on; servers that are on record, and what became of them."""
    try:
        free_port()
    except (ModelsError, OSError) as error:
        return Check("ports", False, f"loopback cannot be listened on: {error}", "bring it up: ip link set lo up")
    servers = Supervisor(home.root).servers()
    dead = [server.name for server in servers if not server.alive]
    alive = [f"{server.name} on {server.port}" for server in servers if server.alive]
    if dead:
        return Check("ports", False, f"servers that ended: {', '.join(dead)}", f"nanoflux models stop {dead[0]}")
    return Check("ports", True, f"loopback; servers: {', '.join(alive) or 'none'}")


def _refuses() -> bool:
    closed = {key: value for key, value in os.environ.items() if key != keeper.VARIABLE}
    done = subprocess.run(
        python_command("-c", _TRY), env=guarded(closed), capture_output=True, text=True, check=False, timeout=60
    )
    return f"refused to reach {ELSEWHERE}" in done.stderr
