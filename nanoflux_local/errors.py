"""The one vocabulary of failure: what happened, where, and what to do; each class knows its exit code.

Owns the classes that reach a user. A programming error is not one of them and keeps its traceback.
"""


class NanofluxError(Exception):
    """Base of every failure that is shown to a user as a message rather than a traceback.

    `message` says what happened and where; `fix` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}" if self.fix else self.message


class UsageError(NanofluxError):
    """Wrong usage or bad input: an unknown name or key, a bad row, a value out of range."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value that cannot be used."""


class DataError(UsageError):
    """A data file that cannot be read as what it was said to be."""


class RefusedError(NanofluxError):
    """Refused by a rule: air gap, budget, missing isolation, an adapter that does nothing."""

    exit_code = 3


class BudgetError(RefusedError):
    """The next call could cost more than the run may spend: the run pauses and can be resumed."""


class NothingMatchedError(NanofluxError):
    """The request was understood and nothing answers to it."""

    exit_code = 4


class LedgerError(NanofluxError):
    """The ledger cannot be opened, read or written."""


class EndpointError(NanofluxError):
    """A model endpoint did not give a usable reply. Infrastructure: never scored, never kept."""


class EndpointRefusedError(EndpointError):
    """An endpoint refuses every request until its user mends something: a wrong key, an exhausted quota, no such model,
    no chat template.
    """


class ReplayMissError(NanofluxError):
    """A replay needed a call that the ledger does not remember."""
