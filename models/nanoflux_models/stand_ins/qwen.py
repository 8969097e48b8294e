"""Qwen3, which writes thinking tags (Qwen3 Instruct writes none), and R1 distilled into Qwen2.5, whose prompt opens the
thinking tag.
"""

from nanoflux_models.stand_ins.family import Family, Json

_QWEN3_TEMPLATE = """\
{%- for message in messages %}
    {%- if message['role'] == 'assistant' and '</think>' in message['content'] %}
        {%- set content = message['content'].split('</think>')[-1].lstrip('\n') %}
    {%- else %}
        {%- set content = message['content'] %}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
"""
_INSTRUCT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
_R1_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- message['content'] }}
    {%- elif message['role'] == 'user' %}
        {{- '<｜User｜>' + message['content'] }}
    {%- else %}
        {{- '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}
"""
_VOCABULARY = 4096
"""The size of a stand-in's vocabulary."""


def _make_size_keys(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int, theta: float, context: int
) -> Json:
    """The keys of a configuration that all Qwen models here share. `theta` is the base of the rotary frequencies."""
    return {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": context,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": theta,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocabulary,
    }


def _make_tiny_keys(theta: float, context: int) -> Json:
    """The keys of a stand-in's configuration that both Qwen3 architectures share."""
    sizes = _make_size_keys(
        hidden=64,
        intermediate=128,
        layers=4,
        heads=4,
        kv_heads=2,
        vocabulary=_VOCABULARY,
        theta=theta,
        context=context,
    )
    return {**sizes, "attention_bias": False, "head_dim": 32, "bos_token_id": 4000, "eos_token_id": 4002}


def _make_expert_keys(experts: int, experts_per_token: int, intermediate: int) -> Json:
    """The keys of a configuration that describe experts, each with `intermediate` hidden units."""
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": intermediate,
        "norm_topk_prob": True,
        "num_experts": experts,
        "num_experts_per_tok": experts_per_token,
        "router_aux_loss_coef": 0.001,
    }


def _render_answer(reasoning: str, answer: str) -> str:
    del reasoning  # Qwen3 Instruct does not think
    return f"{answer}<|im_end|>"


def _render_reasoning_and_answer(reasoning: str, answer: str) -> str:
    return f"<think>\n{reasoning}\n</think>\n\n{answer}<|im_end|>"


def _render_after_opening_tag(reasoning: str, answer: str) -> str:
    """The reply to a prompt that ends with the opening tag."""
    return f"{reasoning}\n</think>\n\n{answer}<｜end▁of▁sentence｜>"


_QWEN3_PUBLISHED_KEYS = {"attention_bias": False, "head_dim": 128, "bos_token_id": 151_643, "eos_token_id": 151_645}
_AWQ_CONFIG = {
    "bits": 4,
    "group_size": 128,
    "modules_to_not_convert": None,
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}
_FP8_CONFIG = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}

QWEN3 = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    vocabulary=_VOCABULARY,
    control_tokens={
        "<|endoftext|>": 4000,
        "<|im_start|>": 4001,
        "<|im_end|>": 4002,
        "<think>": 4003,
        "</think>": 4004,
    },
    visible_tokens=("<think>", "</think>"),
    chat_template=_QWEN3_TEMPLATE,
    bos="",
    eos="<|im_end|>",
    pad="<|endoftext|>",
    end_tokens=("<|im_end|>", "<|endoftext|>"),
    tiny_config=_make_tiny_keys(theta=1e6, context=40_960),
    full_configs={
        "qwen3-32b-awq": {
            **_make_size_keys(
                hidden=5120,
                intermediate=25_600,
                layers=64,
                heads=64,
                kv_heads=8,
                vocabulary=151_936,
                theta=1e6,
                context=40_960,
            ),
            **_QWEN3_PUBLISHED_KEYS,
            "torch_dtype": "float16",
            "quantization_config": _AWQ_CONFIG,
        }
    },
    render_reply=_render_reasoning_and_answer,
    difference="its weights are not quantised, as the published AWQ weights are",
)

QWEN3_MOE = Family(
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    vocabulary=_VOCABULARY,
    control_tokens={"<|endoftext|>": 4000, "<|im_start|>": 4001, "<|im_end|>": 4002},
    chat_template=_INSTRUCT_TEMPLATE,
    bos="",
    eos="<|im_end|>",
    pad="<|endoftext|>",
    end_tokens=("<|im_end|>", "<|endoftext|>"),
    tiny_config={
        **_make_tiny_keys(theta=1e7, context=262_144),
        **_make_expert_keys(experts=8, experts_per_token=2, intermediate=64),
    },
    full_configs={
        "qwen3-30b-a3b-instruct-2507-fp8": {
            **_make_size_keys(
                hidden=2048,
                intermediate=6144,
                layers=48,
                heads=32,
                kv_heads=4,
                vocabulary=151_936,
                theta=1e7,
                context=262_144,
            ),
            **_make_expert_keys(experts=128, experts_per_token=8, intermediate=768),
            **_QWEN3_PUBLISHED_KEYS,
            "quantization_config": _FP8_CONFIG,
        }
    },
    render_reply=_render_answer,
    difference="its weights are not quantised, as the published FP8 weights are",
)

R1_QWEN2 = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    vocabulary=_VOCABULARY,
    control_tokens={
        "<｜begin▁of▁sentence｜>": 4000,
        "<｜end▁of▁sentence｜>": 4001,
        "<｜User｜>": 4002,
        "<｜Assistant｜>": 4003,
        "<think>": 4004,
        "</think>": 4005,
    },
    visible_tokens=("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>"),
    chat_template=_R1_TEMPLATE,
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    pad="<｜end▁of▁sentence｜>",
    end_tokens=("<｜end▁of▁sentence｜>",),
    adds_bos=True,
    tiny_config={
        **_make_size_keys(
            hidden=64,
            intermediate=128,
            layers=4,
            heads=2,
            kv_heads=1,
            vocabulary=_VOCABULARY,
            theta=1e6,
            context=131_072,
        ),
        "bos_token_id": 4000,
        "eos_token_id": 4001,
    },
    full_configs={
        "deepseek-r1-distill-qwen-14b": {
            **_make_size_keys(
                hidden=5120,
                intermediate=13_824,
                layers=48,
                heads=40,
                kv_heads=8,
                vocabulary=152_064,
                theta=1e6,
                context=131_072,
            ),
            "bos_token_id": 151_643,
            "eos_token_id": 151_643,
            "rms_norm_eps": 1e-5,
        }
    },
    render_reply=_render_after_opening_tag,
)
