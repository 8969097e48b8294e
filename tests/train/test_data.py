"""Tokens, labels and batches: the boundary between prompt and completion, the order, the padding."""

import random
from pathlib import Path

import pytest

from nanoflux_local.records import Message
from nanoflux_local.train.data import Codec, TrainingExample, batches, data_digest, split

ALPHABET = [*"abc XYZ 0129\n\t.,:-(){}<|>é漢字😀  ", "<|im_end|>", "<|im_start|>", "ANSWER: "]


def text(rng: random.Random, most: int) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, most)))


def check_boundary(codec: Codec, count: int) -> None:
    """For random texts: the prompt's tokens are those of inference, and the labels read back as completion + end."""
    rng = random.Random(7)
    for row in range(count):
        roles = rng.choice([("user",), ("system", "user"), ("user", "assistant", "user")])
        prompt = tuple(Message(role, text(rng, 60)) for role in roles)
        example = TrainingExample(prompt, text(rng, 60))
        encoded = codec.encode(example, row)
        as_asked = codec.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in prompt], add_generation_prompt=True, tokenize=True
        )["input_ids"]
        assert list(encoded.ids[: encoded.prompt]) == as_asked
        learnt = codec.tokenizer.decode(encoded.ids[encoded.prompt :], clean_up_tokenization_spaces=False)
        assert learnt == example.completion + codec.end
        assert encoded.labels == len(encoded.ids) - len(as_asked) > 0
        assert encoded.ids[-1] == codec.tokenizer.eos_token_id


def test_the_boundary_is_that_of_inference(tiny_base: Path) -> None:
    check_boundary(Codec.load(tiny_base), 300)


@pytest.mark.real_model
def test_the_boundary_is_that_of_inference_for_the_real_tokenizer(real_base: Path) -> None:
    codec = Codec.load(real_base)
    assert codec.end == "<|im_end|>"
    check_boundary(codec, 300)


def test_cutting_takes_the_tail_and_counts_it(tiny_base: Path) -> None:
    codec = Codec.load(tiny_base)
    example = TrainingExample((Message("user", "q"),), "a" * 100)
    whole, cut = codec.encode(example, 0), codec.encode(example, 0, 60)
    assert cut.ids == whole.ids[:60] and cut.cut == len(whole.ids) - 60 and cut.labels == 60 - cut.prompt


@pytest.mark.parametrize("size", [1, 3, 4])
def test_batches_meet_every_row_once_and_pad_little(size: int) -> None:
    rng = random.Random(1)
    lengths = [rng.randint(50, 400) for _ in range(97)]
    for epoch in (1, 2):
        cut = batches(lengths, size, 5, epoch)
        assert sorted(i for batch in cut for i in batch) == list(range(97))
        assert all(len(batch) <= size for batch in cut)
        padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in cut)
        assert padded <= 1.1 * sum(lengths)
    assert batches(lengths, size, 5, 1) == batches(lengths, size, 5, 1)
    assert batches(lengths, size, 5, 1) != batches(lengths, size, 5, 2)
    assert batches(lengths, size, 6, 1) != batches(lengths, size, 5, 1)


def test_the_split_holds_out_by_seed(examples: list[TrainingExample]) -> None:
    train, held = split(examples, 0.1, 3)
    assert len(held) == 2 and {e.id for e in train} | {e.id for e in held} == {e.id for e in examples}
    assert split(examples, 0.1, 3) == (train, held)
    assert split(examples, 0.0, 3) == (tuple(examples), ())
    assert split(examples[:1], 0.5, 3) == (tuple(examples[:1]), ())


def test_the_digest_follows_content_and_order_only(examples: list[TrainingExample]) -> None:
    renamed = [TrainingExample(e.prompt, e.completion, "x") for e in examples]
    assert data_digest(examples) == data_digest(renamed) != data_digest(examples[::-1])
