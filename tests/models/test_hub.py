"""Pulls from a hub: the hub's real client downloads every catalog model, in its published layout, from a fake hub on
loopback.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from nanoflux_models.errors import DigestMismatchError, ModelNotFoundError, ModelsError, RefusedDownloadError
from nanoflux_models.hub import is_wanted
from nanoflux_models.manifest import CATALOG, HubSource, load_manifest, read_manifest
from nanoflux_models.record import read_record
from nanoflux_models.weights import list_installed, pull, verify
from tests.models.conftest import Hub, Repository

COMMON_FILES = (
    "config.json",
    "generation_config.json",
    "README.md",
    "tokenizer.json",
    "tokenizer_config.json",
    ".gitattributes",
)
"""The files that every repository has."""
QWEN_FILES = (*COMMON_FILES, "LICENSE", "merges.txt", "vocab.json")
GEMMA_FILES = (
    *COMMON_FILES, "added_tokens.json", "preprocessor_config.json", "processor_config.json", "special_tokens_map.json",
    "tokenizer.model",
)  # fmt: skip
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "google/gemma-3-4b-it": (2, (*GEMMA_FILES, "chat_template.json")),
    "google/medgemma-4b-it": (2, (*GEMMA_FILES, "chat_template.jinja")),
    "google/medgemma-1.5-4b-it": (2, (*GEMMA_FILES, "chat_template.jinja")),
    "google/gemma-4-12B-it": (1, (*COMMON_FILES, "chat_template.jinja", "processor_config.json")),
    "Qwen/Qwen3-32B-AWQ": (4, QWEN_FILES),
    "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8": (4, QWEN_FILES),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": (4, (*COMMON_FILES, "LICENSE", "figures/benchmark.jpg")),
    "openai/gpt-oss-20b": (3, (*COMMON_FILES, "LICENSE", "USAGE_POLICY", "chat_template.jinja",
                               "special_tokens_map.json", "metal/model.bin", "original/config.json",
                               "original/dtypes.json", "original/model.safetensors")),
    "Qwen/Qwen3-Embedding-0.6B": (1, (*QWEN_FILES, "1_Pooling/config.json", "modules.json",
                                      "config_sentence_transformers.json")),
}  # fmt: skip
"""For each repository of the catalog: its number of weight shards, and its other files."""
GEMMA_REPO = "google/gemma-3-4b-it"


def make_files(shards: int, others: tuple[str, ...], shard_bytes: int = 70_000) -> dict[str, bytes]:
    """Tiny files that are named as in a repository: `shards` safetensors files with an index, and the `others`."""
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    if shards == 1:
        names = ["model.safetensors"]
    files = {name: bytes([number]) * shard_bytes for number, name in enumerate(names)}
    if shards > 1:
        files["model.safetensors.index.json"] = json.dumps({"weight_map": {name: name for name in names}}).encode()
    return files | {name: f"content of {name}\n".encode() for name in others}


def hash_wanted_files(files: dict[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file that a pull downloads, by name."""
    return {name: sha256(content).hexdigest() for name, content in files.items() if is_wanted(Path(name))}


def hash_installed_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each installed file, by name, from the record of the weights."""
    return {name: entry.sha256 for name, entry in read_record(folder).files.items()}


@pytest.fixture
def gemma_repository(hub: Hub) -> Repository:
    """Gemma's gated repository; the account of the token `hf_accepted` has accepted its licence."""
    hub.tokens = {"hf_accepted": True, "hf_stranger": False}
    return hub.add(GEMMA_REPO, make_files(*LAYOUTS[GEMMA_REPO]), gated=True)


HUB_MODELS = [path.stem for path in sorted(CATALOG.glob("*.toml")) if isinstance(read_manifest(path).source, HubSource)]
"""The models of the catalog whose source is a hub."""


