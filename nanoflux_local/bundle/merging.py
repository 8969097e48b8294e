"""Merges a bundle into an existing home: its runs, training runs, evaluations, adapters, domains and other files.

Nothing is overwritten. Adapters and calls are identified by their hashes, all other components by their names. A
component whose content differs from that of the component with the same name in this home is a conflict. If there are
conflicts, nothing is merged, unless the caller asks to leave the conflicting components out. No file of a bundle is
executed.
"""

import filecmp
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanoflux_local.adapters.store import read_adapter
from nanoflux_local.bundle import installer
from nanoflux_local.errors import DataError, NanofluxError, NothingMatchedError, RefusedError
from nanoflux_local.ledger.merging import Conflict, MergeResult, merge_rows
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.verify import verify_run
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity

LEDGER, ADAPTERS, REPORTS = "ledger.db", "adapters", "reports"
KIND_BY_COMPONENT = {
    ADAPTERS: "adapter",
    REPORTS: "report",
    "trainings": "training rows",
    "domains": "domain file",
    "profiles": "profile",
    "models": "model manifest",
    "weights": "model",
    "corpus.db": "search corpus",
}
"""What the home in a bundle may contain in addition to its ledger: folders, whose entries are merged one by one, and
the search corpus. Each value is the word for one entry in messages.
"""
MAX_LISTED_PROBLEMS = 3
"""The maximum number of problems that a message lists."""


def merge_bundle(
    path: Path, home: Home, skip_conflicts: bool = False, report: Callable[[str], None] = lambda _: None
) -> MergeResult:
    """Merge the `home` of a bundle into `home`, completely or not at all. With `skip_conflicts`, conflicting
    components are left out.

    Raises:
        BundleError: the bundle is damaged, or the disk is too full.
        NothingMatchedError: the bundle contains only software.
        DataError: an adapter or a run in the bundle does not match its hashes.
        RefusedError: a component conflicts with one in this home, or the bundle has a file of an unknown kind.
        LedgerError: one of the ledgers cannot be used.
    """
    head = installer.read_head(path)
    report(f"checking {format_quantity(len(head.parts), 'part')}")
    installer.refuse_damaged(head)
    _refuse_unmergeable(head)
    home.prepare()
    with _unpack_home(head, home) as unpacked:
        result = MergeResult()
        target_by_source = dict(_plan_moves(unpacked, home, result))
        with Ledger(home.ledger) as ledger, ledger.transaction() as connection:
            if (unpacked / LEDGER).is_file():
                _merge_ledger(unpacked / LEDGER, connection, result, report)
            if result.conflicts and not skip_conflicts:
                raise _make_conflict_error(path, result.conflicts)
            # The files are moved before the transaction commits the rows that refer to them.
            for source, target in target_by_source.items():
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                source.rename(target)
    return result


def _refuse_unmergeable(head: installer.Head) -> None:
    """Raise NothingMatchedError or RefusedError if the bundle has no home, or a home with unknown files."""
    file_by_component = {file.split("/")[1]: file for file in head.files if file.startswith("home/")}
    if not file_by_component:
        raise NothingMatchedError(
            f"{head.path} contains no runs, datasets or models to merge", "install it with `nanoflux bundle install`"
        )
    for component, file in file_by_component.items():
        if component not in {LEDGER, *KIND_BY_COMPONENT}:
            raise RefusedError(f"{head.path} has {file!r}, which cannot be merged", "do not use this bundle")


@contextmanager
def _unpack_home(head: installer.Head, home: Home) -> Iterator[Path]:
    """Yield the `home` of a bundle, unpacked into a scratch directory on the disk of this home."""
    needed_bytes = sum(checksum.bytes for name, checksum in head.files.items() if name.startswith("home/"))
    installer.refuse_full_disk(home.root, needed_bytes)
    former_umask = os.umask(0o077)
    try:
        with tempfile.TemporaryDirectory(dir=home.root, prefix=".merge-") as scratch:
            installer.unpack(head, Path(scratch), "home/")
            yield Path(scratch) / "home"
    except OSError as error:
        raise NanofluxError(
            f"{error.filename or home.root}: {error.strerror or error}",
            "free some disk space or correct the permissions, then merge again; files that were already added remain",
        ) from error
    finally:
        os.umask(former_umask)


