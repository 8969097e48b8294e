"""Reads API keys from the environment, or from a file that only its owner can read; never from the command line.

A key's text exists only inside an `ApiKey`. Servers repeat keys in their messages, so every message passes through
`ApiKey.mask` before it is stored or shown.
"""

import os
import stat
from pathlib import Path

from nanoflux_local.errors import ConfigError
from nanoflux_local.paths import expand_user
from nanoflux_local.redaction import register_secret


class ApiKey:
    """A server's key; it is printed as "[key]". `text` is the key itself, or "" if the server needs none."""

    __slots__ = ("text",)

    def __init__(self, text: str = "") -> None:
        self.text = text
        register_secret(text)

    def __repr__(self) -> str:
        return "[key]" if self.text else "[no key]"

    def __bool__(self) -> bool:
        return bool(self.text)

    def mask(self, message: str) -> str:
        """The message with every occurrence of the key replaced by "[key]"."""
        return message.replace(self.text, "[key]") if self.text else message


def read_key(variable: str = "", file: str = "") -> ApiKey:
    """Read the key from the environment variable `variable` or from `file`; without either, the key is empty.

    Raises:
        ConfigError: the variable is not set or empty, the file does not exist, or other users may read the file.
    """
    if variable and file:
        raise ConfigError(f"both key_env = {variable!r} and key_file = {file!r} are set", "remove one of them")
    if variable:
        key = os.environ.get(variable, "").strip()
        if not key:
            fix = "export it, or change the endpoint's key_env"
            raise ConfigError(f"the environment variable {variable} is not set", fix)
        return ApiKey(key)
    if file:
        return ApiKey(_read_key_file(expand_user(file)))
    return ApiKey()


def _read_key_file(path: Path) -> str:
    """Read the key in a file. Raises ConfigError unless the file is private and contains exactly one key."""
    try:
        with path.open(encoding="utf-8") as file:
            file_status = os.fstat(file.fileno())  # of the open file, since the path could be replaced in between
            mode = stat.S_IMODE(file_status.st_mode)
            if file_status.st_uid != os.geteuid() or mode & 0o077:
                raise ConfigError(
                    f"the key file {path} can be read by others (mode {mode:04o})",
                    f"make it private: chmod 600 {path}; replace a key that others may have read",
                )
            key = file.read(10_000).strip()
    except OSError as error:
        raise ConfigError(
            f"the key file {path} cannot be read: {error.strerror}", "set key_file to a file that you can read"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"the key file {path} is not text", "write only the key into it") from None
    if not key or len(key.split()) != 1:
        raise ConfigError(f"the key file {path} does not contain exactly one key", "write only the key into it")
    return key