@pytest.mark.parametrize("name", HUB_MODELS)
def test_pull_downloads_every_wanted_file_of_a_catalog_model(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    manifest = load_manifest(name, tmp_path)
    assert isinstance(manifest.source, HubSource)
    files = make_files(*LAYOUTS[manifest.source.repo])
    hub.tokens = {"hf_accepted": True}
    repository = hub.add(manifest.source.repo, files, gated=manifest.gated)
    if manifest.gated:
        monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    folder = pull(name, tmp_path)
    assert hash_installed_files(folder) == hash_wanted_files(files) and verify(name, tmp_path) == []
    source = read_record(folder).source
    assert (source["revision"], source["commit"]) == ("main", repository.branches["main"])
    unwanted_prefixes = (".", "metal", "original", "figures")
    assert not any(path.startswith(unwanted_prefixes) for path in read_record(folder).files)
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [name]


def test_error_on_a_gated_pull_without_a_token_names_the_licence_page(
    hub: Hub, gemma_repository: Repository, tmp_path: Path
) -> None:
    with pytest.raises(RefusedDownloadError, match="gated") as caught:
        pull("gemma-3-4b-it", tmp_path)
    assert f"{hub.url}/{GEMMA_REPO}" in caught.value.fix and "HF_TOKEN" in caught.value.fix
    assert caught.value.exit_code == 3 and list_installed(tmp_path) == []


def test_error_on_an_unaccepted_licence_names_its_page_but_not_the_token(
    hub: Hub, gemma_repository: Repository, tmp_path: Path
) -> None:
    environment = {**os.environ, "HF_TOKEN": "hf_stranger"}
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(tmp_path), "models", "pull", "gemma-3-4b-it"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    output = result.stdout + result.stderr
    assert result.returncode == 3 and "has not accepted its licence" in output and f"{hub.url}/{GEMMA_REPO}" in output
    assert "hf_stranger" not in output and "\x1b" not in output and "Traceback" not in output


def test_error_on_an_invalid_token_names_the_cause_but_not_the_token(
    gemma_repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(RefusedDownloadError, match="refuses the token") as caught:
        pull("gemma-3-4b-it", tmp_path)
    assert "hf_expired" not in str(caught.value)


def test_token_is_sent_only_to_the_hub(
    hub: Hub, gemma_repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    pull("gemma-3-4b-it", tmp_path)
    cdn_requests = [
        request for request in hub.requests if "/resolve/" not in request.path and "/api/" not in request.path
    ]
    assert len(cdn_requests) == 2 and not any(request.token for request in cdn_requests)
    assert {request.token for request in hub.requests if request not in cdn_requests} == {"hf_accepted"}


def write_manifest(home: Path, revision: str, pinned_hashes: str = "") -> None:
    """Write the manifest of a model `own` whose source is the repository lab/own at `revision`. `pinned_hashes` is a
    line of TOML with the SHA-256 of files.
    """
    (home / "models").mkdir(parents=True, exist_ok=True)
    (home / "models" / "own.toml").write_text(
        'name = "own"\nkind = "chat"\ndescription = "d"\nlicence = "MIT"\nparameters = 1\ncontext = 1\n'
        f'[source]\nkind = "hub"\nrepo = "lab/own"\nrevision = "{revision}"\n{pinned_hashes}'
    )


OWN_FILES = make_files(2, COMMON_FILES)
"""The files of the repository lab/own."""


def test_pinned_revision_is_pulled_and_an_unknown_one_is_refused(hub: Hub, tmp_path: Path) -> None:
    repository = hub.add("lab/own", OWN_FILES)
    revision = repository.branches["main"]
    repository.push({**OWN_FILES, "config.json": b"changed since"})
    write_manifest(tmp_path, revision)
    assert hash_installed_files(pull("own", tmp_path)) == hash_wanted_files(OWN_FILES)
    write_manifest(tmp_path, "v9")
    (tmp_path / "weights" / "own" / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lab/own has no revision 'v9'"):
        pull("own", tmp_path)


def test_error_on_a_missing_repository_names_repository_and_hub(hub: Hub, tmp_path: Path) -> None:
    write_manifest(tmp_path, "main")
    with pytest.raises(ModelNotFoundError, match="no repository lab/own") as caught:
        pull("own", tmp_path)
    assert hub.url in str(caught.value)


def test_download_uses_one_commit_even_if_the_branch_moves(hub: Hub, tmp_path: Path) -> None:
    repository = hub.add("lab/own", OWN_FILES)
    first_commit = repository.branches["main"]
    later_files = {name: content + b"later" for name, content in OWN_FILES.items()}
    hub.on_file = lambda _: repository.push(later_files)
    write_manifest(tmp_path, "main")
    folder = pull("own", tmp_path)
    assert read_record(folder).source["commit"] == first_commit != repository.branches["main"]
    assert hash_installed_files(folder) == hash_wanted_files(OWN_FILES)


# The hub lists the large file with its SHA-256, and the small file with git's SHA-1.
@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "config.json"])
def test_download_with_a_wrong_hash_is_refused_and_removed(hub: Hub, tmp_path: Path, name: str) -> None:
    repository = hub.add("lab/own", OWN_FILES, corrupt_file=name)
    write_manifest(tmp_path, "main")
    with pytest.raises(ModelsError, match=f"{re.escape(name)}: the hash of the download is not"):
        pull("own", tmp_path)
    assert list_installed(tmp_path) == []
    repository.corrupt_file = ""
    assert hash_installed_files(pull("own", tmp_path)) == hash_wanted_files(OWN_FILES)


def test_pinned_file_with_a_different_hash_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add("lab/own", OWN_FILES)
    write_manifest(tmp_path, "main", f'sha256 = {{ "config.json" = "{"0" * 64}" }}\n')
    with pytest.raises(DigestMismatchError, match=r"config\.json: SHA-256 is"):
        pull("own", tmp_path)
    assert list((tmp_path / "weights").iterdir()) == []


def test_pull_removes_files_of_an_earlier_commit(hub: Hub, tmp_path: Path) -> None:
    repository = hub.add("lab/own", {**OWN_FILES, "old.json": b"{}"}, corrupt_file="model-00002-of-00002.safetensors")
    write_manifest(tmp_path, "main")
    with pytest.raises(ModelsError, match="the hash of the download"):
        pull("own", tmp_path)
    repository.corrupt_file = ""
    later_files = {**OWN_FILES, "config.json": b"changed since"}
    repository.push(later_files)
    assert hash_installed_files(pull("own", tmp_path)) == hash_wanted_files(later_files)


def test_download_larger_than_the_disk_is_refused_before_it_starts(hub: Hub, tmp_path: Path) -> None:
    hub.add("lab/own", OWN_FILES, listed_sizes={"model-00001-of-00002.safetensors": 1 << 60})
    write_manifest(tmp_path, "main")
    with pytest.raises(ModelsError, match=r"needs .* GiB, but .* GiB free"):
        pull("own", tmp_path)
    assert hub.list_downloads() == []


def test_repository_with_only_pickled_weights_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add("lab/own", {"config.json": b"{}", "pytorch_model.bin": b"pickled" * 20_000})
    write_manifest(tmp_path, "main")
    with pytest.raises(ModelsError, match=r"no \.safetensors file"):
        pull("own", tmp_path)
    assert not any("pytorch_model" in path for path in hub.list_downloads())


def test_pull_resumes_at_the_byte_that_a_killed_pull_reached(hub: Hub, tmp_path: Path) -> None:
    files = make_files(1, COMMON_FILES, shard_bytes=25 << 20)
    repository = hub.add("lab/own", files, stall_after=15 << 20)
    write_manifest(tmp_path, "main")
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(tmp_path), "models", "pull", "own"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    partial_folder = tmp_path / "weights" / ".own.partial"
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in partial_folder.glob("model.safetensors.*.part")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list_installed(tmp_path) == []
    (part,) = partial_folder.glob("model.safetensors.*.part")
    downloaded_bytes = part.stat().st_size
    hub.stop_stalling.set()
    repository.stall_after = 0
    hub.requests.clear()
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    ranges = [(request.path.rpartition("/")[2], request.range) for request in hub.requests if request.range]
    assert ranges == [("model.safetensors", f"bytes={downloaded_bytes}-")] and downloaded_bytes >= 1 << 20
    assert hash_installed_files(tmp_path / "weights" / "own") == hash_wanted_files(files)
    assert f"downloading own {downloaded_bytes >> 20}/25 MiB" in result.stderr and "\r" not in result.stderr


def test_pull_resumes_a_download_after_a_broken_connection(hub: Hub, tmp_path: Path) -> None:
    files = make_files(1, COMMON_FILES, shard_bytes=12 << 20)
    hub.add("lab/own", files, stall_after=11 << 20)
    hub.stop_stalling.set()  # the server closes the connection in the middle of the file
    write_manifest(tmp_path, "main")
    assert hash_installed_files(pull("own", tmp_path)) == hash_wanted_files(files)
    assert any(request.range for request in hub.requests)


def test_pull_reaches_only_the_configured_hub(hub: Hub, tmp_path: Path) -> None:
    hub.add("lab/own", OWN_FILES)
    hub.cdn = "http://cdn.example.org"
    write_manifest(tmp_path, "main")
    with pytest.raises(
        RefusedDownloadError, match=r"is redirected to cdn\.example\.org, which is not allowed"
    ) as caught:
        pull("own", tmp_path)
    assert "NANOFLUX_ALLOW_HOSTS=cdn.example.org" in caught.value.fix


def test_error_on_an_unreachable_hub_names_its_url(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    write_manifest(tmp_path, "main")
    with pytest.raises(ModelsError, match=r"connection to http://127\.0\.0\.1:1 failed") as caught:
        pull("own", tmp_path)
    assert "models import" in caught.value.fix
