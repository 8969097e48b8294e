"""Where things live: one home folder, private to its user. Owns the names inside it and nothing of their content."""

import os
from dataclasses import dataclass
from pathlib import Path

from nanoflux_local.errors import UsageError


def default_home() -> Path:
    """`NANOFLUX_HOME`, or the XDG data folder of this user."""
    chosen = os.environ.get("NANOFLUX_HOME")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs  # deferred: `nanoflux --help` does not need it

    return platformdirs.user_data_path("nanoflux")


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
