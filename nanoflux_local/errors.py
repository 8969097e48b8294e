"""The errors that a user sees: what happened, where, and what to do. Each class has its exit code.

Programming errors have other classes and keep their traceback.
"""


class NanofluxError(Exception):
    """The base class of errors that are shown as a message rather than a traceback.

    `message` says what happened and where; `fix` says what to do, in the imperative. A run or another job that ends
    with an error whose `pauses` is true is paused rather than failed: waiting, or changing a setting, resolves the
    error.
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
    """A data file that cannot be read in the expected format."""


class RefusedError(NanofluxError):
    """A rule forbids the operation: the air gap, a budget, missing isolation, an adapter without effect."""

    exit_code = 3


class BudgetError(RefusedError):
    """The next call could exceed the run's budget: the run pauses and can be resumed."""

    pauses = True


class NothingMatchedError(NanofluxError):
    """A valid request that matches nothing: no such run, model, item or row."""

    exit_code = 4


class LedgerError(NanofluxError):
    """The ledger cannot be opened, read or written."""


class EndpointError(NanofluxError):
    """A model endpoint gave no usable reply: an infrastructure failure, which is never scored or kept.

    `address` is the server's address. `setting` names the endpoint's setting that may have to change: "url", "model",
    or "".
    """

    address = ""
    setting = ""


class EndpointRefusedError(EndpointError):
    """An endpoint refuses every request until the user corrects something: a wrong key, an exhausted quota, an unknown
    model, a missing chat template.
    """


class PromptRefusedError(EndpointError):
    """An endpoint permanently refuses a prompt, but not others: the prompt is too long, or a content filter rejects it.

    `cause` names the kind of refusal in a few words; `detail` is the provider's message.
    """

    def __init__(self, cause: str, detail: str, fix: str = "") -> None:
        super().__init__(f"{cause}: {detail}", fix)
        self.cause = cause
        self.detail = detail


class BusyError(EndpointError):
    """An endpoint asks for a longer pause than a call may wait."""

    pauses = True


class UnreadableReplyError(NanofluxError):
    """Too many consecutive replies could not be read: the run pauses before it spends more."""

    pauses = True


class SaturatedError(NanofluxError):
    """Nearly all recent attempts were rejected for the same reason: the run pauses before it spends more."""

    pauses = True


class ReplayMissError(NanofluxError):
    """A replay needs a call that the ledger does not have."""
