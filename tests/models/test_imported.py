"""An import derives a manifest from the model's folder; for catalog models, its values equal the packaged ones."""

import codecs
import json
import math
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nanoflux_local.cli.main import main, nanoflux
from nanoflux_local.endpoints.managed.launches import plan_servers
from nanoflux_models.chat_template import choose_reasoning_parser, examine_template, read_template
from nanoflux_models.errors import ManifestError
from nanoflux_models.imported import derive_manifest, is_unedited_import, manifest_path, render_with_header
from nanoflux_models.manifest import Manifest, load_manifest, read_manifest
from nanoflux_models.stand_ins import FAMILIES, make_stand_in
from nanoflux_models.weights import import_path


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny multimodal Gemma 3 in the hub's layout: two shards, and a config that omits default values."""
    folder = make_stand_in(FAMILIES["Gemma3ForConditionalGeneration"], tmp_path_factory.mktemp("gemma") / "files")
    assert len(list(folder.glob("*.safetensors"))) == 2
    assert "max_position_embeddings" not in json.loads((folder / "config.json").read_text())["text_config"]
    return folder


@pytest.fixture(scope="module")
def full_size_gemma(tmp_path_factory: pytest.TempPathFactory, gemma: Path) -> Path:
    """Gemma-3-4B at full size: a sparse file with the names and shapes of the published tensors, but no values."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("full") / "files"
    shutil.copytree(gemma, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json", "tokenizer.json"))
    published_config = FAMILIES["Gemma3ForConditionalGeneration"].full_configs["gemma-3-4b-it"]
    config = json.loads((folder / "config.json").read_text()) | dict(published_config)
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model_config = transformers.AutoConfig.from_pretrained(str(folder))
        model: Any = transformers.Gemma3ForConditionalGeneration(model_config)
    model.tie_weights()
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    write_sparse_weights(folder / "model.safetensors", shapes)
    return folder


def write_sparse_weights(path: Path, shapes: dict[str, list[int]]) -> None:
    """Write a safetensors file of bf16 zeros that takes almost no space on the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start = end
        end = start + 2 * math.prod(shape)  # two bytes per number
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    header_bytes = json.dumps(header).encode()
    length_prefix = struct.pack("<Q", len(header_bytes))
    with path.open("wb") as file:
        file.write(length_prefix + header_bytes)
        file.truncate(len(length_prefix) + len(header_bytes) + end)


def select_used_values(manifest: Manifest) -> dict[str, Any]:
    """The values of a manifest that placements, training runs and servers use."""
    return {
        "parameters": manifest.parameters,
        "context": manifest.context,
        "memory": manifest.memory,
        "architecture": manifest.architecture,
        "args": manifest.vllm.args,
    }


def test_imported_full_size_gemma_has_the_values_and_placements_of_the_catalog(
    full_size_gemma: Path, tmp_path: Path
) -> None:
    imported = derive_manifest("mine", full_size_gemma, tmp_path)
    packaged = load_manifest("gemma-3-4b-it", tmp_path)
    assert select_used_values(imported) == select_used_values(packaged)
    for gpus in ([40.0], [40.0, 40.0], [12.0]):
        assert summarize_plan(imported, gpus) == summarize_plan(packaged, gpus)


def summarize_plan(manifest: Manifest, gpus: list[float]) -> tuple[bool, list[Any]]:
    """Whether the model fits on GPUs of these sizes, and how its servers would use them."""
    placement = plan_servers([manifest], gpus)
    servers = [(server.gpus, server.utilisation, server.tensor, server.kv_gib) for server in placement.servers]
    return placement.fits, servers


