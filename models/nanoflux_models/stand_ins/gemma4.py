"""Gemma 4 at 12 billion parameters: a wrapper without towers, whose global layers have wider heads than the others."""

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
    del thoughts  # it thinks only if it is asked to
    return f"{answer}<turn|>"


def _text(
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


GEMMA4_UNIFIED = Family(
    architecture="Gemma4UnifiedForConditionalGeneration",
    model_type="gemma4_unified",
    vocabulary=262_144,
    control={
        "<pad>": 0,
        "<eos>": 1,
        "<bos>": 2,
        "<unk>": 3,
        "<|turn>": 105,
        "<turn|>": 106,
        "<|channel>": 100,
        "<channel|>": 101,
    },
    template=_TEMPLATE,
    bos="<bos>",
    eos="<eos>",
    pad="<pad>",
    ends=("<eos>", "<turn|>"),
    adds_bos=True,
    tiny={"eos_token_id": [1, 106], "text_config": _text(64, 128, 6, 4, 2, 32, 64, 64)},
    full={
        "gemma-4-12b-it": {
            "eos_token_id": [1, 106],
            "text_config": _text(3840, 15_360, 48, 16, 8, 256, 512, 1024),
        }
    },
    write=_write,
    differs="it has the text part alone, without the layers through which images and sound enter",
)
