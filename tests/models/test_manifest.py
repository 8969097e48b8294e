"""Manifests: those of the catalog are valid, and an error in a manifest names the file and the key."""

import re
from pathlib import Path

import pytest

from nanoflux_local.paths import Home
from nanoflux_local.run.configs import load_profile
from nanoflux_models.errors import ManifestError, ModelNotFoundError
from nanoflux_models.manifest import CATALOG, WheelSource, list_manifests, load_manifest

MINIMAL_MANIFEST = """name = "own"
kind = "chat"
description = "mine"
licence = "MIT"
parameters = 10
context = 128
[source]
kind = "hub"
repo = "me/own"
revision = "abc"
"""


def write_manifest(home: Path, text: str, name: str = "own") -> Path:
    """Write a user's manifest into a home; return its path."""
    path = home / "models" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_catalog_manifests_are_valid_and_complete(tmp_path: Path) -> None:
    manifests = list_manifests(tmp_path)
    assert {path.stem for path in CATALOG.glob("*.toml")} == {manifest.name for manifest in manifests}
    assert {"smollm2-135m", "all-minilm-l6-v2"} <= {manifest.name for manifest in manifests}
    for manifest in manifests:
        assert manifest.licence and manifest.description and manifest.memory
        assert (manifest.lora is not None) == (manifest.kind == "chat")
        thresholds = manifest.embedder and manifest.embedder.thresholds
        assert thresholds is None or thresholds.calibrated


def test_manifest_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, MINIMAL_MANIFEST)
    path.write_text(MINIMAL_MANIFEST, "utf-8-sig")
    assert load_manifest("own", tmp_path).licence == "MIT"


def test_manifest_nested_too_deeply_is_refused_as_invalid_toml(tmp_path: Path) -> None:
    write_manifest(tmp_path, "a = " + "[" * 100_000)
    with pytest.raises(ManifestError, match=r"own\.toml: not TOML"):
        load_manifest("own", tmp_path)


KV_CACHE_SHAPES = {
    "gemma-3-4b-it": (34, 4, 256),
    "medgemma-4b-it": (34, 4, 256),
    "medgemma-1.5-4b-it": (34, 4, 256),
    "qwen3-32b-awq": (64, 8, 128),
    "qwen3-30b-a3b-instruct-2507-fp8": (48, 4, 128),
    "gpt-oss-20b": (24, 8, 64),
    "deepseek-r1-distill-qwen-14b": (48, 8, 128),
    "qwen3-embedding-0.6b": (28, 8, 128),
    "smollm2-135m": (30, 3, 64),
}
"""The number of layers, the number of key-value heads per layer, and the head size, by model."""


@pytest.mark.parametrize("name", KV_CACHE_SHAPES)
def test_kv_bytes_per_token_follow_from_the_architecture(tmp_path: Path, name: str) -> None:
    layers, kv_heads, head_size = KV_CACHE_SHAPES[name]
    memory = load_manifest(name, tmp_path).memory
    # Keys and values, with two bytes per number.
    assert memory and memory.kv_bytes_per_token == layers * kv_heads * head_size * 2 * 2


@pytest.mark.parametrize("name", ["gemma-3-4b-it", "medgemma-4b-it", "medgemma-1.5-4b-it"])
def test_lora_targets_of_a_multimodal_model_match_only_its_language_model(tmp_path: Path, name: str) -> None:
    manifest = load_manifest(name, tmp_path)
    assert manifest.lora and manifest.gated and not manifest.chat.system_role
    (target,) = manifest.lora.targets
    assert re.fullmatch(target, "model.language_model.layers.0.self_attn.q_proj")
    assert not re.fullmatch(target, "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj")


def test_models_of_the_embedded_profile_come_from_a_package_index(tmp_path: Path) -> None:
    """The default profile must work on a machine that reaches a package index, but not the Hugging Face Hub."""
    models = [endpoint["model"] for endpoint in load_profile("embedded", Home(tmp_path))["endpoints"].values()]
    assert models
    for model in models:
        assert isinstance(load_manifest(model, tmp_path).source, WheelSource)


def test_users_manifest_replaces_the_packaged_one(tmp_path: Path) -> None:
    write_manifest(tmp_path, MINIMAL_MANIFEST)
    write_manifest(tmp_path, MINIMAL_MANIFEST.replace('"own"', '"smollm2-135m"', 1), "smollm2-135m")
    assert load_manifest("own", tmp_path).context == 128
    assert load_manifest("smollm2-135m", tmp_path).description == "mine"
    names = [manifest.name for manifest in list_manifests(tmp_path)]
    assert names == sorted(set(names)) and "own" in names


@pytest.mark.parametrize(
    ("text", "expected_message"),
    [
        (MINIMAL_MANIFEST + "branch = 1\n", "source.branch': unknown key"),
        ("colour = 1\n" + MINIMAL_MANIFEST, "colour': unknown key"),
        (MINIMAL_MANIFEST + "[chat]\nsystem_rule = true\n", "chat.system_rule': unknown key"),
        (MINIMAL_MANIFEST + "[parallel]\ngpus = 2\n", "parallel.gpus': unknown key"),
        (MINIMAL_MANIFEST + "[parallel]\ntensor = 3\nnodes = 2\n", "cannot be spread evenly"),
        (MINIMAL_MANIFEST.replace("128", "-1"), "context'"),
        (MINIMAL_MANIFEST.replace('"hub"', '"ftp"'), "source'"),
        (MINIMAL_MANIFEST.replace('revision = "abc"\n', ""), "source.revision'"),
        (MINIMAL_MANIFEST.replace('"chat"', '"embedder"'), "embedder"),
        (MINIMAL_MANIFEST.replace('name = "own"', 'name = "other"'), "name'"),
        (
            MINIMAL_MANIFEST + "[embedder]\ndimensions = 3\n[embedder.thresholds]\nquestion = {}\nsolution = {}\n",
            "default",
        ),
        (MINIMAL_MANIFEST + "]", "not TOML"),
    ],
)
def test_manifest_error_names_file_and_key(tmp_path: Path, text: str, expected_message: str) -> None:
    path = write_manifest(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        load_manifest("own", tmp_path)
    assert str(path) in caught.value.message and expected_message in caught.value.message
    assert caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["nothing", "../secret", "", "A"])
def test_unknown_model_error_lists_the_models(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="smollm2-135m") as caught:
        load_manifest(name, tmp_path)
    assert caught.value.exit_code == 4


def test_reasoning_limit_comes_from_the_chat_table_or_the_sampling_table(tmp_path: Path) -> None:
    qwen = load_manifest("qwen3-32b-awq", tmp_path)
    assert qwen.reasoning_limit == qwen.chat.reasoning_tokens == 8192
    chat_without_tokens = qwen.chat.model_copy(update={"reasoning_tokens": 0})
    sampling = qwen.sampling.model_copy(update={"max_tokens": 3000})
    assert qwen.model_copy(update={"chat": chat_without_tokens, "sampling": sampling}).reasoning_limit == 3000
    assert load_manifest("gemma-3-4b-it", tmp_path).reasoning_limit == 0
