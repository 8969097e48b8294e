"""All checks in the order of the output: hardware, software, home, safety."""

from collections.abc import Iterator

from nanoflux_local.doctor import machine, possessions, safety, software
from nanoflux_local.doctor.check import Check
from nanoflux_local.paths import Home


def examine(home: Home) -> Iterator[Check]:
    """Yield each check as it finishes; together they take a few seconds."""
    yield machine.processors()
    yield machine.memory()
    yield machine.gpus()
    yield software.python()
    yield software.torch()
    yield software.vllm(home)
    yield software.versions()
    yield possessions.folder(home)
    yield possessions.disk(home)
    yield possessions.ledger(home)
    yield possessions.weights(home)
    yield safety.sandbox()
    yield safety.guard()
    yield safety.ports(home)
