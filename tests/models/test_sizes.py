"""Model sizes computed from tensors and configuration equal those in the catalog, also for packed weights."""

from pathlib import Path
from typing import Any

import pytest

from nanoflux_models.manifest import Manifest, load_manifest
from nanoflux_models.sizes import Sizes, Tensor, compute_sizes, find_packed_bits
from nanoflux_models.stand_ins import FAMILIES

Shapes = dict[str, tuple[str, int]]
"""The type and the number of elements of each tensor, by name."""


def make_tensors(shapes: Shapes) -> dict[str, Tensor]:
    return {name: Tensor(dtype, count) for name, (dtype, count) in shapes.items()}


def make_awq_layer(name: str, inputs: int, outputs: int) -> Shapes:
    """A linear layer in AWQ's layout: eight weights per integer, and one scale and one zero point per 128 weights."""
    groups = inputs // 128
    return {
        f"{name}.qweight": ("I32", inputs * outputs // 8),
        f"{name}.qzeros": ("I32", groups * outputs // 8),
        f"{name}.scales": ("F16", groups * outputs),
    }


def make_qwen3_32b_awq() -> Shapes:
    """The tensors of Qwen3-32B-AWQ, whose linear layers have AWQ's layout."""
    shapes: Shapes = {"model.embed_tokens.weight": ("F16", 151_936 * 5120), "lm_head.weight": ("F16", 151_936 * 5120)}
    shapes["model.norm.weight"] = ("F16", 5120)
    linear_layers = {"q_proj": (5120, 8192), "k_proj": (5120, 1024), "v_proj": (5120, 1024), "o_proj": (8192, 5120),
              "gate_proj": (5120, 25_600), "up_proj": (5120, 25_600), "down_proj": (25_600, 5120)}  # fmt: skip
    for layer in range(64):
        for name, (inputs, outputs) in linear_layers.items():
            shapes |= make_awq_layer(f"model.layers.{layer}.{name}", inputs, outputs)
        norms = {"input_layernorm": 5120, "post_attention_layernorm": 5120, "q_norm": 128, "k_norm": 128}
        shapes |= {f"model.layers.{layer}.{name}.weight": ("F16", size) for name, size in norms.items()}
    return shapes


def make_gpt_oss_20b() -> Shapes:
    """The tensors of gpt-oss-20b, whose experts are in MXFP4: two weights per byte, and one exponent per 32 weights."""
    hidden, experts, heads, kv_heads, head_size = 2880, 32, 64, 8, 64
    shapes: Shapes = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), ("BF16", 201088 * hidden))
    shapes["model.norm.weight"] = ("BF16", hidden)
    for layer in range(24):
        prefix = f"model.layers.{layer}"
        for name, rows in (("gate_up_proj", 2 * hidden), ("down_proj", hidden)):
            shapes[f"{prefix}.mlp.experts.{name}_blocks"] = ("U8", experts * rows * hidden // 2)
            shapes[f"{prefix}.mlp.experts.{name}_scales"] = ("U8", experts * rows * hidden // 32)
            shapes[f"{prefix}.mlp.experts.{name}_bias"] = ("BF16", experts * rows)
        shapes[f"{prefix}.mlp.router"] = ("BF16", experts * (hidden + 1))
        for name, rows in (("q", heads * head_size), ("k", kv_heads * head_size), ("v", kv_heads * head_size)):
            shapes[f"{prefix}.self_attn.{name}_proj"] = ("BF16", rows * (hidden + 1))
        shapes[f"{prefix}.self_attn.o_proj"] = ("BF16", hidden * (heads * head_size + 1))
        shapes[f"{prefix}.self_attn.sinks"] = ("BF16", heads)
        shapes[f"{prefix}.norms"] = ("BF16", 2 * hidden)
    return shapes


def compute_sizes_of(shapes: Shapes, architecture: str, model: str) -> tuple[Sizes, Manifest]:
    """The sizes computed from these tensors and a catalog model's published configuration, and the model's manifest."""
    import transformers

    published_config: dict[str, Any] = dict(FAMILIES[architecture].full_configs[model])
    bits = find_packed_bits(published_config)
    class_values = {
        key: value for key, value in published_config.items() if key not in ("torch_dtype", "quantization_config")
    }
    config = transformers.AutoConfig.for_model(FAMILIES[architecture].model_type, **class_values)
    sizes = compute_sizes(make_tensors(shapes), config.get_text_config().to_dict(), bits)
    return sizes, load_manifest(model, Path("/nowhere"))


def test_sizes_of_packed_weights_equal_the_catalogs() -> None:
    for shapes, architecture, model in (
        (make_qwen3_32b_awq(), "Qwen3ForCausalLM", "qwen3-32b-awq"),
        (make_gpt_oss_20b(), "GptOssForCausalLM", "gpt-oss-20b"),
    ):
        sizes, manifest = compute_sizes_of(shapes, architecture, model)
        assert manifest.memory and sizes.parameters == manifest.parameters
        assert sizes.kv_bytes_per_token == manifest.memory.kv_bytes_per_token
        assert sizes.sliding_bytes_per_token == manifest.memory.sliding_bytes_per_token
        assert sizes.sliding_window == manifest.memory.sliding_window
        assert sizes.weights_gib == pytest.approx(manifest.memory.weights_gib, rel=0.01)


def test_kv_bytes_count_layers_of_different_sizes() -> None:
    sizes, manifest = compute_sizes_of({"w": ("BF16", 1)}, "Gemma4UnifiedForConditionalGeneration", "gemma-4-12b-it")
    assert manifest.memory and sizes.kv_bytes_per_token == manifest.memory.kv_bytes_per_token
    assert sizes.sliding_bytes_per_token == manifest.memory.sliding_bytes_per_token > 0
    assert sizes.context == manifest.context


# Bytes: layers x key-value heads x size of a head x 4 (a key and a value of two bytes each).
@pytest.mark.parametrize(
    ("text_config", "expected_bytes"),
    [
        ({"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 512}, 4 * 8 * 64 * 4),
        ({"num_hidden_layers": 4, "num_attention_heads": 8, "head_dim": 32, "num_key_value_heads": 2}, 4 * 2 * 32 * 4),
        # Keys and values share one compressed vector of 512 + 64 numbers.
        ({"num_hidden_layers": 60, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 60 * 576 * 2),
        (
            {"layer_types": ["linear_attention"] * 3 + ["full_attention"], "num_hidden_layers": 4, "head_dim": 256,
             "num_attention_heads": 16, "num_key_value_heads": 2},
            2 * 256 * 4,
        ),
        (
            {"num_hidden_layers": 6, "num_kv_shared_layers": 2, "head_dim": 64, "num_attention_heads": 4,
             "num_key_value_heads": 1},
            4 * 64 * 4,
        ),
        ({}, 0),
    ],
)  # fmt: skip
def test_kv_bytes_count_only_layers_that_cache(text_config: dict[str, Any], expected_bytes: int) -> None:
    sizes = compute_sizes({"weight": Tensor("BF16", 1)}, text_config)
    assert sizes.kv_bytes_per_token == expected_bytes
