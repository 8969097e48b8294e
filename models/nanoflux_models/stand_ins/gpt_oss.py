"""gpt-oss: a mixture of experts that writes in channels (the harmony format). Its server encodes this format with the
vocabulary of the package openai_harmony, so a stand-in must have the same vocabulary.
"""

import base64
import json
import subprocess
from pathlib import Path

from nanoflux_models.errors import ServerError
from nanoflux_models.stand_ins.family import Family, Json

VOCABULARY_SIZE = 199_998
"""The size of the harmony vocabulary without its control tokens, whose ids are larger."""
_HARMONY_QUERY = """
import base64, json, openai_harmony
encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")
print(json.dumps([base64.b64encode(encoding._inner.decode_bytes([number])).decode() for number in range({size})]))
"""
"""A program that prints the vocabulary as a JSON list of base64 strings, ordered by id."""
_TEMPLATE = """\
{{- '<|start|>system<|message|>You are a language model.\n\nReasoning: medium\n\n' }}
{{- '# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>' }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- '<|start|>developer<|message|># Instructions\n\n' + message['content'] + '<|end|>' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message['content'] + '<|end|>' }}
    {%- else %}
        {{- '<|start|>' + message['role'] + '<|message|>' + message['content'] + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}
"""


def read_harmony_vocabulary(python: Path) -> list[bytes]:
    """Read the vocabulary of the package openai_harmony of the interpreter `python`: 199,998 byte strings, by id.

    Raises:
        ServerError: the interpreter does not have the vocabulary, and so cannot serve gpt-oss.
    """
    command = [str(python), "-P", "-c", _HARMONY_QUERY.format(size=VOCABULARY_SIZE)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{python} cannot be started: {error}", "pass another interpreter") from error
    try:
        return [base64.b64decode(entry) for entry in json.loads(result.stdout)]
    except ValueError:
        error_lines = result.stderr.strip().splitlines()
        reason = error_lines[-1] if error_lines else "the program that reads it printed nothing"
        fix = "install openai-harmony there; offline, set TIKTOKEN_ENCODINGS_BASE to a folder with its vocabulary"
        raise ServerError(f"{python} cannot load the harmony vocabulary of gpt-oss: {reason}", fix) from None


def _render_reply(reasoning: str, answer: str) -> str:
    """The reasoning in the channel `analysis`, then the answer in the channel `final`."""
    return (
        f"<|channel|>analysis<|message|>{reasoning}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
    )


def _make_size_keys(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, experts: int, experts_per_token: int
) -> Json:
    """The configuration of a model with the given sizes, without its quantisation."""
    return {
        "attention_bias": True,
        "eos_token_id": 200_002,
        "experts_per_token": experts_per_token,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        "max_position_embeddings": 131_072,
        "num_attention_heads": heads,
        "num_experts_per_tok": experts_per_token,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "num_local_experts": experts,
        "pad_token_id": 199_999,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150_000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": 201_088,
    }


_CONTROL_TOKENS = {
    "<|startoftext|>": 199_998,
    "<|endoftext|>": 199_999,
    "<|return|>": 200_002,
    "<|constrain|>": 200_003,
    "<|channel|>": 200_005,
    "<|start|>": 200_006,
    "<|end|>": 200_007,
    "<|message|>": 200_008,
    "<|call|>": 200_012,
}
_RESERVED_IDS = set(range(VOCABULARY_SIZE, 201_088)) - set(_CONTROL_TOKENS.values())
_RESERVED_TOKENS = {f"<|reserved_{token_id}|>": token_id for token_id in sorted(_RESERVED_IDS)}
_MXFP4_CONFIG = {
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
    "quant_method": "mxfp4",
}

GPT_OSS = Family(
    architecture="GptOssForCausalLM",
    model_type="gpt_oss",
    vocabulary=201_088,
    control_tokens={**_CONTROL_TOKENS, **_RESERVED_TOKENS},
    chat_template=_TEMPLATE,
    bos="<|startoftext|>",
    eos="<|return|>",
    pad="<|endoftext|>",
    end_tokens=("<|return|>", "<|endoftext|>", "<|call|>"),
    tiny_config=_make_size_keys(
        hidden=64, intermediate=64, layers=2, heads=2, kv_heads=1, experts=4, experts_per_token=2
    ),
    full_configs={
        "gpt-oss-20b": {
            **_make_size_keys(
                hidden=2880, intermediate=2880, layers=24, heads=64, kv_heads=8, experts=32, experts_per_token=4
            ),
            "quantization_config": _MXFP4_CONFIG,
        }
    },
    render_reply=_render_reply,
    difference="its experts are not quantised, as the published MXFP4 experts are",
)
