"""A merged model and an exported adapter give the logits of the base with the adapter; a merge that changes the
answers is refused.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from nanoflux_local.adapters import gguf as gguf_file
from nanoflux_local.adapters import merge as merging
from nanoflux_local.adapters.hash import adapter_hash
from nanoflux_local.adapters.store import read_adapter
from nanoflux_local.cli.main import nanoflux
from nanoflux_local.errors import NanofluxError, RefusedError, UsageError
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.lora import train
from nanoflux_local.train.publishing import publish
from nanoflux_local.train.settings import TrainSettings
from nanoflux_models.weights import import_path, weights_dir

SETTINGS = TrainSettings(epochs=1, learning_rate=3e-3, dtype="float32")
TOKEN_IDS = torch.tensor([[5, 70, 33, 120, 9, 9, 41, 200]])
"""An arbitrary input for which the logits of models are compared."""


@pytest.fixture
def home_and_adapter(
    tiny_base: Path, examples: list[TrainingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """The root of a home in which a base ("tiny") is installed, and the folder of an adapter for this base."""
    root, base = tmp_path / "home", tmp_path / "base"
    monkeypatch.setenv("NANOFLUX_HOME", str(root))
    shutil.copytree(tiny_base, base)
    add_bpe_merge(base / "tokenizer.json")
    revision = json.loads((import_path(base, "tiny", root) / "weights.json").read_text())["revision"]
    result = train(SETTINGS, examples, (), tiny_base, tmp_path / "work")
    return root, publish(result, SETTINGS, root / "adapters", "tiny", revision, {"run": "r1"})


def add_bpe_merge(file: Path) -> None:
    """Add a merge to a byte-pair tokenizer, because GGUF readers reject a tokenizer without merges."""
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["so"] = vocabulary.pop("ÿ")
    tokenizer["model"]["merges"] = [["s", "o"]]
    file.write_text(json.dumps(tokenizer))


def run_adapters(*arguments: str | Path) -> Any:
    """Run `nanoflux adapters ARGUMENTS --json` and return the parsed output. Raises the command's error."""
    result = CliRunner().invoke(nanoflux, ["adapters", *map(str, arguments), "--json"])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def compute_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKEN_IDS).logits


def load_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def load_with_adapter(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(base), adapter)


def test_merged_model_has_the_logits_of_base_and_adapter(home_and_adapter: tuple[Path, Path], tmp_path: Path) -> None:
    root, adapter = home_and_adapter
    record = run_adapters("merge", adapter.name[:8], "-o", tmp_path / "out")
    base_logits = compute_logits(load_model(weights_dir("tiny", root)))
    tuned_logits = compute_logits(load_with_adapter(weights_dir("tiny", root), adapter))
    torch.testing.assert_close(compute_logits(load_model(tmp_path / "out")), tuned_logits, rtol=1e-4, atol=1e-4)
    assert (tuned_logits - base_logits).abs().max() > 0.01, "the adapter has no effect, so the test shows nothing"
    assert record["adapter"] == adapter.name and record["base"]["name"] == "tiny"
    assert record["check"]["nats_from_adapter"] <= record["check"]["tolerance"] < record["check"]["nats_from_base"]
    stored_record = json.loads((tmp_path / "out" / merging.RECORD).read_text())
    assert stored_record | {"folder": str(tmp_path / "out")} == record
    assert adapter.name in (tmp_path / "out" / "README.md").read_text()


