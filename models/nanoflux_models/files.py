"""Files of this room that are either there in full or not at all, for their owner alone."""

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Put `text` where `path` is: a reader finds the old file or the new. Raises OSError, and leaves the old one."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # which is made with 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
