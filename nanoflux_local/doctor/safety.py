"""Checks the safety layers: sandbox, network guard, loopback. Each check exercises its layer."""

import os
import subprocess

from nanoflux_local.doctor.check import MachineCheck
from nanoflux_local.paths import Home
from nanoflux_models import guard as network_guard
from nanoflux_models.child import build_python_command
from nanoflux_models.errors import ModelsError
from nanoflux_models.offline import SETTINGS, guard_environment
from nanoflux_models.supervisor import Supervisor, find_free_port

UNREACHABLE = "192.0.2.1"
"""An address that is reserved for documentation (RFC 5737), so no host has it."""
CHILD_TIMEOUT_S = 60.0
"""Seconds after which the child process that tests the guard is stopped."""
_CONNECT_PROGRAM = f"import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('{UNREACHABLE}', 9))"
"""A program that connects a datagram socket to `UNREACHABLE`. This sends nothing, even if the guard is missing."""


def check_sandbox() -> MachineCheck:
    """Probe the isolation layers, and check whether those that work make the sandbox safe."""
    from nanoflux_sandbox.probe import probe
    from nanoflux_sandbox.records import BUSY_FIX

    report = probe().as_dict()
    if report["timed_out"]:
        return MachineCheck("sandbox", False, f"could not be tested: {'; '.join(report['reasons'])}", BUSY_FIX)
    working_layers = [layer for layer, works in report["layers"].items() if works]
    missing_layers = [layer for layer, works in report["layers"].items() if not works]
    verb = "hold" if len(working_layers) > 1 else "holds"
    state = f"{', '.join(working_layers) or 'no layer'} {verb}"
    fix = ""
    if missing_layers:
        state += f"; missing: {', '.join(missing_layers)} ({'; '.join(report['reasons'])})"
        fix = "look up the missing layers in docs/explanation/sandbox.md"
    return MachineCheck("sandbox", bool(report["safe"]), state, fix)


def check_guard() -> MachineCheck:
    """Check that this process has the network guard, that the offline switches of libraries are set, and that the guard
    also works in child processes.
    """
    if not network_guard.is_installed():
        return MachineCheck(
            "guard", False, "this process has no network guard", "start the program with the `nanoflux` command"
        )
    unset_switches = [name for name, value in SETTINGS.items() if os.environ.get(name) != value]
    if unset_switches:
        return MachineCheck(
            "guard",
            False,
            f"offline switches of libraries are not set: {', '.join(unset_switches)}",
            "start the program with the `nanoflux` command",
        )
    try:
        child_is_guarded = child_refuses_connections()
    except subprocess.TimeoutExpired:
        state = f"could not be tested: a child process did not end within {CHILD_TIMEOUT_S:g} s"
        return MachineCheck("guard", False, state, "run `nanoflux doctor` again when the machine is less busy")
    if not child_is_guarded:
        fix = "remove any other sitecustomize from PYTHONPATH, and do not run Python isolated (-I)"
        return MachineCheck("guard", False, "a guarded child process can reach other machines", fix)
    hosts = network_guard.allowed_hosts()
    if hosts:
        fix = f"unset {network_guard.ALLOW_HOSTS_VARIABLE} to block these hosts again"
        return MachineCheck("guard", True, f"open: loopback, and {', '.join(hosts)}", fix)
    return MachineCheck("guard", True, "open: loopback only, until a profile names a host")


def check_ports(home: Home) -> MachineCheck:
    """Check that loopback has free ports, and that the recorded servers are running."""
    try:
        find_free_port()
    except (ModelsError, OSError) as error:
        return MachineCheck(
            "ports", False, f"cannot listen on loopback: {error}", "enable loopback with `ip link set lo up`"
        )
    servers = Supervisor(home.root).list_servers()
    dead_servers = [server.name for server in servers if not server.alive]
    running_servers = [f"{server.name} on {server.port}" for server in servers if server.alive]
    if dead_servers:
        return MachineCheck(
            "ports",
            False,
            f"servers that ended unexpectedly: {', '.join(dead_servers)}",
            f"run `nanoflux models stop {dead_servers[0]}`",
        )
    return MachineCheck("ports", True, f"loopback; servers: {', '.join(running_servers) or 'none'}")


def child_refuses_connections() -> bool:
    """Whether a child process refuses a connection to another machine. The child runs without the list of hosts that
    the user allows, so the result does not depend on that list.

    Raises:
        subprocess.TimeoutExpired: the child did not end in time.
    """
    environment = {key: value for key, value in os.environ.items() if key != network_guard.ALLOW_HOSTS_VARIABLE}
    process = subprocess.run(
        build_python_command("-c", _CONNECT_PROGRAM),
        env=guard_environment(environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=CHILD_TIMEOUT_S,
    )
    return f"refused to reach {UNREACHABLE}" in process.stderr
