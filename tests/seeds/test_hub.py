"""Imports from the model hub, here a local server: each needs permission, and is complete or changes nothing."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow
import pyarrow.parquet
import pytest

from nanoflux_local.cli.main import main
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.seeds.benchmarks.base import list_importable_benchmarks
from nanoflux_local.seeds.reading import read_benchmark
from nanoflux_models.guard import ALLOW_HOSTS_VARIABLE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The commit of the dataset on the hub."""


def _make_parquet(split: str) -> bytes:
    """A Parquet file with three rows in GSM8K's format."""
    file = io.BytesIO()
    rows = [{"question": f"What is {number} + 1, {split}?", "answer": f"#### {number + 1}"} for number in range(3)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


FILES = {
    "README.md": b"# GSM8K",
    "main/train-00000-of-00001.parquet": _make_parquet("train"),
    "main/test-00000-of-00001.parquet": _make_parquet("test"),
    "socratic/train-00000-of-00001.parquet": b"not part of the benchmark",
}
"""The files of the dataset on the hub, by path."""


class Hub(ThreadingHTTPServer):
    """Serves one dataset to the hub's client, and records every requested path. If `redirect_url` is set,
    downloads are redirected to it.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = files
        self.requested_paths: list[str] = []
        self.redirect_url = ""
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class HubHandler(BaseHTTPRequestHandler):
    """Answers the requests that the hub's client sends when it downloads a dataset."""

    server: Hub

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.requested_paths.append(path)
        if path.startswith("/api/datasets/openai/gsm8k/revision/"):
            siblings = [{"rfilename": name} for name in self.server.files]
            return self._send(json.dumps({"id": "openai/gsm8k", "sha": COMMIT, "siblings": siblings}).encode())
        if path.startswith("/api/datasets/openai/gsm8k/tree/"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in self.server.files.items()]  # fmt: skip
            return self._send(json.dumps(tree).encode())
        if self.server.redirect_url and "/resolve/" in path:
            return self._send(b"x" * 100, self.server.redirect_url)
        content = self.server.files.get(path.removeprefix(f"/datasets/openai/gsm8k/resolve/{COMMIT}/"))
        return self._send(content) if content is not None else self.send_error(404)

    do_HEAD = do_GET

    def _send(self, body: bytes, redirect_url: str = "") -> None:
        """Send `body`, or a redirect if `redirect_url` is given."""
        self.send_response(302 if redirect_url else 200)
        if redirect_url:
            self.send_header("Location", redirect_url)
            self.send_header("X-Linked-Size", str(len(body)))
            self.send_header("X-Linked-ETag", '"abc"')
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A running hub with `FILES`."""
    server = Hub(dict(FILES))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def nanoflux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """A function that runs `nanoflux` in this process, and returns the exit code and the output."""
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in (ALLOW_HOSTS_VARIABLE, "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)

    def run_command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_info:
            main(list(arguments))
        return int(exit_info.value.code or 0), "".join(capfd.readouterr())

    return run_command


def test_hub_import_equals_import_of_files(nanoflux, hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    exit_code, output = nanoflux("data", "import", "gsm8k", "--hub")
    assert exit_code == 0, output
    assert "gsm8k: 6 items" in output and "imported" in output
    downloaded_paths = [path for path in hub.requested_paths if "resolve" in path]
    assert not any("README" in path or "socratic" in path for path in downloaded_paths)
    for name in ("main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FILES[name])
    with LedgerView(tmp_path / "home" / "ledger.db") as view:
        assert [dataset.source for dataset in view.datasets()] == [f"openai/gsm8k@{COMMIT}"]
        items = read_benchmark("gsm8k", sorted((tmp_path / "main").iterdir())).items
        assert view.items("gsm8k") == [item.seed for item in items]
    _, output = nanoflux("data", "import", "gsm8k", "--hub")
    assert output.count("already imported, nothing changed") == 1
    assert [path.name for path in (tmp_path / "home").glob(".hub-*")] == [], "a temporary folder was left behind"


def test_hub_import_without_permission_names_the_setting(nanoflux):
    exit_code, output = nanoflux("data", "import", "medqa", "--hub")
    assert exit_code == 3
    assert "medqa is published on huggingface.co (GBaker/MedQA-USMLE-4-options)" in output
    assert f"{ALLOW_HOSTS_VARIABLE}=huggingface.co" in output and "HF_ENDPOINT" in output


def test_error_on_a_redirect_to_another_host_names_the_host(nanoflux, hub, monkeypatch):
    hub.redirect_url = "http://192.0.2.1/large-file"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv(ALLOW_HOSTS_VARIABLE, "mirror.example")
    exit_code, output = nanoflux("data", "import", "gsm8k", "--hub")
    assert exit_code == 3, output
    assert (
        "openai/gsm8k redirects to 192.0.2.1" in output and f"{ALLOW_HOSTS_VARIABLE}=mirror.example,192.0.2.1" in output
    )


@pytest.mark.parametrize(
    ("files", "expected_code", "message"),
    [
        ({**FILES, "main/test-00000-of-00001.parquet": b"no table"}, 2, "not a Parquet file"),
        ({"README.md": b"empty"}, 1, "openai/gsm8k could not be fetched"),
    ],
    ids=["malformed file", "no files"],
)
def test_failed_hub_import_stores_nothing(nanoflux, hub, monkeypatch, tmp_path, files, expected_code, message):
    hub.files = files
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    exit_code, output = nanoflux("data", "import", "gsm8k", "--hub")
    assert exit_code == expected_code and message in output
    ledger = tmp_path / "home" / "ledger.db"
    if ledger.exists():
        with LedgerView(ledger) as view:
            assert view.datasets() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("liveqa", "--hub"), "github.com/abachaa/LiveQA"),
        (("pharmacy", "--hub"), "'pharmacy' is not on the Hugging Face Hub"),
        (("gsm8k",), "Pass either the files of DATASET or --hub"),
        (("gsm8k", "x.jsonl", "--hub"), "Pass either the files of DATASET or --hub"),
        (("gsm8k", "x.jsonl", "--revision", "main"), "Pass either the files of DATASET or --hub"),
    ],
)
def test_invalid_hub_options_are_usage_errors(nanoflux, arguments, message):
    exit_code, output = nanoflux("data", "import", *arguments)
    assert exit_code == 2 and message in output


@pytest.mark.parametrize("benchmark", list_importable_benchmarks().values(), ids=list_importable_benchmarks())
def test_benchmark_has_either_a_hub_dataset_or_a_homepage(benchmark):
    assert bool(benchmark.hub) != bool(benchmark.homepage)