def _plan_moves(unpacked: Path, home: Home, result: MergeResult) -> Iterator[tuple[Path, Path]]:
    """Yield the files and folders that this home lacks, each with its target path. Record in `result` what is added,
    what this home already has, and the conflicts.
    """
    for source in sorted(_list_components(unpacked)):
        relative_path = source.relative_to(unpacked)
        target = home.root / relative_path
        component = relative_path.parts[0]
        kind = KIND_BY_COMPONENT[component]
        if component == ADAPTERS:
            _refuse_damaged_adapter(source)
        if not target.exists():
            result.record(kind, source.name, added=True)
            yield source, target
            continue
        difference = _find_difference(component, source, target)
        if difference:
            result.conflicts.append(Conflict(kind, source.name, difference))
        else:
            result.record(kind, source.name, added=False)


def _list_components(unpacked: Path) -> Iterator[Path]:
    """The files and folders that are merged as a whole: each entry of the folders in `KIND_BY_COMPONENT`, and the
    search corpus.
    """
    for path in unpacked.iterdir():
        if path.is_dir():
            yield from path.iterdir()
        elif path.name != LEDGER:
            yield path


def _refuse_damaged_adapter(folder: Path) -> None:
    """Raise DataError if an adapter in the bundle does not match its hash."""
    if read_adapter(folder).hash != folder.name:
        raise DataError(f"adapter {folder.name} in the bundle does not match its hash", "create the bundle again")


def _find_difference(component: str, source: Path, target: Path) -> str:
    """How the file or folder `source` of a component differs from `target` in this home; "" if it does not. Reports
    never conflict, and adapters with the same hash conflict only if the adapter in this home is damaged.
    """
    if component == REPORTS:
        return ""  # a report can always be written again from the ledger
    if component == ADAPTERS:
        try:
            read_adapter(target)
        except DataError as error:
            return error.message
        return ""
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    is_same = all(_has_same_content(path, target / path.relative_to(source)) for path in files)
    return "" if is_same else f"{target} has different content"


def _has_same_content(source: Path, target: Path) -> bool:
    return target.is_file() and filecmp.cmp(source, target, shallow=False)


def _merge_ledger(source: Path, connection: Any, result: MergeResult, report: Callable[[str], None]) -> None:
    """Verify the runs in the bundle's ledger `source`, then copy its rows into the ledger behind `connection`."""
    with LedgerView(source) as view:
        runs = [row["id"] for row in view.rows("SELECT id FROM runs")]
        if runs:
            report(f"verifying {format_quantity(len(runs), 'run')}")
        for run in runs:
            problems = list(verify_run(view, run))
            if problems:
                more = f"; {len(problems) - MAX_LISTED_PROBLEMS} more" if len(problems) > MAX_LISTED_PROBLEMS else ""
                listed_problems = "; ".join(problems[:MAX_LISTED_PROBLEMS])
                raise DataError(
                    f"run {run} in the bundle does not match its hashes: {listed_problems}{more}",
                    "check the run with `nanoflux run verify` in its original home, then create the bundle again",
                )
        merge_rows(connection, view, result)


def _make_conflict_error(path: Path, conflicts: list[Conflict]) -> RefusedError:
    """Make the error that lists the conflicts of a bundle."""
    lines = "\n".join(f"  {conflict}" for conflict in conflicts)
    return RefusedError(
        f"{path} conflicts with this home, and nothing is overwritten:\n{lines}",
        "leave out these components with --skip-conflicts, or merge into another home with --home",
    )
