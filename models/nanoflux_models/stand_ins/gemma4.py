"""Gemma 4 at 12 billion parameters: a multimodal wrapper without towers, since images and sound enter through linear
layers. In the text model, the heads of global layers are wider than those of sliding layers.
"""

from nanoflux_models.stand_ins.family import Family, Json

_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {{- '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] | trim }}
    {%- else %}
        {%- for part in message['content'] %}{{ part['text'] | trim }}{% endfor %}
    {%- endif %}
    {{- '<turn|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn>model\n' }}
    {%- if not (enable_thinking is defined and enable_thinking) %}{{ '<|channel>thought\n<channel|>' }}{% endif %}
{%- endif %}
"""


def _write(thoughts: str, answer: str) -> str:
    del thoughts  # these models think only if the template's `enable_thinking` is set
    return f"{answer}<turn|>"


def _make_text_config(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, size: int, global_size: int, window: int
) -> Json:
    return {
        "attention_k_eq_v": True,
        "final_logit_softcapping": 30.0,
        "global_head_dim": global_size,
        "head_dim": size,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "max_position_embeddings": 262_144,
        "model_type": "gemma4_unified_text",
        "num_attention_heads": heads,
        "num_global_key_value_heads": 1,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "sliding_window": window,
        "vocab_size": 262_144,
    }


def _make_vision_config(hidden: int, positions: int) -> Json:
    """The vision configuration. `hidden` is the width of the text model, onto which image patches are projected."""
    return {
        "mm_embed_dim": hidden,
        "mm_posemb_size": positions,
        "model_type": "gemma4_unified_vision",
        "num_soft_tokens": 280,
        "output_proj_dims": hidden,
        "patch_size": 16,
        "pooling_kernel_size": 3,
    }


_CONTROL = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<unk>": 3,
    "<|channel>": 100,
    "<channel|>": 101,
    "<|turn>": 105,
    "<turn|>": 106,
    "<|image>": 255_999,
    "<|audio>": 256_000,
    "<|image|>": 258_880,
    "<|audio|>": 258_881,
    "<image|>": 258_882,
    "<audio|>": 258_883,
    "<|video|>": 258_884,
}
_SHARED = {
    "audio_config": {"audio_embed_dim": 640, "model_type": "gemma4_unified_audio"},
    "audio_token_id": _CONTROL["<|audio|>"],
    "boa_token_id": _CONTROL["<|audio>"],
    "boi_token_id": _CONTROL["<|image>"],
    "eoa_token_index": _CONTROL["<audio|>"],
    "eoi_token_id": _CONTROL["<image|>"],
    "eos_token_id": [1, 106],
    "image_token_id": _CONTROL["<|image|>"],
    "video_token_id": _CONTROL["<|video|>"],
}

GEMMA4_UNIFIED = Family(
    architecture="Gemma4UnifiedForConditionalGeneration",
    model_type="gemma4_unified",
    vocabulary=262_144,
    control=_CONTROL,
    template=_TEMPLATE,
    bos="<bos>",
    eos="<eos>",
    pad="<pad>",
    ends=("<eos>", "<turn|>"),
    adds_bos=True,
    tiny={
        **_SHARED,
        "text_config": _make_text_config(64, 128, 6, 4, 2, 32, 64, 64),  # the sixth layer is the first global one
        "vision_config": _make_vision_config(64, 16),
    },
    full={
        "gemma-4-12b-it": {
            **_SHARED,
            "text_config": _make_text_config(3840, 15_360, 48, 16, 8, 256, 512, 1024),
            "vision_config": _make_vision_config(3840, 1120),
        }
    },
    write=_write,
    # Gemma 4 does not divide attention scores by the root of the head size; instead, trained query norms are small.
    # With query norms of 1, a random model attends to single tokens and magnifies the rounding to 16 bits. Capped
    # logits dampen the effect of an adapter; smaller weights make the effect clearly larger than the rounding.
    spread=0.05,
    scales={"self_attn.q_norm.weight": 0.15},
    tokenizer={
        "extra_special_tokens": {
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "boi_token": "<|image>",
            "eoa_token": "<audio|>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
        },
    },
    files={
        "processor_config.json": {
            "audio_ms_per_token": 40,
            "audio_seq_length": 750,
            "feature_extractor": {
                "audio_samples_per_token": 640,
                "feature_extractor_type": "Gemma4UnifiedAudioFeatureExtractor",
                "sampling_rate": 16_000,
            },
            "image_processor": {
                "image_processor_type": "Gemma4UnifiedImageProcessor",
                "max_soft_tokens": 280,
                "patch_size": 16,
                "pooling_kernel_size": 3,
            },
            "image_seq_length": 280,
            "processor_class": "Gemma4UnifiedProcessor",
            "video_processor": {
                "max_soft_tokens": 70,
                "patch_size": 16,
                "pooling_kernel_size": 3,
                "video_processor_type": "Gemma4UnifiedVideoProcessor",
            },
        },
    },
)
