"""Downloads a repository of a model hub through the hub's client, in a separate process.

`python -m nanoflux_models.hub REPO REVISION FOLDER` writes the repository's files into FOLDER. It prints reports, one
JSON document per line: `{"progress": [bytes, total]}`, then `{"commit", "files"}` or `{"error", "fix", "exit"}`. A file
is called `NAME.HASH.part` until it is complete and has the hash that the hub lists; the next download resumes such a
file. The process installs the network guard (`guard`), so it can reach only the configured hub. Pickled weights are not
downloaded.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanoflux_models import guard
from nanoflux_models.errors import HubError

PUBLIC_HUB = "huggingface.co"
PUBLIC_CDN = ".hf.co"
"""The domain to which the public hub redirects downloads of large files."""
WANTED_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja", ".md"}
"""The endings of a model's files: tensors, configs, tokenizer, template, card. These formats cannot contain code."""
OTHER_FORMATS = {"original", "metal", "onnx", "openvino", "coreml"}
"""Folders in which publishers store copies of the weights for other software."""
IMPORT_ADVICE = "or download it elsewhere and run `nanoflux models import PATH --name NAME`"
"""The part of a fix that helps if the hub cannot be reached."""
PARALLEL_DOWNLOADS = 4
"""The maximum number of files that are downloaded at the same time."""
REPORT_INTERVAL_S = 0.5
"""Seconds between two reports of progress."""
CHUNK_BYTES = 1 << 20
"""The number of bytes that are read at a time to hash a file."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository: its size in bytes, and its hash on the hub (a SHA-256, or the SHA-1 of git's blob)."""

    path: str
    size: int
    sha256: str
    git_sha1: str

    @property
    def digest(self) -> str:
        return self.sha256 or self.git_sha1

    def part_path(self, folder: Path) -> Path:
        """The path of the unfinished download. The hash in its name ensures that no other version is resumed."""
        return folder / f"{self.path}.{self.digest[:16]}.part"

    def is_intact(self, path: Path) -> bool:
        """Whether the file at `path` has the size and the hash that the hub lists."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        # The hub lists a SHA-256 only for large files. For a small file, it lists git's SHA-1 of a header and content.
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest() == self.digest


def is_wanted(path: Path) -> bool:
    """Whether a file is part of the model, judged by its path relative to the model's folder."""
    is_hidden = any(part.startswith(".") for part in path.parts)
    is_model_file = path.suffix in WANTED_SUFFIXES or path.name.startswith("LICENSE")
    return is_model_file and not is_hidden and path.parts[0] not in OTHER_FORMATS


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The downloaded files of one commit. `files` maps the path of each file to its size in bytes."""

    commit: str
    files: dict[str, int]


def download(repo: str, revision: str, folder: Path) -> Snapshot:
    """Download a model's files of one commit into `folder`, check them against the hub's hashes, and remove all other
    files from `folder`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    commit = str(api.repo_info(repo, revision=revision).sha)
    files = []
    for entry in api.list_repo_tree(repo, recursive=True, revision=commit):
        if isinstance(entry, RepoFile) and is_wanted(Path(entry.path)):
            sha256 = entry.lfs.sha256 if entry.lfs else ""
            files.append(RemoteFile(entry.path, entry.size, sha256, entry.blob_id))
    if not any(file.path.endswith(".safetensors") for file in files):
        raise HubError(f"{repo} has no .safetensors file", "choose a repository that publishes safetensors")
    _remove_other_files(folder, files)
    missing_files = [file for file in files if not file.is_intact(folder / file.path)]
    missing_bytes = sum(file.size for file in missing_files) - _sum_part_sizes(folder, missing_files)
    _require_space(folder, repo, missing_bytes)
    with _report_progress(folder, files), ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        downloads = [pool.submit(_download_file, repo, commit, file, folder) for file in missing_files]
        finished_downloads, _ = wait(downloads, return_when=FIRST_EXCEPTION)
        for finished_download in finished_downloads:
            error = finished_download.exception()
            if error:
                _report_failure_and_exit(error, repo, revision)
    return Snapshot(commit, {file.path: file.size for file in files})


