"""The record of each started server: `<home>/servers/NAME.json`, readable only by its owner.

With the record, another process can find the server, distinguish it from a process that reuses its pid, and see whether
its owner still runs. This module reads and writes the files; it sends no signals.
"""

import contextlib
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nanoflux_models.files import write_atomically
from nanoflux_models.launch import DEFAULT_RANK
from nanoflux_models.processes import Process, boot_id

NAME = re.compile(r"[a-z0-9][a-z0-9._@-]*")
"""The pattern of a server's name."""


class ServerRecord(BaseModel):
    """One server. `owner` is the pid and start time of the process whose end also ends the server (None: the server
    runs until it is stopped).

    `pid` is the server's main process, `started` its start time in clock ticks since boot, and `boot` the id of that
    boot. `mark` is a random token in the environment of every process of the server, and `context` is the maximum
    length of a request with its reply, in tokens. `revision` identifies the weights; see `Launch` for `variant` and
    `sleeps`. `proved` contains the adapters whose probe on this server passed, and `batch_proved` says whether a test
    showed that its replies do not depend on the batch. `rank` is the highest rank of the adapters that the server
    accepts; 0 if it accepts none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    model: str
    revision: str
    variant: str
    url: str
    port: int
    pid: int
    started: int
    boot: str
    mark: str
    owner: tuple[int, int] | None
    log: str
    context: int
    sleeps: bool = False
    rank: int = DEFAULT_RANK
    batch_proved: bool = False
    proved: tuple[str, ...] = ()

    @property
    def process(self) -> Process:
        """The server's main process."""
        return Process(self.pid, self.started)

    @property
    def alive(self) -> bool:
        """Whether the server's main process still runs."""
        return self.boot == boot_id() and self.process.alive

    @property
    def should_run(self) -> bool:
        """Whether the server should still run: it has no owner, or its owner still runs."""
        return self.boot == boot_id() and (self.owner is None or Process(*self.owner).alive)


def read_records(home: Path) -> list[ServerRecord]:
    """The records of all servers, sorted by name; files that are not records are skipped."""
    records = []
    for path in sorted(_servers_folder(home).glob("*.json")):
        with contextlib.suppress(OSError, ValidationError):
            records.append(ServerRecord.model_validate_json(path.read_bytes()))
    return records


def find_record(home: Path, name: str) -> ServerRecord | None:
    """The record of the server `name`; None if there is none."""
    return next((record for record in read_records(home) if record.name == name), None)


def write_record(home: Path, record: ServerRecord) -> None:
    """Write a record atomically, readable only by this user."""
    folder = _servers_folder(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(folder / f"{record.name}.json", record.model_dump_json(indent=2) + "\n")


def remove_record(home: Path, record: ServerRecord) -> None:
    """Remove a server's record, unless another server of that name has replaced it."""
    stored_record = find_record(home, record.name)
    if stored_record and stored_record.mark == record.mark:
        (_servers_folder(home) / f"{record.name}.json").unlink(missing_ok=True)


def log_path(home: Path, name: str) -> Path:
    """The file that receives a server's output."""
    return home / "logs" / f"server-{name}.log"


def _servers_folder(home: Path) -> Path:
    return home / "servers"
