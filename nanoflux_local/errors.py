"""The one vocabulary of failure: what happened, where, and what to do; each class knows its exit code.

Owns the classes that reach a user. A programming error is not one of them and keeps its traceback.
"""


class NanofluxError(Exception):
    """Base of every failure that is shown to a user as a message rather than a traceback.

    `message` says what happened and where; `fix` says what to do about it. Work that ends with an error that `pauses`
    is paused rather than failed: time or a changed setting mends it.
    """

    exit_code = 1
    pauses = False

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

    pauses = True


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


class PromptRefusedError(EndpointError):
    """An endpoint refuses this one prompt for good: it is too long, a content filter rejects it. Others may pass.

    `cause` names the kind of refusal in a few words, `detail` holds the provider's own.
    """

    def __init__(self, cause: str, detail: str, fix: str = "") -> None:
        super().__init__(f"{cause}: {detail}", fix)
        self.cause = cause
        self.detail = detail


class BusyError(EndpointError):
    """An endpoint asks to be left alone for longer than a call waits."""

    pauses = True


class UnreadError(NanofluxError):
    """Too many replies in a row gave nothing to read: the run pauses before it spends more."""

    pauses = True


class ReplayMissError(NanofluxError):
    """A replay needed a call that the ledger does not remember."""
