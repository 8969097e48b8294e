"""Notes that users write on runs and training runs. Earlier notes stay in the ledger; only the newest note is shown."""

from pathlib import Path
from typing import Literal

from nanoflux_local.ledger.store import Ledger
from nanoflux_local.records import storable

MAX_CHARACTERS = 20_000
"""A longer note is shortened to this number of characters."""


def add_note(ledger: Path, kind: Literal["run", "training"], subject: str, note: str) -> str:
    """Store a note on the run or training with this id. An empty note hides the earlier note. Returns the note as it
    was stored.
    """
    stored = storable(note).strip()[:MAX_CHARACTERS]
    with Ledger(ledger) as writer:
        writer.add_note(kind, subject, stored)
    return stored
