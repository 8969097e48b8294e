"""All checks, in the order in which they are told: the machine, its software, the home, what keeps things safe."""

from collections.abc import Iterator

from nanoflux_local.doctor import machine, possessions, safety, software
from nanoflux_local.doctor.check import Check
from nanoflux_local.paths import Home


def examine(home: Home) -> Iterator[Check]:
    """Each check as it is made; together they take a few seconds."""
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
