"""Adapters saved by plain PEFT are checked against their base, named by their content, and used like other adapters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanoflux_local.adapters.importing import import_adapter
from nanoflux_local.adapters.merge import find_base, merge
from nanoflux_local.adapters.store import export_peft, find_adapter, list_adapters, read_adapter
from nanoflux_local.endpoints.local.decoder import load_model
from nanoflux_local.endpoints.managed.launches import choose_rank
from nanoflux_local.errors import DataError, NothingMatchedError, UsageError
from nanoflux_models.weights import import_path

PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
"""The layers that the saved adapters adapt by default."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The root of a home in which the tiny base is installed as "tiny"."""
    root = tmp_path_factory.mktemp("home")
    import_path(tiny_base, "tiny", root)
    return root


@pytest.fixture
def save_peft_adapter(tiny_base: Path, tmp_path: Path) -> Callable[..., Path]:
    """`save_peft_adapter(r=8, ...)` returns a folder with an adapter of the tiny base that plain PEFT saved. Its
    weights are random, so that the adapter has an effect.
    """

    def save(base_name: str = "", folder: str = "foreign", **settings: Any) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_pretrained(tiny_base)
        options = {"r": 4, "lora_alpha": 16, "target_modules": PROJECTIONS, **settings}
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.1)
        tuned.peft_config["default"].base_model_name_or_path = base_name
        tuned.save_pretrained(tmp_path / folder)
        return tmp_path / folder

    return save


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 12}, "alpha_pattern": {"q_proj": 40}},
     {"target_modules": "all-linear"}, {"layers_to_transform": [1]}, {"init_lora_weights": "gaussian"}],
    ids=["plain", "rslora", "rank by layer", "all-linear", "one layer", "gaussian"],
)  # fmt: skip
def test_imported_adapter_has_the_logits_of_plain_peft(
    home: Path, save_peft_adapter: Callable[..., Path], tiny_base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    source = save_peft_adapter(**settings)
    folder = import_adapter(source, home, tmp_path / "adapters", "tiny")
    ids = torch.tensor([[5, 9, 30, 40, 7]])
    peft_model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), source)
    our_model = load_model(tiny_base, folder, torch.float32)
    our_model.set_attn_implementation("sdpa")
    with torch.no_grad():
        peft_logits = peft_model(input_ids=ids).logits
        assert torch.allclose(our_model(input_ids=ids).logits, peft_logits, atol=1e-4)
    adapter = read_adapter(folder)
    record = merge(adapter, find_base(adapter, home), tmp_path / "merged")
    assert record.adapter == folder.name and record.check.has_effect


