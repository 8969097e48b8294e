"""Gemma 3 and MedGemma at 4 billion parameters: a multimodal wrapper with a language model and a vision encoder."""

from nanoflux_models.stand_ins.family import Family

# This template accepts a message's content as a string or as a list of texts, as vLLM passes it, but no images. The
# published template moves a system message into the first user message. The stand-in's template refuses a system
# message instead, so that a request fails if it wrongly contains one.
_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] | trim }}
    {%- else %}
        {%- for part in message['content'] %}{{ part['text'] | trim }}{% endfor %}
    {%- endif %}
    {{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
"""


def _render_reply(reasoning: str, answer: str) -> str:
    del reasoning  # these models do not think
    return f"{answer}<end_of_turn>"


def _make_vision_config(hidden: int, intermediate: int, layers: int, heads: int, image: int) -> dict[str, object]:
    """The configuration of the vision encoder for square images of `image` pixels per side."""
    return {
        "hidden_size": hidden,
        "image_size": image,
        "intermediate_size": intermediate,
        "model_type": "siglip_vision_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "patch_size": 14,
        "vision_use_head": False,
    }


def _make_text_config(hidden: int, intermediate: int, layers: int, window: int) -> dict[str, object]:
    """The configuration of the language model. As in the published file, the number of heads, their size and the
    vocabulary size are omitted, since they are the defaults of the class.
    """
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "model_type": "gemma3_text",
        "num_hidden_layers": layers,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": window,
    }


_SHARED_KEYS = {
    "boi_token_index": 255_999,
    "eoi_token_index": 256_000,
    "eos_token_id": [1, 106],
    "image_token_index": 262_144,
}
_CONFIG_4B = {
    **_SHARED_KEYS,
    "mm_tokens_per_image": 256,
    "text_config": _make_text_config(hidden=2560, intermediate=10_240, layers=34, window=1024),
    "vision_config": _make_vision_config(hidden=1152, intermediate=4304, layers=27, heads=16, image=896),
}

GEMMA3 = Family(
    architecture="Gemma3ForConditionalGeneration",
    model_type="gemma3",
    vocabulary=262_208,
    control_tokens={
        "<pad>": 0,
        "<eos>": 1,
        "<bos>": 2,
        "<unk>": 3,
        "<start_of_turn>": 105,
        "<end_of_turn>": 106,
        "<start_of_image>": 255_999,
        "<end_of_image>": 256_000,
        "<image_soft_token>": 262_144,
    },
    chat_template=_TEMPLATE,
    bos="<bos>",
    eos="<eos>",
    pad="<pad>",
    end_tokens=("<eos>", "<end_of_turn>"),
    adds_bos=True,
    tiny_config={
        **_SHARED_KEYS,
        "mm_tokens_per_image": 4,
        # the sixth layer is the first that attends to the whole context
        "text_config": _make_text_config(hidden=64, intermediate=128, layers=6, window=64),
        "vision_config": _make_vision_config(hidden=64, intermediate=128, layers=2, heads=2, image=56),
    },
    full_configs={"gemma-3-4b-it": _CONFIG_4B, "medgemma-4b-it": _CONFIG_4B, "medgemma-1.5-4b-it": _CONFIG_4B},
    render_reply=_render_reply,
    tokenizer_options={
        "extra_special_tokens": {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    },
    extra_files={
        "processor_config.json": {"image_seq_length": 4, "processor_class": "Gemma3Processor"},
        "preprocessor_config.json": {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": 4,
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "Gemma3Processor",
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 56, "width": 56},
        },
    },
)
