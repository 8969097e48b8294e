"""The codec encodes prompts as inference does, and labels the completion and the end of turn; batches contain every
row once, with little padding.
"""

import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nanoflux_local.records import Message
from nanoflux_local.train.audit import audit
from nanoflux_local.train.data import Codec, TrainingExample, data_digest, draw_batches, split
from nanoflux_local.train.settings import TrainSettings

TEXT_PIECES = [*"abc XYZ 0129\n\t.,:-(){}<|>é漢字😀  ", "<|im_end|>", "<|im_start|>", "ANSWER: "]
"""The pieces of random texts: characters, control tokens spelled out as text, and a section heading."""
SETTINGS = TrainSettings(epochs=1, dtype="float32", val_fraction=0.0)
"""Settings of audits in which no row is held out."""


def draw_text(rng: random.Random, max_pieces: int) -> str:
    return "".join(rng.choice(TEXT_PIECES) for _ in range(rng.randint(1, max_pieces)))


def check_tokens_of_random_examples(codec: Codec, count: int) -> None:
    """Check for `count` random examples that the prompt's tokens are those of inference, and that the labels decode to
    the completion and the end of turn.
    """
    rng = random.Random(7)
    for index in range(count):
        roles = rng.choice([("user",), ("system", "user"), ("user", "assistant", "user")])
        prompt = tuple(Message(role, draw_text(rng, 60)) for role in roles)
        example = TrainingExample(prompt, draw_text(rng, 60))
        encoded = codec.encode(example, index)
        inference_ids = codec.tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in prompt],
            add_generation_prompt=True,
            tokenize=True,
        )["input_ids"]
        # At inference, a control token spelled out in a message becomes a real one, so such prompts are not compared.
        if not codec.find_control_tokens(TrainingExample(prompt, "")):
            assert list(encoded.ids[: encoded.prompt_length]) == inference_ids
        plain_example = TrainingExample(tuple(Message(message.role, "q") for message in prompt), "a")
        control_ids = list_control_ids(codec, encoded.ids)
        template_control_ids = list_control_ids(codec, codec.encode(plain_example, index).ids)
        assert control_ids == template_control_ids, "control tokens must come from the template alone"
        decoded_labels = codec.tokenizer.decode(
            encoded.ids[encoded.prompt_length :], clean_up_tokenization_spaces=False
        )
        assert decoded_labels == example.completion + codec.end_of_turn
        assert encoded.label_count == len(encoded.ids) - encoded.prompt_length > 0
        assert encoded.ids[-1] == codec.tokenizer.eos_token_id


def list_control_ids(codec: Codec, ids: Sequence[int]) -> list[int]:
    """The token ids in `ids` that are control tokens."""
    special_ids = set(codec.tokenizer.all_special_ids)
    return [token for token in ids if token in special_ids]


def test_prompt_tokens_equal_those_of_inference(tiny_base: Path) -> None:
    check_tokens_of_random_examples(Codec.load(tiny_base), 300)


@pytest.mark.real_model
def test_prompt_tokens_equal_those_of_inference_for_the_real_tokenizer(real_base: Path) -> None:
    codec = Codec.load(real_base)
    assert codec.end_of_turn == "<|im_end|>"
    check_tokens_of_random_examples(codec, 300)


@pytest.mark.real_model
def test_control_tokens_in_a_message_are_encoded_as_text(real_base: Path) -> None:
    codec = Codec.load(real_base)
    example = TrainingExample((Message("user", "Say <|im_end|>"),), "<|im_start|>user\nNo<|endoftext|>")
    plain_example = TrainingExample((Message("user", "Say"),), "No")
    encoded, plain_encoded = codec.encode(example, 0), codec.encode(plain_example, 0)
    end_id = codec.tokenizer.convert_tokens_to_ids("<|im_end|>")
    labels = encoded.ids[encoded.prompt_length :]
    assert encoded.ids.count(end_id) == plain_encoded.ids.count(end_id)
    assert labels.count(end_id) == 1 and labels[-1] == end_id
    decoded_labels = codec.tokenizer.decode(labels, clean_up_tokenization_spaces=False)
    assert decoded_labels == "<|im_start|>user\nNo<|endoftext|><|im_end|>"
    assert codec.find_control_tokens(example) == ("<|im_end|>", "<|im_start|>", "<|endoftext|>")


def test_encode_truncates_the_tail_and_counts_the_removed_tokens(tiny_base: Path) -> None:
    codec = Codec.load(tiny_base)
    example = TrainingExample((Message("user", "q"),), "a" * 100)
    whole, truncated = codec.encode(example, 0), codec.encode(example, 0, 60)
    assert truncated.ids == whole.ids[:60]
    assert truncated.truncated_tokens == len(whole.ids) - 60
    assert truncated.label_count == 60 - truncated.prompt_length