def read_files(folder: Path) -> dict[str, bytes]:
    """The content of each file in `folder`, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_merged_model_is_reproducible_and_can_be_installed(home_and_adapter: tuple[Path, Path], tmp_path: Path) -> None:
    root, adapter = home_and_adapter
    for name in ("first", "second"):
        run_adapters("merge", adapter.name, "-o", tmp_path / name)
    assert read_files(tmp_path / "first") == read_files(tmp_path / "second")
    installed = import_path(tmp_path / "first", "tuned", root)
    assert torch.equal(compute_logits(load_model(installed)), compute_logits(load_model(tmp_path / "first")))


def test_merge_refuses_existing_output_paths_and_unsuitable_bases(
    home_and_adapter: tuple[Path, Path], tmp_path: Path
) -> None:
    root, adapter = home_and_adapter
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling-link").symlink_to(tmp_path / "nowhere")
    for command in (["merge"], ["export"], ["export", "--format", "gguf"]):
        for target in ("folder", "dangling-link"):
            with pytest.raises(UsageError, match="exists"):
                run_adapters(*command, adapter.name, "-o", tmp_path / target)
    files_before = sorted(tmp_path.iterdir())
    manifest_file = adapter / "nanoflux.json"
    manifest = manifest_file.read_text()
    manifest_file.write_text(manifest.replace(json.loads(manifest)["base"]["revision"], "another"))
    with pytest.raises(RefusedError, match="of revision another"):
        run_adapters("merge", adapter.name, "-o", tmp_path / "out")
    config_file = weights_dir("tiny", root) / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"quantization_config": {"bits": 4}}))
    with pytest.raises(UsageError, match="quantised"):
        merging.merge(read_adapter(adapter), weights_dir("tiny", root), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == files_before and not any((tmp_path / "folder").iterdir())


def test_merge_that_changes_the_answers_is_refused(
    home_and_adapter: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test multiplies one matrix of the merged model by 1.1."""
    from peft.tuners.tuners_utils import BaseTuner

    original_merge = BaseTuner.merge_and_unload

    def merge_wrongly(self: Any, **options: Any) -> Any:
        model = original_merge(self, **options)
        model.get_decoder().layers[0].mlp.down_proj.weight.data *= 1.1
        return model

    _, adapter = home_and_adapter
    monkeypatch.setattr(BaseTuner, "merge_and_unload", merge_wrongly)
    files_before = sorted(tmp_path.iterdir())
    with pytest.raises(RefusedError, match="nats per token from base and adapter"):
        run_adapters("merge", adapter.name, "-o", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == files_before


def test_exported_adapter_loads_in_plain_peft(home_and_adapter: tuple[Path, Path], tmp_path: Path) -> None:
    root, adapter = home_and_adapter
    record = run_adapters("export", adapter.name, "-o", tmp_path / "out")
    revision = json.loads((adapter / "nanoflux.json").read_text())["base"]["revision"]
    assert record == {
        "adapter": adapter_hash(tmp_path / "out"),
        "base": {"name": "tiny", "revision": revision},
        "folder": str(tmp_path / "out"),
        "format": "safetensors",
    }
    base = weights_dir("tiny", root)
    exported_logits = compute_logits(load_with_adapter(base, tmp_path / "out"))
    assert torch.equal(exported_logits, compute_logits(load_with_adapter(base, adapter)))


def test_publishing_restores_missing_files(
    home_and_adapter: tuple[Path, Path], tiny_base: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    root, adapter = home_and_adapter
    published_files = read_files(adapter)
    revision = json.loads(published_files["nanoflux.json"])["base"]["revision"]
    for name in ("nanoflux.json", "README.md"):
        (adapter / name).unlink()
        result = train(SETTINGS, examples, (), tiny_base, tmp_path / "again")
        assert publish(result, SETTINGS, root / "adapters", "tiny", revision, {"run": "r1"}) == adapter
        assert (adapter / name).is_file() and run_adapters("show", adapter.name)["adapter"] == adapter.name
    assert {path.name for path in adapter.iterdir()} == set(published_files)


def test_adapters_list_and_show_describe_the_adapter(home_and_adapter: tuple[Path, Path]) -> None:
    _, adapter = home_and_adapter
    list_output = CliRunner().invoke(nanoflux, ["adapters", "list"]).stdout
    show_output = CliRunner().invoke(nanoflux, ["adapters", "show", adapter.name[:6]]).stdout
    assert adapter.name[:16] in list_output and " → " in list_output
    assert adapter.name in show_output and "r 8, alpha 32" in show_output and "tiny" in show_output
    assert "× 6ND" in show_output and "the architecture predicts" in show_output


def test_gguf_file_contains_the_merged_model(home_and_adapter: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    root, adapter = home_and_adapter
    record = run_adapters("export", adapter.name, "-o", tmp_path / "out", "--format", "gguf")
    file = Path(record["file"])
    assert file.parent == tmp_path / "out" and file.name == f"tiny-{adapter.name[:12]}.gguf"
    run_adapters("merge", adapter.name, "-o", tmp_path / "merged")
    gguf_model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    torch.testing.assert_close(
        compute_logits(gguf_model), compute_logits(load_model(tmp_path / "merged")), rtol=1e-5, atol=1e-5
    )
    installed = import_path(file, "from-gguf", root)
    assert (installed / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("config_changes", "reason"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, "architecture"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "rotary"),
        ({"attention_bias": True}, "biases"),
    ],
)
def test_gguf_refuses_unsupported_architectures(
    tiny_base: Path, tmp_path: Path, config_changes: dict[str, Any], reason: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_base, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | config_changes))
    with pytest.raises(UsageError, match=reason):
        gguf_file.write_gguf(model, tmp_path / "x.gguf", "x")
    assert not (tmp_path / "x.gguf").exists()


def test_gguf_refuses_unknown_tokenizers(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(NanofluxError, match="its pre-tokenizer is neither"):
        gguf_file.write_gguf(tmp_path / "model", tmp_path / "x.gguf", "x")