def _download_file(repo: str, commit: str, file: RemoteFile, folder: Path) -> None:
    """Download one file into `folder`, resuming an earlier download, and check its hash.

    Raises:
        HubError: the hash is not the one that the hub lists.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(repo, file.path, revision=commit)
    metadata = get_hf_file_metadata(url)
    is_same_host = urlsplit(metadata.location).netloc == urlsplit(url).netloc
    token = get_token() if is_same_host else None  # a CDN needs no token, since the address of its file is signed
    headers = {"authorization": f"Bearer {token}"} if token else {}
    partial_path = file.part_path(folder)
    partial_path.parent.mkdir(parents=True, exist_ok=True)
    with partial_path.open("ab"):  # creates the file if it is missing
        pass
    with partial_path.open("r+b") as target:
        resume_size = target.seek(0, os.SEEK_END)
        if resume_size > file.size:  # the part is longer than the file, so the download starts again
            resume_size = target.seek(0)
            target.truncate()
        http_get(metadata.location, target, resume_size=resume_size, headers=headers, expected_size=file.size)
    if not file.is_intact(partial_path):
        partial_path.unlink()
        fix = "pull again; if it fails again, the hub or a proxy changes files: do not use this copy"
        raise HubError(f"{repo}: {file.path}: the hash of the download is not the one that the hub lists", fix)
    partial_path.replace(folder / file.path)


def _require_space(folder: Path, repo: str, needed_bytes: int) -> None:
    """Raise a HubError if the disk of `folder` has less free space than `needed_bytes`."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        message = (
            f"{repo} needs {needed_bytes / 2**30:.1f} GiB, but {folder} has only {free_bytes / 2**30:.1f} GiB free"
        )
        raise HubError(message, "free some space, or choose another NANOFLUX_HOME")


def _sum_part_sizes(folder: Path, files: list[RemoteFile]) -> int:
    """The bytes of the unfinished downloads of `files`."""
    parts = [file.part_path(folder) for file in files]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _remove_other_files(folder: Path, files: list[RemoteFile]) -> None:
    """Remove files of earlier downloads that are not among `files`, the files of the commit."""
    kept_paths = {folder / file.path for file in files} | {file.part_path(folder) for file in files}
    for path in list(folder.rglob("*")):
        if path.is_file() and path not in kept_paths:
            path.unlink()


@contextmanager
def _report_progress(folder: Path, files: list[RemoteFile]) -> Iterator[None]:
    """Report twice a second how many bytes are on disk."""
    total_bytes = sum(file.size for file in files)
    download_ended = threading.Event()

    def report_until_end() -> None:
        while not download_ended.wait(REPORT_INTERVAL_S):
            _print_report({"progress": [_measure_size_on_disk(folder, files), total_bytes]})

    _print_report({"progress": [_measure_size_on_disk(folder, files), total_bytes]})
    thread = threading.Thread(target=report_until_end, daemon=True)
    thread.start()
    try:
        yield
    finally:
        download_ended.set()
        thread.join()
    _print_report({"progress": [total_bytes, total_bytes]})


def _measure_size_on_disk(folder: Path, files: list[RemoteFile]) -> int:
    """The bytes of the files on disk, complete or unfinished."""
    size = 0
    for file in files:
        for path in (folder / file.path, file.part_path(folder)):
            try:
                size += path.stat().st_size
                break
            except OSError:  # there is no file at this path, or it was just renamed
                continue
    return size


