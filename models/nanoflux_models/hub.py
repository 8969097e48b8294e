"""Download one repository of a model hub through the hub's own client, as a separate process.

`python -m nanoflux_models.hub REPO REVISION FOLDER` writes the repository's files into FOLDER. It reports in JSON, one
document a line: `{"progress": [bytes, total]}`, then `{"commit", "files"}` or `{"error", "fix", "exit"}`. A file
appears under its name once its hash is the hub's. Until then it is `NAME.HASH.part`, which the next download continues.
The process is guarded: it reaches the configured hub and nothing else. No pickled weights are fetched.
"""

import hashlib
import json
import os
import shutil
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanoflux_models import guard

PUBLIC_HUB = "huggingface.co"
PUBLIC_CDN = ".hf.co"
"""Where the public hub redirects downloads of large files to."""
WANTED = {".safetensors", ".json", ".txt", ".model", ".jinja", ".md"}
"""Endings of the files that make a model: tensors, configs, tokenizer, template, card. No ending that can hold code."""
FOREIGN = {"original", "metal", "onnx", "openvino", "coreml"}
"""Folders in which publishers keep second copies of the same weights for other software."""
CARRY = "or download it elsewhere and run `nanoflux models import PATH --name NAME`"
STREAMS = 4
INTERVAL_S = 0.5
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository: its size in bytes, and its hash on the hub (SHA-256, or git's SHA-1 of a blob)."""

    path: str
    size: int
    sha256: str
    blob: str

    @property
    def digest(self) -> str:
        return self.sha256 or self.blob

    def part(self, folder: Path) -> Path:
        """Where the unfinished download lies; the hash in its name keeps another version from being continued."""
        return folder / f"{self.path}.{self.digest[:16]}.part"

    def is_intact(self, path: Path) -> bool:
        """Whether the file at `path` has the size and the hash that the hub lists."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        # Git names a small file by the SHA-1 of a header and the content; the hub lists SHA-256 for large files alone.
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest() == self.digest


def is_wanted(path: Path) -> bool:
    """Whether a file of a model's folder (a path relative to it) is taken: by its ending, its name and its folder."""
    hidden = any(part.startswith(".") for part in path.parts)
    named = path.suffix in WANTED or path.name.startswith("LICENSE")
    return named and not hidden and path.parts[0] not in FOREIGN


def download(repo: str, revision: str, folder: Path) -> dict[str, Any]:
    """Bring `folder` to exactly the wanted files of one commit, each checked against the hash that the hub lists."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    commit = str(api.repo_info(repo, revision=revision).sha)
    files = [
        RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
        for entry in api.list_repo_tree(repo, recursive=True, revision=commit)
        if isinstance(entry, RepoFile) and is_wanted(Path(entry.path))
    ]
    if not any(file.path.endswith(".safetensors") for file in files):
        raise HubError(f"{repo} has no .safetensors file.", "Choose a repository that publishes safetensors.")
    _remove_others(folder, files)
    missing = [file for file in files if not file.is_intact(folder / file.path)]
    _require_room(folder, repo, sum(file.size for file in missing) - _parts_size(folder, missing))
    with _reporting(folder, files), ThreadPoolExecutor(STREAMS) as pool:
        downloads = [pool.submit(_download_file, repo, commit, file, folder) for file in missing]
        finished, _ = wait(downloads, return_when=FIRST_EXCEPTION)
        failure = next((error for each in finished if (error := each.exception())), None)
        if failure:
            _fail(failure, repo, revision)
    return {"commit": commit, "files": {file.path: file.size for file in files}}


class HubError(Exception):
    """A failure with its remedy and the exit code of the command that met it."""

    def __init__(self, message: str, fix: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message, self.fix, self.exit_code = message, fix, exit_code


def _download_file(repo: str, commit: str, file: RemoteFile, folder: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(repo, file.path, revision=commit)
    metadata = get_hf_file_metadata(url)
    same_host = urlsplit(metadata.location).netloc == urlsplit(url).netloc
    token = get_token() if same_host else None  # a CDN's address is signed: the token is for the hub alone
    headers = {"authorization": f"Bearer {token}"} if token else {}
    part = file.part(folder)
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab"):
        pass
    with part.open("r+b") as target:
        size = target.seek(0, os.SEEK_END)
        if size > file.size:
            size = target.seek(0)
            target.truncate()
        http_get(metadata.location, target, resume_size=size, headers=headers, expected_size=file.size)
    if not file.is_intact(part):
        part.unlink()
        fix = "Pull again. If it happens again, the hub or a proxy on the way changes files: do not use this copy."
        raise HubError(f"{repo}: {file.path}: the hash of the download is not the one that the hub lists.", fix)
    part.replace(folder / file.path)


def _require_room(folder: Path, repo: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        have = f"{folder} has {free / 2**30:.1f} GiB free"
        message = f"{repo}: {needed / 2**30:.1f} GiB are still to be downloaded, and {have}."
        raise HubError(message, "Free some space, or choose another NANOFLUX_HOME.")


def _parts_size(folder: Path, files: list[RemoteFile]) -> int:
    parts = [file.part(folder) for file in files]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _remove_others(folder: Path, files: list[RemoteFile]) -> None:
    """Remove what an earlier download left that is no part of this commit."""
    kept = {folder / file.path for file in files} | {file.part(folder) for file in files}
    for path in list(folder.rglob("*")):
        if path.is_file() and path not in kept:
            path.unlink()


@contextmanager
def _reporting(folder: Path, files: list[RemoteFile]) -> Iterator[None]:
    """Report twice a second how many bytes are on disk."""
    total, ended = sum(file.size for file in files), threading.Event()

    def report() -> None:
        while not ended.wait(INTERVAL_S):
            _print({"progress": [_size_on_disk(folder, files), total]})

    _print({"progress": [_size_on_disk(folder, files), total]})
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    _print({"progress": [total, total]})


def _size_on_disk(folder: Path, files: list[RemoteFile]) -> int:
    size = 0
    for file in files:
        for path in (folder / file.path, file.part(folder)):
            try:
                size += path.stat().st_size
                break
            except OSError:
                continue
    return size


def explain(error: BaseException, repo: str, revision: str) -> HubError:
    """A failure of the client in this project's words. The address of a redirect may be signed, so none is repeated."""
    import httpx2
    from huggingface_hub import constants, errors

    outside = guard.refusal_in(error)
    if isinstance(error, HubError):
        return error
    if outside:
        fix = f"Set {guard.VARIABLE}={outside.args[0]} if this host belongs to your hub or its mirror."
        return HubError(f"{repo}: the download leads to {outside.args[0]}, which is not allowed.", fix, 3)
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_answer(error, repo, revision)
    if isinstance(error, httpx2.HTTPError):
        fix = f"Check the network and HF_ENDPOINT, then pull again: finished parts are kept; {CARRY}."
        return HubError(f"{repo}: {constants.ENDPOINT} cannot be reached or broke off: {_one_line(error)}.", fix)
    if isinstance(error, OSError) and error.errno:
        return HubError(f"{error.filename or repo}: {error.strerror}.", "Free some space, then pull again.")
    return HubError(f"{repo}: {type(error).__name__}: {_one_line(error)}", f"Pull again; {CARRY}.")


def _explain_answer(error: Any, repo: str, revision: str) -> HubError:
    """What an answer of the hub with a status of 400 or more means (an `HfHubHTTPError`)."""
    from huggingface_hub import constants, errors, get_token

    page, status = f"{constants.ENDPOINT}/{repo}", error.response.status_code
    if isinstance(error, errors.GatedRepoError) and get_token():
        fix = f"Accept it at {page} with the account of HF_TOKEN, then pull again."
        return HubError(f"{repo} is gated, and the account of your token has not accepted its licence.", fix, 3)
    if isinstance(error, errors.GatedRepoError):
        fix = f"Accept its licence at {page}, then set HF_TOKEN to a read token of that account."
        return HubError(f"{repo} is gated: it is handed out only to accounts that accepted its licence.", fix, 3)
    if isinstance(error, errors.RevisionNotFoundError):
        fix = "Correct `revision` in the model's manifest; `nanoflux models show` prints it."
        return HubError(f"{repo} has no revision {revision!r}.", fix, 4)
    if isinstance(error, errors.RepositoryNotFoundError):
        fix = f"Check the name at {page}; a private repository needs HF_TOKEN."
        return HubError(f"{constants.ENDPOINT} has no repository {repo}, or does not show it to you.", fix, 4)
    if status in (401, 403):
        return HubError(f"{repo}: the hub refuses the token (HTTP {status}).", "Set HF_TOKEN to a valid token.", 3)
    fix = f"Pull again later: finished parts are kept; {CARRY}."
    return HubError(f"{repo}: the hub answered HTTP {status} ({error.response.reason_phrase}).", fix)


def _one_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _fail(error: BaseException, repo: str, revision: str) -> None:
    """Report a failure and end at once, without waiting for the other streams: what they wrote is kept."""
    from huggingface_hub import get_token

    failure, token = explain(error, repo, revision), get_token()
    texts = [text.replace(token, "•••") if token else text for text in (failure.message, failure.fix)]
    _print({"error": texts[0], "fix": texts[1], "exit": failure.exit_code})
    os._exit(1)


def _print(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)  # noqa: T201 - the protocol with the parent


def _allow_hub() -> None:
    """Let this process reach the configured hub, and the proxy on the way if one is set."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or ""
    guard.allow(host, *([PUBLIC_CDN] if host == PUBLIC_HUB else []), *urllib.request.getproxies().values())


def main(arguments: list[str]) -> None:
    """Download and report; every failure ends as one JSON line."""
    repo, revision, folder = arguments
    _allow_hub()
    guard.install()
    try:
        _print(download(repo, revision, Path(folder)))
    except Exception as error:  # noqa: BLE001 - the parent shows it in one line
        _fail(error, repo, revision)


if __name__ == "__main__":
    main(sys.argv[1:])
