"""Failures of the models room: what happened, where, and what to do; each class knows its exit code.

The shape is that of the core's errors, so that a command line can show both alike; neither imports the other.
"""


class ModelsError(Exception):
    """Base of every failure here that is shown to a user as a message rather than a traceback."""

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}" if self.fix else self.message


class ManifestError(ModelsError):
    """A manifest, or files offered for import, that cannot be used as they are."""

    exit_code = 2


class RefusedDownloadError(ModelsError):
    """A download that a rule forbids: an air gap, or a licence that was not accepted."""

    exit_code = 3


class ModelNotFoundError(ModelsError):
    """No manifest, or no installed weights, of that name."""

    exit_code = 4


class DigestMismatchError(ModelsError):
    """A file is not the one that was promised."""


class ServerError(ModelsError):
    """A server that cannot be started, does not answer, or ended."""


class ServerRefusedError(ModelsError):
    """A server or an adapter that a rule refuses: a name in use, an adapter that does nothing."""

    exit_code = 3


class NoServerError(ModelsError):
    """No server of that name."""

    exit_code = 4
