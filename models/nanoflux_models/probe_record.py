"""The outcome of the last probe of an adapter, in a file of its own beside the adapter's record.

Owns `probe.json`. It is no part of the adapter: the hash does not cover it, and a copy of the adapter goes without it,
since what it says holds for the server and the machine on which it was found.
"""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanoflux_models.errors import ServerError
from nanoflux_models.files import write_whole

if TYPE_CHECKING:
    from nanoflux_models.probe import Probe

PROBE = "probe.json"


def write_probe(folder: Path, found: "Probe", base: str) -> None:
    """Keep what was found, in place of what was found before; whole or not at all.

    Raises:
        ServerError: it cannot be written.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**asdict(found), "base": base, "passed": found.passed, "verdict": found.verdict, "at": at}
    try:
        write_whole(folder / PROBE, json.dumps(record, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        what = f"the outcome of the probe cannot be kept in {folder}: {error.strerror or error}"
        raise ServerError(what, "free space, or make the folder writable, and probe again") from error


def read_probe(folder: Path) -> dict[str, Any] | None:
    """What the last probe found; None where none was kept, or what was kept is no record of one."""
    try:
        record = json.loads((folder / PROBE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"passed", "verdict", "at"} <= record.keys() else None
