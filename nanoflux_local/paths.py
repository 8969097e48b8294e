"""The home directory, in which all state is kept, and the paths inside it."""

import os
from dataclasses import dataclass
from pathlib import Path

from nanoflux_local.errors import UsageError


def default_home() -> Path:
    """`NANOFLUX_HOME`, else the user's XDG data directory.

    Raises:
        UsageError: `NANOFLUX_HOME` is not set, and this user has no home directory.
    """
    home_setting = os.environ.get("NANOFLUX_HOME")
    if home_setting:
        return expand_user(home_setting)
    import platformdirs  # deferred: `nanoflux --help` does not need it

    try:
        return platformdirs.user_data_path("nanoflux")
    except RuntimeError as error:
        raise _make_no_home_error("there is no default place for the home directory") from error


def expand_user(path: str | Path) -> Path:
    """The path with a leading `~` replaced by the user's home directory.

    Raises:
        UsageError: the user has no home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise _make_no_home_error(f"{path} cannot be expanded") from error


def _make_no_home_error(consequence: str) -> UsageError:
    cause = "HOME is not set, and the system has no home directory for this user"
    return UsageError(f"{cause}: {consequence}", "set HOME or NANOFLUX_HOME, or pass --home DIR")


@dataclass(frozen=True, slots=True)
class Home:
    """The home directory, with the paths of everything that is stored in it."""

    root: Path

    @property
    def ledger(self) -> Path:
        """The SQLite file of runs, calls, training runs and evaluations."""
        return self.root / "ledger.db"

    @property
    def corpus(self) -> Path:
        """The SQLite index of the documents for fact checks."""
        return self.root / "corpus.db"

    @property
    def adapters(self) -> Path:
        """The LoRA adapters, each in a folder named by its hash."""
        return self.root / "adapters"

    @property
    def merged(self) -> Path:
        """The models into whose weights an adapter was merged."""
        return self.root / "merged"

    @property
    def profiles(self) -> Path:
        """The user's own profiles, one file each; a bundle installs its profiles here."""
        return self.root / "profiles"

    @property
    def keymap(self) -> Path:
        """The user's key bindings for the terminal application."""
        return self.root / "keymap.toml"

    @property
    def reports(self) -> Path:
        """The reports of runs."""
        return self.root / "reports"

    def lock(self, name: str) -> Path:
        """The lock file with the name `name`."""
        return self.root / "locks" / f"{name}.lock"

    def prepare(self) -> "Home":
        """Create the directory, readable by its owner only, and check that it can be written. Returns this home.

        Raises:
            UsageError: the directory cannot be created or written.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.root / "locks").mkdir(mode=0o700, exist_ok=True)
            probe = self.root / f".write-test-{os.getpid()}"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"the home directory {self.root} cannot be written: {error.strerror or error}",
                "set another with --home or NANOFLUX_HOME, or correct its permissions",
            ) from error
        return self
