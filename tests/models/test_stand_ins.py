"""Each stand-in loads as the class of its architecture, and has the hub's file layout and a realistic chat template."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from nanoflux_models.errors import ManifestError
from nanoflux_models.manifest import CATALOG, read_manifest
from nanoflux_models.stand_ins import FAMILIES, find_family, make_stand_in, write_without_weights

TOKENIZER_TEXTS = ["What is the number? QUESTION: SOLUTION: ANSWER: 12"] * 3
"""The texts on which the stand-ins' tokenizers are trained."""


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def stand_in(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A stand-in of each family: its architecture and its folder."""
    architecture = request.param
    return architecture, make_stand_in(FAMILIES[architecture], tmp_path_factory.mktemp("stand-in"), TOKENIZER_TEXTS)


def test_stand_in_loads_as_its_class_and_generates_text(stand_in: tuple[str, Path]) -> None:
    architecture, folder = stand_in
    family = FAMILIES[architecture]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    assert type(model).__name__ == architecture and model.dtype is torch.bfloat16
    prompt_ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 你 12?"}], add_generation_prompt=True, return_dict=False
    )
    assert "What is 你 12?" in tokenizer.decode(prompt_ids)
    reply_ids = model.generate(torch.tensor([prompt_ids]), max_new_tokens=6, do_sample=False)[0, len(prompt_ids) :]
    assert len(tokenizer.decode(reply_ids)) >= 6
    scripted_reply = family.render_reply("Two steps.", "ANSWER: 3")
    scripted_ids = tokenizer(scripted_reply, add_special_tokens=False)["input_ids"]
    assert scripted_ids[-1] in {family.control_tokens[end] for end in family.end_tokens}
    assert "ANSWER: 3" in tokenizer.decode(scripted_ids)


def test_stand_in_has_the_hubs_layout(stand_in: tuple[str, Path]) -> None:
    architecture, folder = stand_in
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = list(folder.glob("*.safetensors"))
    tensor_names: set[str] = set()
    for shard in shards:
        tensor_names.update(safe_open(shard, "pt").keys())
    assert len(shards) >= 2 and set(index["weight_map"]) == tensor_names
    assert json.loads((folder / "config.json").read_text())["architectures"] == [architecture]


def test_gemma_stand_in_has_a_vision_model_a_minimal_config_and_a_strict_template(tmp_path: Path) -> None:
    folder = make_stand_in(FAMILIES["Gemma3ForConditionalGeneration"], tmp_path / "gemma", TOKENIZER_TEXTS)
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name.split(".")[0] for name in names} == {"language_model", "vision_tower", "multi_modal_projector"}
    assert "num_attention_heads" not in json.loads((folder / "config.json").read_text())["text_config"]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for roles in (("system", "user"), ("user", "user")):
        with pytest.raises(Exception, match=r"not supported|alternate"):
            tokenizer.apply_chat_template([{"role": role, "content": "x"} for role in roles])


def test_stand_in_is_reproducible(tmp_path: Path) -> None:
    family = FAMILIES["Qwen3ForCausalLM"]
    first_folder = make_stand_in(family, tmp_path / "one", TOKENIZER_TEXTS)
    second_folder = make_stand_in(family, tmp_path / "two", TOKENIZER_TEXTS)
    for path in first_folder.iterdir():
        assert path.read_bytes() == (second_folder / path.name).read_bytes(), path.name


def test_catalog_chat_models_have_a_family_and_full_sizes(tmp_path: Path) -> None:
    for path in sorted(CATALOG.glob("*.toml")):
        manifest = read_manifest(path)
        if manifest.kind != "chat" or manifest.source.kind != "hub":
            continue
        family = find_family(manifest.architecture, manifest.name)
        folder = write_without_weights(family, tmp_path / manifest.name, manifest.name)
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == [manifest.architecture]


def test_error_on_an_unknown_architecture_names_model_and_architecture() -> None:
    with pytest.raises(ManifestError, match=r"mamba-9b.*MambaForCausalLM"):
        find_family("MambaForCausalLM", "mamba-9b")
