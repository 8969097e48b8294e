"""The home folder and what is in it: its permissions, its disk, the ledger, the weights. Creates nothing."""

import os
import shutil
from pathlib import Path

from nanoflux_local.doctor.check import Check
from nanoflux_local.errors import NanofluxError
from nanoflux_local.paths import Home
from nanoflux_models.record import RECORD, WeightsRecord, problems
from nanoflux_models.weights import installed

GIB = 2**30
ROOM_GIB = 2.0
"""The embedded default with its demo; larger models need their weights' size beside it."""
HASHED_GIB = 1.0
"""Weights up to this size together are hashed; of larger ones the sizes are compared, since this is to be quick."""
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "lustre", "gpfs"}
"""File systems on which several machines' locks, and so SQLite's, cannot be relied on."""


def folder(home: Home) -> Check:
    """For its owner alone, writable, and on a disk of this machine."""
    root = home.root
    if not root.exists():
        able = os.access(_nearest(root), os.W_OK | os.X_OK)
        fix = "" if able else "name another with --home or NANOFLUX_HOME"
        return Check("home", able, f"{root} is not there yet" + ("" if able else " and cannot be made"), fix)
    mode = root.stat().st_mode & 0o777
    if mode & 0o077:
        return Check("home", False, f"{root} is open to others (mode {mode:04o})", f"chmod 700 {root}")
    if not os.access(root, os.W_OK | os.X_OK):
        return Check("home", False, f"{root} cannot be written", "mend its permissions, or name another with --home")
    kind = _file_system(root)
    if kind in REMOTE:
        fix = "name a folder on a disk of this machine: SQLite's locks do not hold over a network"
        return Check("home", False, f"{root} is on a {kind} file system", fix)
    return Check("home", True, f"{root}, private")


def disk(home: Home) -> Check:
    """What is free where the home is or would be."""
    free = shutil.disk_usage(_nearest(home.root)).free / GIB
    fix = "" if free >= ROOM_GIB else f"free {ROOM_GIB:.0f} GiB, or name a home on another disk"
    return Check("disk", not fix, f"{free:.1f} GiB free", fix)


def ledger(home: Home) -> Check:
    """Whether it opens, and is of this version."""
    if not home.ledger.exists():
        return Check("ledger", True, "none yet")
    from nanoflux_local.ledger.views import LedgerView

    try:
        with LedgerView(home.ledger) as view:
            runs = view.contents()["runs"]
    except NanofluxError as error:
        return Check("ledger", False, error.message, error.fix)
    return Check("ledger", True, f"{runs} runs, {home.ledger.stat().st_size / 2**20:.1f} MiB")


def weights(home: Home) -> Check:
    """Each model's files against the hashes of its record."""
    names = sorted(path.parent.name for path in (home.root / "weights").glob(f"[!.]*/{RECORD}"))
    if not names:
        return Check("weights", True, "none yet", "nanoflux models pull smollm2-135m all-minilm-l6-v2")
    records = installed(home.root)
    size = sum(file.bytes for record in records for file in record.files.values()) / GIB
    hashed = size <= HASHED_GIB
    found = [f"{name}: no usable record" for name in names if name not in {record.name for record in records}]
    for record in records:
        place = home.root / "weights" / record.name
        found += problems(place) if hashed else _missized(place, record)
    if found:
        damaged = "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        return Check("weights", False, damaged, "pull or import them again; nanoflux models verify names every file")
    told = "every hash is right" if hashed else "every size is right; `nanoflux models verify` reads every byte"
    return Check("weights", True, f"{', '.join(names)}: {told}")


def _missized(place: Path, record: WeightsRecord) -> list[str]:
    sizes = {name: _size(place / name) for name in record.files}
    return [
        f"{place / name}: {'missing' if sizes[name] < 0 else f'has {sizes[name]} bytes, should have {file.bytes}'}"
        for name, file in sorted(record.files.items())
        if sizes[name] != file.bytes
    ]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _file_system(path: Path) -> str:
    """The kind of the file system that holds `path`: of the mount points above it, the last and longest."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return ""
    real = path.resolve()
    above = [(len(point), kind) for point, kind in mounts if real.is_relative_to(point)]
    longest = max((length for length, _ in above), default=0)
    return next((kind for length, kind in reversed(above) if length == longest), "")
