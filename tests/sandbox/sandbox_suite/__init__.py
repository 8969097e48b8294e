"""Programs that attack their host, each with a test of its success, and the code that runs them."""

from sandbox_suite.attack import Attack, Effects
from sandbox_suite.bombs import BOMBS
from sandbox_suite.files import FILES
from sandbox_suite.network import NETWORK
from sandbox_suite.processes import PROCESSES
from sandbox_suite.syscalls import SYSCALLS
from sandbox_suite.verdicts import VERDICTS

ATTACKS: dict[str, Attack] = {
    attack.name: attack for attack in (*FILES, *PROCESSES, *NETWORK, *SYSCALLS, *BOMBS, *VERDICTS)
}

__all__ = ["ATTACKS", "Attack", "Effects"]
