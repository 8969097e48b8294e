"""One finding about this machine: what was looked at, whether it will do, what was found, what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `nanoflux doctor`.

    A check that is `ok` and has a fix is advice: all works without it, and more would work with it.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""

    @property
    def word(self) -> str:
        """How it stands, in one word."""
        if not self.ok:
            return "mend"
        return "could" if self.fix else "ok"
