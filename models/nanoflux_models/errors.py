"""Errors of `nanoflux_models`: each has a message, a fix and an exit code.

They have the same attributes as the errors of `nanoflux_local`, so that the command line shows both in the same way.
Neither package imports the other.
"""


class ModelsError(Exception):
    """The base class of errors that are shown to the user as a message, without a traceback."""

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}" if self.fix else self.message


class ManifestError(ModelsError):
    """A manifest is invalid, or the files of a model cannot be used."""

    exit_code = 2


class RefusedDownloadError(ModelsError):
    """A download is refused: the source is a file, the host is not allowed, or the model's licence was not accepted."""

    exit_code = 3


class ModelNotFoundError(ModelsError):
    """There is no manifest, or there are no installed weights, with the requested name."""

    exit_code = 4


class DigestMismatchError(ModelsError):
    """A file does not have the expected SHA-256."""


class ServerError(ModelsError):
    """A server cannot be started, does not answer, or has exited."""


class ServerRefusedError(ModelsError):
    """A server is not started because its name is in use, or vLLM or the probe refuses an adapter."""

    exit_code = 3


class NoServerError(ModelsError):
    """No server has the requested name."""

    exit_code = 4


class HubError(Exception):
    """A failed download, with its fix and the exit code for `nanoflux models pull`."""

    def __init__(self, message: str, fix: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message, self.fix, self.exit_code = message, fix, exit_code
