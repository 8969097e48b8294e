"""Manifests: the whole catalog loads, and a mistake is named by file and key."""

from pathlib import Path

import pytest

from nanoflux_models.errors import ManifestError, ModelNotFoundError
from nanoflux_models.manifest import CATALOG, WheelSource, list_manifests, load_manifest

MINIMAL = """name = "own"
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


def write(home: Path, text: str, name: str = "own") -> Path:
    path = home / "models" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_the_whole_catalog_loads(tmp_path: Path) -> None:
    manifests = list_manifests(tmp_path)
    assert {path.stem for path in CATALOG.glob("*.toml")} == {manifest.name for manifest in manifests}
    assert {"smollm2-135m", "all-minilm-l6-v2"} <= {manifest.name for manifest in manifests}
    for manifest in manifests:
        assert manifest.licence and manifest.description and manifest.memory
        assert (manifest.lora is not None) == (manifest.kind == "chat")


def test_the_embedded_models_come_from_a_package_index(tmp_path: Path) -> None:
    for name in ("smollm2-135m", "all-minilm-l6-v2"):
        assert isinstance(load_manifest(name, tmp_path).source, WheelSource)


def test_a_users_manifest_counts_and_hides_the_packaged_one(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    write(tmp_path, MINIMAL.replace('"own"', '"smollm2-135m"', 1), "smollm2-135m")
    assert load_manifest("own", tmp_path).context == 128
    assert load_manifest("smollm2-135m", tmp_path).description == "mine"
    names = [manifest.name for manifest in list_manifests(tmp_path)]
    assert names == sorted(set(names)) and "own" in names


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (MINIMAL + "branch = 1\n", "source.branch': unknown key"),
        ("colour = 1\n" + MINIMAL, "colour': unknown key"),
        (MINIMAL + "[chat]\nsystem_rule = true\n", "chat.system_rule': unknown key"),
        (MINIMAL.replace("128", "-1"), "context'"),
        (MINIMAL.replace('"hub"', '"ftp"'), "source'"),
        (MINIMAL.replace('revision = "abc"\n', ""), "source.revision'"),
        (MINIMAL.replace('"chat"', '"embedder"'), "embedder"),
        (MINIMAL.replace('name = "own"', 'name = "other"'), "name'"),
        (MINIMAL + "[embedder]\ndimensions = 3\n[embedder.thresholds]\nquestion = {}\nsolution = {}\n", "default"),
        (MINIMAL + "]", "not TOML"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        load_manifest("own", tmp_path)
    assert str(path) in caught.value.message and key in caught.value.message
    assert caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["nothing", "../secret", "", "A"])
def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="smollm2-135m") as caught:
        load_manifest(name, tmp_path)
    assert caught.value.exit_code == 4
