"""The result of one check of this machine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MachineCheck:
    """One line of `nanoflux doctor`. `state` says what was found, and `fix` says what to do about a problem; if the
    check is `ok`, `fix` is optional advice.
    """

    name: str
    ok: bool
    state: str
    fix: str = ""

    @property
    def status(self) -> str:
        """The first word of the line: ok, hint or fix."""
        if not self.ok:
            return "fix"
        return "hint" if self.fix else "ok"

    def to_json(self) -> dict[str, str | bool]:
        """The entry of `doctor --json`."""
        return {"name": self.name, "ok": self.ok, "found": self.state, "fix": self.fix}