@pytest.mark.parametrize("size", [1, 3, 4])
def test_batches_contain_every_row_once_with_little_padding(size: int) -> None:
    rng = random.Random(1)
    lengths = [rng.randint(50, 400) for _ in range(97)]
    for epoch in (1, 2):
        batches = draw_batches(lengths, size, 5, epoch)
        assert sorted(index for batch in batches for index in batch) == list(range(97))
        assert all(len(batch) <= size for batch in batches)
        padded_tokens = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
        assert padded_tokens <= 1.1 * sum(lengths)
    assert draw_batches(lengths, size, 5, 1) == draw_batches(lengths, size, 5, 1)
    assert draw_batches(lengths, size, 5, 1) != draw_batches(lengths, size, 5, 2)
    assert draw_batches(lengths, size, 6, 1) != draw_batches(lengths, size, 5, 1)


def test_split_holds_out_the_requested_share(examples: list[TrainingExample]) -> None:
    training_rows, validation_rows = split(examples, 0.1, 3)
    assert len(validation_rows) == 2
    assert sorted(row.id for row in (*training_rows, *validation_rows)) == sorted(example.id for example in examples)
    assert split(examples, 0.1, 3) == (training_rows, validation_rows), "equal seeds must give equal splits"
    assert split(examples, 0.0, 3) == (tuple(examples), ())
    assert split(examples[:1], 0.5, 3) == (tuple(examples[:1]), ())


def test_data_digest_depends_on_content_and_order_only(examples: list[TrainingExample]) -> None:
    renamed = [replace(example, id="x") for example in examples]
    assert data_digest(examples) == data_digest(renamed) != data_digest(examples[::-1])


REFUSE_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
"""The start of a chat template that refuses system messages."""
EXAMPLE_WITH_SYSTEM = TrainingExample((Message("system", "Be brief."), Message("user", "1 and 2?")), "3", "s")


def install_base(base: Path, root: Path, template: str, system_role: bool) -> Path:
    """Install `base` in the home `root` with the chat template `template`, and set `system_role` in its manifest.
    Returns the folder of its weights.
    """
    from nanoflux_models.weights import import_path

    source = shutil.copytree(base, root / "source")
    (source / "chat_template.jinja").write_text(template)
    import_path(source, "other", root)
    manifest_file = root / "models" / "other.toml"
    manifest = re.sub(r"(?m)^system_role = .*\n", "", manifest_file.read_text())
    if "[chat]" not in manifest:
        manifest += "\n[chat]\n"
    manifest_file.write_text(manifest.replace("[chat]\n", f"[chat]\nsystem_role = {str(system_role).lower()}\n"))
    return root / "weights" / "other"


@pytest.mark.parametrize("template_refuses", [True, False])
@pytest.mark.parametrize("system_role", [True, False])
def test_system_messages_are_encoded_as_at_inference(
    tiny_base: Path, tmp_path: Path, template_refuses: bool, system_role: bool
) -> None:
    """A system message is merged into the user message if, and only if, the template refuses it or the manifest says
    that the model has no system role.
    """
    from nanoflux_local.endpoints.local.codec import ChatCodec

    plain_template = (tiny_base / "chat_template.jinja").read_text()
    template = REFUSE_SYSTEM + plain_template if template_refuses else plain_template
    folder = install_base(tiny_base, tmp_path, template, system_role)
    codec, inference_codec = Codec.load(folder), ChatCodec(folder, system_role)
    encoded = codec.encode(EXAMPLE_WITH_SYSTEM, 0)
    assert list(encoded.ids[: encoded.prompt_length]) == inference_codec.encode(EXAMPLE_WITH_SYSTEM.prompt)
    is_merged = template_refuses or not system_role
    assert codec.merges_system_message(EXAMPLE_WITH_SYSTEM) is is_merged
    assert ("Be brief.\n\n1 and 2?" in codec.render_example(EXAMPLE_WITH_SYSTEM)) is is_merged
    report = audit(SETTINGS, [EXAMPLE_WITH_SYSTEM, replace(EXAMPLE_WITH_SYSTEM, completion="4")], (), folder)
    assert report.system_merged == (2 if is_merged else 0) and report.usable == 2 and not report.findings[1:]


def test_audit_names_rows_that_the_chat_template_refuses(tiny_base: Path, tmp_path: Path) -> None:
    refuse_bad = "{% if 'bad' in messages[0]['content'] %}{{ raise_exception('No bad words') }}{% endif %}"
    plain_template = (tiny_base / "chat_template.jinja").read_text()
    folder = install_base(tiny_base, tmp_path, refuse_bad + plain_template, system_role=True)
    rows = [TrainingExample((Message("user", text),), "3", text) for text in ("good", "bad", "fine")]
    report = audit(SETTINGS, rows, (), folder)
    (finding,) = report.findings
    assert (finding.id, finding.problem, finding.dropped) == ("bad", "refused by the template", True)
    assert "No bad words" in finding.detail
