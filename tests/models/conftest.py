"""A fake model hub on loopback, with the routes of the public hub's API that the hub's client uses:

- `/api/models/OWNER/NAME/revision/REVISION` describes a commit;
- `/api/models/OWNER/NAME/tree/COMMIT` lists the files of a commit;
- `/OWNER/NAME/resolve/COMMIT/FILE` sends a file, or redirects to `/OWNER/NAME/COMMIT/FILE` on the CDN if it is large.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LFS_BYTES = 1 << 16
"""Files of at least this size are stored in LFS: they are listed with their SHA-256, and the CDN sends them."""


def hash_commit(files: dict[str, bytes]) -> str:
    """The hash that identifies the commit with these files: a SHA-1 of their names and contents."""
    hash_by_name = {name: hash_blob(content) for name, content in sorted(files.items())}
    return hashlib.sha1(json.dumps(hash_by_name).encode()).hexdigest()


def hash_blob(content: bytes) -> str:
    """The SHA-1 that git computes for a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """One repository: the files of each commit, the commit of each branch, and failures to simulate.

    `corrupt_file` is sent with one byte changed. `listed_sizes` has wrong sizes to list, by file name. The connection
    hangs after `stall_after` bytes of a large file (0: it does not hang).
    """

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: bool = False
    corrupt_file: str = ""
    listed_sizes: dict[str, int] = field(default_factory=dict)
    stall_after: int = 0

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files to a branch, and return its hash."""
        commit = hash_commit(files)
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


@dataclass
class Request:
    """A request that the hub or its CDN received; `range` and `token` are "" if the request has none."""

    method: str
    path: str
    range: str
    token: str


@dataclass
class Hub:
    """The state of a fake hub: its URL and that of its CDN, repositories by name, and received requests.

    `tokens` contains the valid tokens, each with whether its account accepted the licences. `on_file` is called with
    the path of each file before the file is sent. When `stop_stalling` is set, hanging connections are closed.
    """

    url: str = ""
    cdn: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: dict[str, bool] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    on_file: Callable[[str], object] | None = None
    stop_stalling: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, files: dict[str, bytes], **settings: Any) -> Repository:
        """Add a repository with these files on its main branch; `settings` are fields of `Repository`."""
        repository = self.repositories[repo] = Repository({}, {}, **settings)
        repository.push(files)
        return repository

    def list_downloads(self) -> list[str]:
        """The paths of all requests for a file's content."""
        file_requests = [
            request for request in self.requests if request.method == "GET" and "/api/" not in request.path
        ]
        return [unquote(request.path) for request in file_requests]


def _make_handler(hub: Hub, is_cdn: bool) -> type[BaseHTTPRequestHandler]:
    """The class that answers requests to the hub, or to its CDN if `is_cdn`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer_request()

        def do_GET(self) -> None:
            self._answer_request()

        def _answer_request(self) -> None:
            """Record the request, and answer it according to its path, token and repository."""
            path = urlsplit(self.path).path
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            hub.requests.append(Request(self.command, path, self.headers.get("Range", ""), token))
            segments = unquote(path).strip("/").split("/")
            if is_cdn:
                return self._send_file("/".join(segments[:2]), segments[2], "/".join(segments[3:]))
            if token and token not in hub.tokens:
                return self._refuse(401, "", "Invalid credentials in Authorization header")
            is_api_request = segments[0] == "api"
            repo = "/".join(segments[2:4] if is_api_request else segments[:2])
            repository = hub.repositories.get(repo)
            if repository is None:
                return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            revision = segments[5] if is_api_request else segments[3]
            commit = repository.branches.get(revision, revision)
            if commit not in repository.commits:
                return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            if is_api_request:
                return self._send_listing(repo, segments[4], repository.commits[commit], commit)
            if repository.gated and not hub.tokens.get(token):
                text = f"Access to model {repo} is restricted for {token or 'you'}. \x1b[31mPlease log in.\x1b[0m"
                return self._refuse(403 if token else 401, "GatedRepo", text)
            return self._answer_file_request(repo, commit, "/".join(segments[4:]))

        def _send_listing(self, repo: str, kind: str, files: dict[str, bytes], commit: str) -> None:
            """Describe a commit if `kind` is "revision", else list its folders and files."""
            if kind == "revision":
                body: Any = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            else:
                folders = sorted({name.rpartition("/")[0] for name in files} - {""})
                body = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders]
                listed_sizes = hub.repositories[repo].listed_sizes
                body += [self._make_entry(name, content, listed_sizes) for name, content in sorted(files.items())]
            self._send(json.dumps(body).encode(), {"Content-Type": "application/json"})

        @staticmethod
        def _make_entry(name: str, content: bytes, listed_sizes: dict[str, int]) -> dict[str, Any]:
            """The entry of a file in a commit's listing."""
            size = listed_sizes.get(name, len(content))
            entry: dict[str, Any] = {"type": "file", "oid": hash_blob(content), "size": size, "path": name}
            if len(content) >= LFS_BYTES:
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            return entry

        def _answer_file_request(self, repo: str, commit: str, name: str) -> None:
            """Send a small file, or redirect to a large file on the CDN."""
            content = hub.repositories[repo].commits[commit].get(name)
            if content is None:
                return self._refuse(404, "EntryNotFound", "Entry not found")
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hash_blob(content)}"'}
            if len(content) >= LFS_BYTES:
                headers |= {
                    "X-Linked-Size": str(len(content)),
                    "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                    "Location": f"{hub.cdn}/{repo}/{commit}/{name}?signature=s",
                }
                return self._send(b"", headers, 302)
            if self.command == "HEAD":
                return self._send(content, headers)
            return self._send_file(repo, commit, name)

        def _send_file(self, repo: str, commit: str, name: str) -> None:
            """Send the requested range of a file, and simulate the repository's failures."""
            repository = hub.repositories[repo]
            content = repository.commits[commit][name]
            if hub.on_file:
                hub.on_file(name)
            if name == repository.corrupt_file:
                content = content[:-1] + bytes([content[-1] ^ 1])  # the last byte is changed
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            stall_after = repository.stall_after if len(content) >= LFS_BYTES else 0
            self._send(content[start:], headers, 206 if start else 200, stall_after)

        def _send(self, body: bytes, headers: dict[str, str], status: int = 200, stall_after: int = 0) -> None:
            """Send a response. If `stall_after` is set, send only that number of bytes; then the connection hangs."""
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            try:
                self.wfile.write(body[:stall_after] if stall_after else body)
                if stall_after:
                    self.wfile.flush()
                    hub.stop_stalling.wait(120)
                    self.close_connection = True
            except OSError:
                self.close_connection = True

        def _refuse(self, status: int, code: str, text: str) -> None:
            """Send an error in the public hub's format."""
            headers = {"X-Error-Message": text.replace("\x1b", "")}  # a header cannot contain control characters
            if code:
                headers["X-Error-Code"] = code
            self._send(json.dumps({"error": text}).encode(), headers, status)

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub and its CDN on loopback ports, and the environment that points the client to them."""
    hub = Hub()
    servers = []
    for is_cdn in (False, True):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(hub, is_cdn))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
    hub.url, hub.cdn = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.stop_stalling.set()
    for server in servers:
        server.shutdown()
        server.server_close()
