"""A base small enough to train in a second, made here: nothing is downloaded and no real weights are needed."""

import random
from pathlib import Path

import pytest

from nanoflux_local.records import Message
from nanoflux_local.train.data import TrainingExample

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_base(folder: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({text: i for i, text in enumerate([*specials, *letters])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tiny_base"))


def make_examples(count: int, seed: int = 0) -> list[TrainingExample]:
    rng = random.Random(seed)
    made = []
    for number in range(count):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        filler = "so " * rng.randint(0, 12)
        made.append(
            TrainingExample((Message("user", f"{filler}{a} and {b}?"),), f"{filler}ANSWER: {a + b}", f"sum-{number}")
        )
    return made


@pytest.fixture
def examples() -> list[TrainingExample]:
    return make_examples(18)


@pytest.fixture(scope="session")
def real_base(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M as a transformers folder, where the project's fixture gives it."""
    try:
        return Path(request.getfixturevalue("smollm2_dir"))
    except pytest.FixtureLookupError:
        pytest.skip("no fixture smollm2_dir")
