"""Checks the home directory: permissions, disk, ledger, weights. The checks create nothing."""

import os
import shutil
from pathlib import Path

from nanoflux_local.doctor.check import MachineCheck
from nanoflux_local.errors import NanofluxError
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_models.record import RECORD, WeightsRecord, find_problems, find_size_problem
from nanoflux_models.weights import list_installed

GIB = 2**30
MIN_FREE_GIB = 2.0
"""The free space that the embedded default model and its demo need. Larger models also need space for their weights."""
MAX_HASHED_GIB = 1.0
"""Weights are hashed up to this total size. Above it, only file sizes are compared, to keep the check fast."""
MAX_LISTED = 3
"""The maximum number of damaged files that are listed; the others are only counted."""
REMOTE_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "lustre", "gpfs"}
"""Network file systems, on which SQLite's locks are unreliable."""


def check_home(home: Home) -> MachineCheck:
    """Check that the home is private to its owner, writable and on a local disk."""
    root = home.root
    if not root.exists():
        if os.access(_nearest_existing(root), os.W_OK | os.X_OK):
            return MachineCheck("home", True, f"{root} does not exist yet")
        fix = "choose another home with --home or NANOFLUX_HOME"
        return MachineCheck("home", False, f"{root} does not exist yet and cannot be created", fix)
    mode = root.stat().st_mode & 0o777
    if mode & 0o077:
        return MachineCheck(
            "home", False, f"{root} is accessible to other users (mode {mode:04o})", f"run `chmod 700 {root}`"
        )
    if not os.access(root, os.W_OK | os.X_OK):
        return MachineCheck(
            "home", False, f"{root} is not writable", "fix its permissions, or choose another home with --home"
        )
    file_system = _file_system_type(root)
    if file_system in REMOTE_FILE_SYSTEMS:
        fix = "choose a home on a local disk: SQLite's locks are unreliable on a network file system"
        return MachineCheck("home", False, f"{root} is on a {file_system} file system", fix)
    return MachineCheck("home", True, f"{root}, private")


def check_disk(home: Home) -> MachineCheck:
    """Check the free space on the disk of the home."""
    free_gib = shutil.disk_usage(_nearest_existing(home.root)).free / GIB
    fix = "" if free_gib >= MIN_FREE_GIB else f"free {MIN_FREE_GIB:.0f} GiB, or choose a home on another disk"
    return MachineCheck("disk", not fix, f"{free_gib:.1f} GiB free", fix)


def check_ledger(home: Home) -> MachineCheck:
    """Check that the ledger opens and has this version's schema."""
    if not home.ledger.exists():
        return MachineCheck("ledger", True, "none yet")
    from nanoflux_local.ledger.views import LedgerView

    try:
        with LedgerView(home.ledger) as view:
            run_count = view.contents()["runs"]
    except NanofluxError as error:
        return MachineCheck("ledger", False, error.message, error.fix)
    size_mib = home.ledger.stat().st_size / 2**20
    return MachineCheck("ledger", True, f"{format_quantity(run_count, 'run')}, {size_mib:.1f} MiB")


def check_weights(home: Home) -> MachineCheck:
    """Compare each model's files with the hashes in its record; above `MAX_HASHED_GIB`, only with the sizes."""
    record_files = (home.root / "weights").glob(f"[!.]*/{RECORD}")
    model_names = sorted(record_file.parent.name for record_file in record_files)
    if not model_names:
        return MachineCheck("weights", True, "none yet", "run `nanoflux models pull smollm2-135m all-minilm-l6-v2`")
    records = list_installed(home.root)
    size_gib = sum(file.bytes for record in records for file in record.files.values()) / GIB
    is_hashed = size_gib <= MAX_HASHED_GIB
    names_with_valid_record = {record.name for record in records}
    problems = [f"{name}: no valid record" for name in model_names if name not in names_with_valid_record]
    for record in records:
        folder = home.root / "weights" / record.name
        problems += find_problems(folder) if is_hashed else _list_wrong_sizes(folder, record)
    if problems:
        unlisted_count = len(problems) - MAX_LISTED
        ending = f" and {unlisted_count} more" if unlisted_count > 0 else ""
        return MachineCheck(
            "weights",
            False,
            "; ".join(problems[:MAX_LISTED]) + ending,
            "pull or import them again; `nanoflux models verify` lists every damaged file",
        )
    summary = "all hashes match" if is_hashed else "all sizes match; `nanoflux models verify` checks the hashes"
    return MachineCheck("weights", True, f"{', '.join(model_names)}: {summary}")


def _list_wrong_sizes(folder: Path, record: WeightsRecord) -> list[str]:
    """One line for each recorded file of a model that is missing or has a different size."""
    problems = [find_size_problem(folder / name, file) for name, file in sorted(record.files.items())]
    return [problem for problem in problems if problem]


def _nearest_existing(path: Path) -> Path:
    """The path itself if it exists, else its nearest ancestor that does."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _file_system_type(path: Path) -> str:
    """The type of the file system that contains `path`, such as "ext4"; "" if it is unknown.

    The mount point of that file system is the longest one that is `path` or an ancestor of it. If several file systems
    are mounted there, the last one hides the others.
    """
    try:
        lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    except OSError:
        return ""
    mounts = [line.split()[1:3] for line in lines]  # the mount point and the type of the file system
    real_path = path.resolve()
    mounts_above = [(mount_point, fs_type) for mount_point, fs_type in mounts if real_path.is_relative_to(mount_point)]
    longest_mount_point = max((mount_point for mount_point, _ in mounts_above), key=len, default="")
    types_at_mount_point = [fs_type for mount_point, fs_type in mounts_above if mount_point == longest_mount_point]
    return types_at_mount_point[-1] if types_at_mount_point else ""
