"""Programs that attack their host, each with a test of its success, and the code that runs them."""

from sandbox_suite.bombs import BOMBS
from sandbox_suite.exploit import Effects, Exploit
from sandbox_suite.files import FILES
from sandbox_suite.forgeries import FORGERIES
from sandbox_suite.network import NETWORK
from sandbox_suite.processes import PROCESSES
from sandbox_suite.syscalls import SYSCALLS

EXPLOITS: dict[str, Exploit] = {
    exploit.name: exploit for exploit in (*FILES, *PROCESSES, *NETWORK, *SYSCALLS, *BOMBS, *FORGERIES)
}

__all__ = ["EXPLOITS", "Effects", "Exploit"]
