"""Runs all checks in the order in which they are shown: hardware, software, home, safety."""

from collections.abc import Iterator

from nanoflux_local.doctor import home_directory, machine, safety, software
from nanoflux_local.doctor.check import MachineCheck
from nanoflux_local.paths import Home


def examine(home: Home) -> Iterator[MachineCheck]:
    """Yield each check as it finishes. Together, the checks take a few seconds."""
    yield machine.check_processors()
    yield machine.check_memory()
    yield machine.check_gpus()
    yield software.check_python()
    yield software.check_torch()
    yield software.check_vllm(home)
    yield software.check_versions()
    yield home_directory.check_home(home)
    yield home_directory.check_disk(home)
    yield home_directory.check_ledger(home)
    yield home_directory.check_weights(home)
    yield safety.check_sandbox()
    yield safety.check_guard()
    yield safety.check_ports(home)
