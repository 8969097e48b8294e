"""The result of one check of this machine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `nanoflux doctor`.

    A check that is `ok` and has a fix is optional advice. `found` is the name of the key in `doctor --json`.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""

    @property
    def word(self) -> str:
        """The state in one word."""
        if not self.ok:
            return "fix"
        return "hint" if self.fix else "ok"