def test_import_records_name_and_base_without_paths(
    home: Path, save_peft_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    source = save_peft_adapter(base_name=str(tmp_path / "models" / "tiny"))
    source_files = {path.name: path.read_bytes() for path in source.iterdir()}
    folder = import_adapter(source, home, tmp_path / "adapters", name="mine")
    manifest = read_adapter(folder).manifest
    assert manifest["base"]["name"] == "tiny" and len(manifest["base"]["revision"]) == 64, (
        "the base must be found by the path in the adapter's config"
    )
    assert manifest["imported"]["name"] == "mine" and manifest["settings"] == {"r": 4, "alpha": 16, "dropout": 0.0}
    assert not any(str(tmp_path) in path.read_text(errors="replace") for path in folder.iterdir())
    assert {path.name: path.read_bytes() for path in source.iterdir()} == source_files
    repeated_folder = import_adapter(source, home, tmp_path / "adapters", "tiny", "mine")
    assert repeated_folder == folder, "equal content must be stored only once"
    assert list_adapters(tmp_path / "adapters") == [read_adapter(folder)]
    for name in ("mine", folder.name[:8], folder.name):
        assert find_adapter(tmp_path / "adapters", name) == folder
    export_peft(read_adapter(folder), tmp_path / "out")
    assert import_adapter(tmp_path / "out", home, tmp_path / "again", "tiny").name == folder.name


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "whole modules .lm_head"),
     ({"bias": "lora_only"}, "biases of its base"), ({"lora_bias": True}, "LoRA layers have biases"),
     ({"r": 600}, "its rank is 600, and vLLM serves 512"), ({"init_lora_weights": "pissa"}, "initialised as pissa"),
     ({"target_modules": [*PROJECTIONS, "embed_tokens"]}, "embedding layers"),
     ({"trainable_token_indices": [3]}, "embeddings of single tokens")],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_import_refuses_adapters_that_vllm_cannot_serve(
    home: Path, save_peft_adapter: Callable[..., Path], tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        import_adapter(save_peft_adapter(**settings), home, tmp_path / "adapters", "tiny")
    assert not list((tmp_path / "adapters").glob("*"))


def test_import_refuses_an_adapter_of_another_model(
    home: Path, save_peft_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    source = save_peft_adapter()
    tensors = load_file(source / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    unknown_name = name.replace("layers.0", "layers.9")
    changed_tensors_by_reason = {
        "tensors of other sizes": {**tensors, name: torch.zeros(4, 99)},
        "no tensors for": {other_name: tensors[other_name] for other_name in tensors if other_name != name},
        "layers that tiny lacks": {**tensors, unknown_name: tensors[name].clone()},
        "not finite numbers": {**tensors, name: torch.full_like(tensors[name], float("nan"))},
    }
    for reason, changed_tensors in changed_tensors_by_reason.items():
        save_file(changed_tensors, source / "adapter_model.safetensors")
        with pytest.raises(DataError, match=reason):
            import_adapter(source, home, tmp_path / "adapters", "tiny")


def test_import_refuses_folders_without_a_usable_adapter(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "unusable"
    with pytest.raises(DataError, match="is not a folder"):
        import_adapter(source, home, tmp_path / "adapters", "tiny")
    source.mkdir()
    (source / "adapter_model.bin").write_bytes(b"\x80\x04")  # the first bytes of a pickle
    with pytest.raises(DataError, match="pickled"):
        import_adapter(source, home, tmp_path / "adapters", "tiny")
    (source / "adapter_model.safetensors").write_bytes(b"")
    usable_config = json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]})
    for config, reason in (
        ("not json", "cannot be read"), ("[]", "config of a LoRA"), ('{"peft_type": "IA3"}', "peft_type: 'IA3'"),
        ('{"peft_type": "LORA", "r": "x"}', "no usable number for r, lora_alpha"),
        (usable_config, "cannot be read"),  # because the file of weights is empty
    ):  # fmt: skip
        (source / "adapter_config.json").write_text(config)
        with pytest.raises(DataError, match=reason):
            import_adapter(source, home, tmp_path / "adapters", "tiny")


def test_import_requires_the_base_option_if_the_config_names_an_unknown_base(
    home: Path, save_peft_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(NothingMatchedError, match=r"'other/model'.*\n.*--base; installed models: tiny"):
        import_adapter(save_peft_adapter(base_name="other/model"), home, tmp_path / "adapters")


def test_exported_adapter_keeps_its_hash_and_record(
    home: Path, save_peft_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    original = read_adapter(import_adapter(save_peft_adapter(), home, tmp_path / "adapters", "tiny", "mine"))
    export_peft(original, tmp_path / "exported")
    reimported = read_adapter(import_adapter(tmp_path / "exported", home, tmp_path / "elsewhere"))
    assert (reimported.hash, reimported.manifest) == (original.hash, original.manifest)
    assert reimported.folder != original.folder
    with pytest.raises(UsageError, match="keeps its own record"):
        import_adapter(tmp_path / "exported", home, tmp_path / "elsewhere", name="other")
    config = tmp_path / "exported" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 16', '"lora_alpha": 99'))
    with pytest.raises(DataError, match="do not match its manifest"):
        import_adapter(tmp_path / "exported", home, tmp_path / "elsewhere")


def test_server_rank_fits_the_layer_with_the_highest_rank(
    home: Path, save_peft_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    folder = import_adapter(save_peft_adapter(rank_pattern={"q_proj": 40}), home, tmp_path / "adapters", "tiny")
    assert choose_rank([folder]) == 64, "the rank must be 64, the smallest maximum rank above 40 that vLLM supports"


@pytest.mark.parametrize("name", ["a/b", "*", "../x", ".hidden"])
def test_import_refuses_names_that_look_like_paths_or_patterns(home: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid name for an adapter"):
        import_adapter(tmp_path, home, tmp_path / "adapters", "tiny", name)


@pytest.mark.parametrize("name", ["*", "?", "[a-f]*", "", "../adapters"])
def test_find_adapter_rejects_patterns_and_paths(
    home: Path, save_peft_adapter: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    import_adapter(save_peft_adapter(), home, tmp_path / "adapters", "tiny")
    with pytest.raises((NothingMatchedError, UsageError)):
        find_adapter(tmp_path / "adapters", name)


def test_find_adapter_suggests_the_import_of_a_path(tmp_path: Path) -> None:
    for path in (str(tmp_path), "./adapter", "some/folder", "~/adapter", ".."):
        with pytest.raises(UsageError, match=r"is a path.*\n.*adapters import"):
            find_adapter(tmp_path / "adapters", path)