def test_imported_multimodal_model_has_a_complete_manifest(gemma: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    import_path(gemma, "mine", tmp_path, messages.append)
    manifest = load_manifest("mine", tmp_path)
    assert manifest.context == 131_072 and manifest.memory
    # 6 layers x 4 key-value heads x 256 x 2 (keys and values) x 2 bytes; heads and head size are defaults of the class
    assert manifest.memory.kv_bytes_per_token == 6 * 4 * 256 * 2 * 2
    assert not manifest.chat.system_role and manifest.chat.alternation and not manifest.chat.thinks
    assert manifest.vllm.args == load_manifest("gemma-3-4b-it", tmp_path).vllm.args
    assert manifest.lora
    (target,) = manifest.lora.targets
    assert re.fullmatch(target, "model.language_model.layers.0.self_attn.q_proj")
    assert re.fullmatch(target, "language_model.model.layers.0.mlp.down_proj")
    assert not re.fullmatch(target, "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj")
    assert messages[-1].startswith("manifest of mine:") and "context 131,072" in messages[-1]


@pytest.mark.parametrize(
    ("architecture", "catalog_name"),
    [
        ("Qwen3ForCausalLM", "qwen3-32b-awq"),
        ("Qwen2ForCausalLM", "deepseek-r1-distill-qwen-14b"),
    ],
)
def test_reasoning_model_is_recognised_by_its_template(architecture: str, catalog_name: str, tmp_path: Path) -> None:
    folder = make_stand_in(FAMILIES[architecture], tmp_path / "files")
    imported = derive_manifest("mine", folder, tmp_path)
    packaged = load_manifest(catalog_name, tmp_path)
    assert imported.chat.thinks and packaged.chat.thinks and imported.chat.reasoning_tokens > 0
    assert imported.vllm.args == packaged.vllm.args and imported.chat.reasoning_tags == packaged.chat.reasoning_tags
    assert imported.lora == packaged.lora and imported.architecture == packaged.architecture


def test_import_under_a_catalog_name_keeps_the_packaged_manifest(gemma: Path, tmp_path: Path) -> None:
    import_path(gemma, "gemma-3-4b-it", tmp_path)
    assert not manifest_path("gemma-3-4b-it", tmp_path).exists()
    empty_home = tmp_path / "empty"
    assert load_manifest("gemma-3-4b-it", tmp_path).memory == load_manifest("gemma-3-4b-it", empty_home).memory


def test_harmony_template_is_recognised_by_its_channels(tmp_path: Path) -> None:
    family = FAMILIES["GptOssForCausalLM"]
    (tmp_path / "chat_template.jinja").write_text(family.chat_template)
    chat = examine_template(tmp_path)
    assert chat.thinks and chat.reasoning_tags == () and chat.reasoning_tokens > 0
    assert choose_reasoning_parser(family.chat_template, family.architecture) == "openai_gptoss"


@pytest.mark.parametrize("architecture", ["Gemma4UnifiedForConditionalGeneration", "Qwen3MoeForCausalLM"])
def test_model_without_reasoning_is_recognised_by_its_template(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(FAMILIES[architecture].chat_template)
    chat = examine_template(tmp_path)
    assert chat.system_role and not chat.thinks


TEMPLATE_BY_BEHAVIOUR = {
    "includes system": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "refuses system": "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{{ messages[-1].content }}",
    "drops system": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "thinks by default": "{{ messages[-1].content }}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
    "thinks on demand": "{{ messages[-1].content }}"
    "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}",
    "opens reasoning": "{{ messages[-1].content }}{% if add_generation_prompt %}<think>\n{% endif %}",
    "is broken": "{% for %}",
}
"""Chat templates, by how each treats a system message or the model's reasoning."""


@pytest.mark.parametrize(
    ("behaviour", "system_role", "thinks"),
    [
        ("includes system", True, False),
        ("refuses system", False, False),
        ("drops system", False, False),
        ("thinks by default", False, True),
        ("thinks on demand", False, False),
        ("opens reasoning", False, True),
        ("is broken", True, False),  # a broken template keeps the defaults
    ],
)
def test_examine_template_detects_system_role_and_reasoning(
    behaviour: str, system_role: bool, thinks: bool, tmp_path: Path
) -> None:
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE_BY_BEHAVIOUR[behaviour])
    chat = examine_template(tmp_path)
    assert (chat.system_role, chat.thinks, chat.template) == (system_role, thinks, True)
    assert bool(chat.reasoning_tokens) == thinks


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_read_template_reads_each_file_format(name: str, tmp_path: Path) -> None:
    content = "the template" if name.endswith(".jinja") else json.dumps({"chat_template": "the template"})
    (tmp_path / name).write_text(content)
    assert read_template(tmp_path) == "the template"


def run_command(home: Path, *arguments: str) -> Result:
    """Run a command in this process; return its exit code and output."""
    return CliRunner().invoke(nanoflux, ["--home", str(home), *arguments])


def run_nanoflux(*arguments: str) -> int:
    """Run a command, with errors printed as a user sees them; return its exit code."""
    with pytest.raises(SystemExit) as result:
        main(list(arguments))
    return int(str(result.value.code or 0))


def test_base_without_a_chat_template_is_reported_by_import_and_eval(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    home = tmp_path / "home"
    shutil.copytree(tiny_base, base, ignore=shutil.ignore_patterns("chat_template.jinja"))
    assert run_nanoflux("--home", str(home), "models", "import", str(base), "--name", "base") == 0
    assert "base has no chat template" in capsys.readouterr().err
    assert not load_manifest("base", home).chat.template
    eval_args = (
        "--home", str(home), "eval", "--model", "base", "--data", "starter-easy", "--limit", "1", "--runs", "1",
    )  # fmt: skip
    assert run_nanoflux(*eval_args) == 2
    assert "base has no chat template" in capsys.readouterr().err
    template_args = ("--chat-template", str(tiny_base / "chat_template.jinja"))
    assert run_nanoflux("--home", str(home), "models", "import", str(base), "--name", "base", *template_args) == 0
    assert load_manifest("base", home).chat.template
    assert run_nanoflux(*eval_args) == 0


def test_import_removes_the_byte_order_mark_of_a_template_and_refuses_utf_16(tiny_base: Path, tmp_path: Path) -> None:
    content = (tiny_base / "chat_template.jinja").read_bytes()
    template = tmp_path / "template.jinja"
    template.write_bytes(codecs.BOM_UTF8 + content)
    weights = import_path(tiny_base, "base", tmp_path, template=template)
    assert (weights / "chat_template.jinja").read_bytes() == content
    template.write_bytes(content.decode().encode("utf-16"))
    with pytest.raises(ManifestError, match="not UTF-8"):
        import_path(tiny_base, "base", tmp_path, template=template)


def test_second_import_keeps_an_edited_manifest(tiny_base: Path, tmp_path: Path) -> None:
    import_path(tiny_base, "mine", tmp_path)
    path = manifest_path("mine", tmp_path)
    assert is_unedited_import(path) and render_with_header(read_manifest(path)) == path.read_text()
    path.write_text(path.read_text().replace("imported:", "tuned by hand:"))
    import_path(tiny_base, "mine", tmp_path)
    assert load_manifest("mine", tmp_path).description.startswith("tuned by hand:")


def test_merged_model_inherits_its_base_manifest(tiny_base: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    shutil.copytree(tiny_base, merged)
    (merged / "nanoflux-merged.json").write_text(json.dumps({"adapter": "a" * 64, "base": {"name": "gemma-3-4b-it"}}))
    import_path(merged, "tuned", tmp_path)
    tuned = load_manifest("tuned", tmp_path)
    base = load_manifest("gemma-3-4b-it", tmp_path)
    own_values = {key: getattr(base, key) for key in ("name", "description", "source", "gated")}
    assert tuned.model_copy(update=own_values) == base
    assert tuned.source.kind == "file" and tuned.description == "gemma-3-4b-it with adapter aaaaaaaaaaaa merged in"


def test_models_show_prints_the_manifest(tiny_base: Path, tmp_path: Path) -> None:
    packaged = run_command(tmp_path, "models", "show", "gemma-3-4b-it")
    assert packaged.exit_code == 0 and 'repo = "google/gemma-3-4b-it"' in packaged.stdout
    import_path(tiny_base, "mine", tmp_path)
    document = json.loads(run_command(tmp_path, "models", "show", "mine", "--json").stdout)
    assert document["name"] == "mine" and document["installed"] and document["context"] == 2048
    assert document["path"] == str(manifest_path("mine", tmp_path))


def test_import_under_a_catalog_name_refuses_a_truncated_file(tiny_base: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated"
    shutil.copytree(tiny_base, truncated)
    weights_file = truncated / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:5000])
    with pytest.raises(ManifestError, match="not a complete safetensors file"):
        import_path(truncated, "gemma-3-4b-it", tmp_path / "home")
