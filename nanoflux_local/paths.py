"""Where things live: one home folder, private to its user. Owns the names inside it and nothing of their content."""

import os
from dataclasses import dataclass
from pathlib import Path

from nanoflux_local.errors import UsageError


def default_home() -> Path:
    """`NANOFLUX_HOME`, or the XDG data folder of this user.

    Raises:
        UsageError: neither is set, and this user has no home directory.
    """
    chosen = os.environ.get("NANOFLUX_HOME")
    if chosen:
        return expand_user(chosen)
    import platformdirs  # deferred: `nanoflux --help` does not need it

    try:
        return platformdirs.user_data_path("nanoflux")
    except RuntimeError as error:
        raise _homeless("where to keep its state is not known") from error


def expand_user(path: str | Path) -> Path:
    """The path with a leading `~` replaced by the user's home directory.

    Raises:
        UsageError: this user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise _homeless(f"{path} cannot be expanded") from error


def _homeless(consequence: str) -> UsageError:
    what = "HOME is not set, and the system knows no home directory of this user"
    return UsageError(f"{what}: {consequence}", "set HOME or NANOFLUX_HOME, or give --home DIR")


@dataclass(frozen=True, slots=True)
class Home:
    """The home folder. Every other module asks it for paths instead of joining names itself."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.db"

    @property
    def corpus(self) -> Path:
        return self.root / "corpus.db"

    @property
    def adapters(self) -> Path:
        return self.root / "adapters"

    @property
    def merged(self) -> Path:
        return self.root / "merged"

    @property
    def profiles(self) -> Path:
        """The user's own profiles, found by their file's name; a bundle carries them here."""
        return self.root / "profiles"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    def prepare(self) -> "Home":
        """Create the folder, readable by its owner alone, and make sure that it can be written.

        Raises:
            UsageError: the folder cannot be created or written; nothing is left behind.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.root / "locks").mkdir(mode=0o700, exist_ok=True)
            probe = self.root / f".write-test-{os.getpid()}"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"the home folder {self.root} cannot be written: {error.strerror or error}",
                "name another with --home or NANOFLUX_HOME, or mend its permissions",
            ) from error
        return self
