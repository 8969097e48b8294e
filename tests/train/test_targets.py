"""LoRA targets are names or regular expressions. By default, only the language model of a multimodal model is
adapted; unusable targets are refused before weights are read.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from nanoflux_local.adapters.store import find_adapter
from nanoflux_local.cli.main import nanoflux
from nanoflux_local.errors import UsageError
from nanoflux_local.train.audit import audit
from nanoflux_local.train.data import TrainingExample
from nanoflux_local.train.flops import estimate_flops, read_shape
from nanoflux_local.train.lora import train
from nanoflux_local.train.settings import TrainSettings
from nanoflux_local.train.targets import ALL, resolve_targets
from nanoflux_models.manifest import load_manifest
from nanoflux_models.stand_ins import FAMILIES, make_stand_in
from nanoflux_models.weights import import_path

TEXTS = ["What is the number? ANSWER: 12 and 13"] * 3
"""The texts on which the stand-in's tokenizer is trained."""
TEXT_TOWER_TENSORS = 84
"""Two LoRA tensors for each of the seven linear modules in each of the six decoder layers of the stand-in's language
model.
"""


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small multimodal Gemma 3 with random weights."""
    return make_stand_in(FAMILIES["Gemma3ForConditionalGeneration"], tmp_path_factory.mktemp("gemma"), TEXTS)


@pytest.fixture(scope="module")
def home(gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a home in which the stand-in is installed as gemma-3-4b-it, with the manifest of that model."""
    root = tmp_path_factory.mktemp("home")
    import_path(gemma, "gemma-3-4b-it", root)
    return root


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [{"prompt": f"What is {n}?", "completion": f"ANSWER: {n}"} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_cli(home: Path, *arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code, and its output followed by the text of its error, if it failed."""
    result = CliRunner().invoke(nanoflux, ["--home", str(home), *arguments], catch_exceptions=True)
    exit_code = 0 if result.exception is None else getattr(result.exception, "exit_code", 1)
    return exit_code, f"{result.output}{result.exception}"


def test_default_targets_are_those_of_the_manifest(home: Path, rows_file: Path) -> None:
    command = ("train", "--data", str(rows_file), "--base", "gemma-3-4b-it", "--set", "epochs=1", "--json")
    exit_code, output = run_cli(home, *command)
    assert exit_code == 0, output
    record = json.loads(output[output.index("{") : output.rindex("}") + 1])
    adapter = find_adapter(home / "adapters", record["adapter"])
    tensor_names = list_tensors(adapter)
    assert len(tensor_names) == TEXT_TOWER_TENSORS and all("language_model" in name for name in tensor_names)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == load_manifest("gemma-3-4b-it", home).lora.targets[0]


def list_tensors(adapter: Path) -> list[str]:
    """The names of the tensors in an adapter's folder."""
    with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
        return list(weights.keys())


def test_dry_run_counts_the_tensors_of_the_language_model(home: Path, rows_file: Path) -> None:
    exit_code, output = run_cli(home, "train", "--data", str(rows_file), "--base", "gemma-3-4b-it", "--dry-run")
    assert exit_code == 0 and f"{TEXT_TOWER_TENSORS} tensors of the text tower" in output


@pytest.mark.parametrize(
    "targets",
    [
        r".*language_model.*\.(q_proj|v_proj)",
        (r".*language_model.*\.(q_proj|v_proj)",),
        (r".*language_model.*\.q_proj", r".*language_model.*\.v_proj"),
    ],
)
def test_targets_may_be_a_regular_expression_or_a_list_of_them(gemma: Path, targets: str | tuple[str, ...]) -> None:
    assert resolve_targets(gemma, targets).tensors == 24


def test_explicit_all_linear_adapts_only_the_language_model(
    gemma: Path, examples: list[TrainingExample], tmp_path: Path
) -> None:
    settings = TrainSettings(epochs=1, target_modules=ALL, max_length=256)
    assert resolve_targets(gemma, ALL).tensors == TEXT_TOWER_TENSORS
    assert audit(settings, examples, (), gemma).adapted_tensors == TEXT_TOWER_TENSORS
    train(settings, examples[:4], examples[4:5], gemma, tmp_path)
    assert len(list_tensors(tmp_path / "adapter")) == TEXT_TOWER_TENSORS


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("nowhere", r"(?s)'nowhere' matches no linear layer.*q_proj"),
        (("q_proj", "qkv_proj"), "qkv_proj"),
        (("q_proj",), "vision tower"),
        (r".*\.fc1", "outside the text tower"),
        ("(q_proj", "not a regular expression"),
    ],
)
def test_unusable_targets_are_refused_before_weights_are_read(
    gemma: Path, examples: list[TrainingExample], tmp_path: Path, targets: str | tuple[str, ...], message: str
) -> None:
    base_without_weights = tmp_path / "base"
    base_without_weights.mkdir()
    for path in gemma.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, base_without_weights)
    settings = TrainSettings(target_modules=targets, max_length=256)
    with pytest.raises(UsageError, match=message):
        train(settings, examples, (), base_without_weights, tmp_path / "out")


def test_error_on_an_unknown_target_lists_the_layers_of_the_base(tmp_path: Path) -> None:
    """Phi 3 has one layer "qkv_proj" in place of "q_proj", "k_proj" and "v_proj"."""
    from transformers import Phi3Config

    config = Phi3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64, pad_token_id=0
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="q_proj") as error_info:
        resolve_targets(tmp_path, ("q_proj",))
    assert "qkv_proj" in error_info.value.fix
    assert resolve_targets(tmp_path, ALL).tensors == 8


def test_all_linear_targets_of_a_text_model_are_passed_to_peft_unchanged(tiny_base: Path) -> None:
    targets = resolve_targets(tiny_base, ALL)
    assert targets.modules == ALL and targets.tower == "" and targets.tensors == 2 * 2 * 7
    assert "tensors of the model" in str(targets)


def test_resolved_layers_are_those_that_peft_adapts(gemma: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32)
    targets = resolve_targets(gemma, (r".*language_model.*\.q_proj", r".*language_model.*\.down_proj"))
    assert isinstance(targets.modules, str)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=targets.modules))
    adapted_layers = {name.split(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted_layers == {f"base_model.model.{layer}" for layer in targets.layers}


def test_read_shape_fills_in_the_defaults_of_the_config_class(gemma: Path) -> None:
    config = json.loads((gemma / "config.json").read_text())
    assert "num_attention_heads" not in config["text_config"] and "vocab_size" not in config["text_config"]
    shape = read_shape(gemma)
    assert (shape.heads, shape.vocabulary, shape.tied) == (8, 262_208, True) and shape.hidden and shape.layers
    defaults_only = shutil.copytree(gemma, gemma.parent / "defaults-only")
    config["text_config"] = {"model_type": "gemma3_text"}
    (defaults_only / "config.json").write_text(json.dumps(config))
    default_shape = read_shape(defaults_only)
    assert (default_shape.hidden, default_shape.layers) == (2304, 26), "expected the defaults of Gemma3TextConfig"
    assert estimate_flops(gemma, 100, 10, 50.0) > 0