def describe_failure(error: BaseException, repo: str, revision: str) -> HubError:
    """The error to report for an exception of the hub's client. It contains no redirect addresses, since these may be
    signed.
    """
    import httpx2
    from huggingface_hub import constants, errors

    refusal = guard.find_refusal(error)
    if isinstance(error, HubError):
        return error
    if refusal:
        fix = f"set {guard.ALLOW_HOSTS_VARIABLE}={refusal.args[0]} if this host belongs to your hub or its mirror"
        return HubError(f"{repo}: the download is redirected to {refusal.args[0]}, which is not allowed", fix, 3)
    if isinstance(error, errors.HfHubHTTPError):
        return _describe_refused_request(error, repo, revision)
    if isinstance(error, httpx2.HTTPError):
        fix = f"check the network and HF_ENDPOINT, then pull again: downloaded parts are kept; {IMPORT_ADVICE}"
        return HubError(f"{repo}: the connection to {constants.ENDPOINT} failed: {_first_line(error)}", fix)
    if isinstance(error, OSError) and error.errno:
        return HubError(f"{error.filename or repo}: {error.strerror}", "correct this error, then pull again")
    return HubError(f"{repo}: {type(error).__name__}: {_first_line(error)}", f"pull again; {IMPORT_ADVICE}")


def _describe_refused_request(error: Any, repo: str, revision: str) -> HubError:
    """The error to report for a request that the hub refused or could not answer (an `HfHubHTTPError`)."""
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/{repo}"
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError) and get_token():
        fix = f"accept the licence at {page} with the account of HF_TOKEN, then pull again"
        return HubError(f"{repo} is gated, and the account of your token has not accepted its licence", fix, 3)
    if isinstance(error, errors.GatedRepoError):
        fix = f"accept its licence at {page}, then set HF_TOKEN to a read token of that account"
        return HubError(f"{repo} is gated: only accounts that accepted its licence may download it", fix, 3)
    if isinstance(error, errors.RevisionNotFoundError):
        fix = "correct `revision` in the model's manifest; `nanoflux models show` prints it"
        return HubError(f"{repo} has no revision {revision!r}", fix, 4)
    if isinstance(error, errors.RepositoryNotFoundError):
        fix = f"check the name at {page}; a private repository needs HF_TOKEN"
        return HubError(f"{constants.ENDPOINT} has no repository {repo}, or your account may not see it", fix, 4)
    if status in (401, 403):
        return HubError(f"{repo}: the hub refuses the token (HTTP {status})", "set HF_TOKEN to a valid token", 3)
    fix = f"pull again later: downloaded parts are kept; {IMPORT_ADVICE}"
    return HubError(f"{repo}: the hub answered HTTP {status} ({error.response.reason_phrase})", fix)


def _first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class if there is no message."""
    lines = str(error).splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__


def _report_failure_and_exit(error: BaseException, repo: str, revision: str) -> None:
    """Report an error and exit immediately, without waiting for the other downloads: the next run resumes them."""
    from huggingface_hub import get_token

    failure = describe_failure(error, repo, revision)
    token = get_token()

    def hide_token(text: str) -> str:
        return text.replace(token, "•••") if token else text

    _print_report({"error": hide_token(failure.message), "fix": hide_token(failure.fix), "exit": failure.exit_code})
    os._exit(1)


def _print_report(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)  # noqa: T201 - the parent process reads these lines


def _allow_hub() -> None:
    """Allow connections to the configured hub, and to a configured proxy."""
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT).hostname or ""
    guard.allow(hub, *urllib.request.getproxies().values())
    if hub == PUBLIC_HUB:
        guard.allow(PUBLIC_CDN)


def main(arguments: list[str]) -> None:
    """Download the repository and print the reports; every error is reported as one JSON line."""
    repo, revision, folder = arguments
    _allow_hub()
    guard.install()
    try:
        _print_report(asdict(download(repo, revision, Path(folder))))
    except Exception as error:  # noqa: BLE001 - reported to the parent process
        _report_failure_and_exit(error, repo, revision)


if __name__ == "__main__":
    main(sys.argv[1:])
