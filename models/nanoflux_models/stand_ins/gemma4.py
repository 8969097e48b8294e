"""Gemma 4 at 12 billion parameters: a multimodal wrapper without separate encoders, since images and sound enter
through linear layers. In the text model, the heads of global layers are wider than those of sliding layers.
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


def _render_reply(reasoning: str, answer: str) -> str:
    del reasoning  # these models think only if the template's `enable_thinking` is set
    return f"{answer}<turn|>"


def _make_text_config(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_size: int,
    global_head_size: int,
    window: int,
) -> Json:
    """The configuration of the text model. `window` is the width in tokens of the attention of sliding layers."""
    return {
        "attention_k_eq_v": True,
        "final_logit_softcapping": 30.0,
        "global_head_dim": global_head_size,
        "head_dim": head_size,
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


_CONTROL_TOKENS = {
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
_SHARED_KEYS = {
    "audio_config": {"audio_embed_dim": 640, "model_type": "gemma4_unified_audio"},
    "audio_token_id": _CONTROL_TOKENS["<|audio|>"],
    "boa_token_id": _CONTROL_TOKENS["<|audio>"],
    "boi_token_id": _CONTROL_TOKENS["<|image>"],
    "eoa_token_index": _CONTROL_TOKENS["<audio|>"],
    "eoi_token_id": _CONTROL_TOKENS["<image|>"],
    "eos_token_id": [1, 106],
    "image_token_id": _CONTROL_TOKENS["<|image|>"],
    "video_token_id": _CONTROL_TOKENS["<|video|>"],
}

GEMMA4_UNIFIED = Family(
    architecture="Gemma4UnifiedForConditionalGeneration",
    model_type="gemma4_unified",
    vocabulary=262_144,
    control_tokens=_CONTROL_TOKENS,
    chat_template=_TEMPLATE,
    bos="<bos>",
    eos="<eos>",
    pad="<pad>",
    end_tokens=("<eos>", "<turn|>"),
    adds_bos=True,
    tiny_config={
        **_SHARED_KEYS,
        "text_config": _make_text_config(
            hidden=64, intermediate=128, layers=6, heads=4, kv_heads=2, head_size=32, global_head_size=64, window=64
        ),  # the sixth layer is the first global one
        "vision_config": _make_vision_config(hidden=64, positions=16),
    },
    full_configs={
        "gemma-4-12b-it": {
            **_SHARED_KEYS,
            "text_config": _make_text_config(
                hidden=3840,
                intermediate=15_360,
                layers=48,
                heads=16,
                kv_heads=8,
                head_size=256,
                global_head_size=512,
                window=1024,
            ),
            "vision_config": _make_vision_config(hidden=3840, positions=1120),
        }
    },
    render_reply=_render_reply,
    # Gemma 4 does not divide attention scores by the root of the head size; instead, trained query norms are small.
    # With query norms of 1, a random model attends to single tokens and magnifies the rounding to 16 bits. Capped
    # logits dampen the effect of an adapter; smaller weights make the effect clearly larger than the rounding.
    weight_std=0.05,
    weight_scales={"self_attn.q_norm.weight": 0.15},
    tokenizer_options={
        "extra_special_tokens": {
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "boi_token": "<|image>",
            "eoa_token": "<audio|>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
        },
    },
    extra_files={
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
