"""Writes the tokenizers of stand-ins. Control tokens have the ids of the family's real tokenizer; the other tokens are
trained on given texts, or are a fixed vocabulary.

Tokenizers are byte-level, so that they can encode any text. Unused ids get meaningless words, so that every id that a
random model draws can be decoded.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from nanoflux_models.stand_ins.family import Family

MAX_TRAINED_TOKENS = 3000
"""The maximum size of a trained vocabulary, including single bytes."""


def write_tokenizer(
    family: Family, folder: Path, texts: Sequence[str], vocabulary: Sequence[bytes] | None, phrases: Sequence[str] = ()
) -> None:
    """Write the tokenizer files of a stand-in into `folder`.

    `vocabulary` lists all tokens except the control tokens in the order of their ids, for families whose servers have a
    fixed vocabulary (gpt-oss). For other families, the vocabulary is trained on `texts`, and each of the `phrases` is
    one token.
    """
    from transformers import PreTrainedTokenizerFast

    if vocabulary:
        byte_level_tokenizer = _make_from_vocabulary(family, vocabulary)
        _add_control_tokens(byte_level_tokenizer, family, ())
    else:
        byte_level_tokenizer = _train_tokenizer(family, texts, phrases)
        _add_control_tokens(byte_level_tokenizer, family, phrases)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer,
        bos_token=family.bos or None,
        eos_token=family.eos,
        pad_token=family.pad,
        unk_token=family.pad,  # never needed, since any byte can be encoded, but some classes would add another token
        **family.tokenizer_options,
    )
    tokenizer.chat_template = family.chat_template
    tokenizer.save_pretrained(str(folder))


def _train_tokenizer(family: Family, texts: Sequence[str], phrases: Sequence[str]) -> Any:
    """Train a BPE tokenizer on `texts`."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained_tokenizer = Tokenizer(models.BPE())
    trained_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = min(MAX_TRAINED_TOKENS, family.vocabulary - len(family.control_tokens) - len(phrases))
    trained_tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    id_by_word = trained_tokenizer.get_vocab()
    merges = [tuple(pair) for pair in json.loads(trained_tokenizer.to_str())["model"]["merges"]]
    words_in_id_order = sorted(id_by_word, key=lambda word: id_by_word[word])
    return Tokenizer(models.BPE(_place_tokens(family, [*phrases, *words_in_id_order]), merges))


def _place_tokens(family: Family, ordered_words: Sequence[str]) -> dict[str, int]:
    """The id of each token: control tokens have fixed ids; the remaining ids are assigned to the words in order, then
    to meaningless words.
    """
    vocabulary = dict(family.control_tokens)
    control_ids = set(family.control_tokens.values())
    words = chain(ordered_words, _list_meaningless_words(ordered_words))
    for token_id in range(family.vocabulary):
        if token_id not in control_ids:
            vocabulary[next(words)] = token_id
    return vocabulary


def _list_meaningless_words(used_words: Sequence[str]) -> Iterator[str]:
    """An endless series of words that are not in `used_words`."""
    excluded_words = set(used_words)
    for number in count():
        word = f"Ġ~{number:x}"
        if word not in excluded_words:
            yield word


def _make_from_vocabulary(family: Family, tokens: Sequence[bytes]) -> Any:
    """A tokenizer of `tokens` and the control tokens. It has no merges, so it encodes any other text as bytes."""
    from tokenizers import Tokenizer, models

    letters = _map_bytes_to_letters()
    id_by_word = {"".join(letters[byte] for byte in token): token_id for token_id, token in enumerate(tokens)}
    return Tokenizer(models.BPE({**id_by_word, **family.control_tokens}, [], ignore_merges=True))


def _map_bytes_to_letters() -> Mapping[int, str]:
    """The character that represents each byte in byte-level tokenizers, as in GPT-2."""
    printable_bytes = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    other_bytes = [byte for byte in range(256) if byte not in printable_bytes]
    letters = {byte: chr(byte) for byte in printable_bytes}
    for offset, byte in enumerate(other_bytes):
        letters[byte] = chr(256 + offset)
    return letters


def _add_control_tokens(byte_level_tokenizer: Any, family: Family, phrases: Sequence[str]) -> None:
    """Add a family's control tokens and the `phrases` to a tokenizer of the library `tokenizers`, in place."""
    from tokenizers import AddedToken, decoders, pre_tokenizers, processors

    byte_level_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level_tokenizer.decoder = decoders.ByteLevel()
    byte_level_tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in family.control_tokens if token not in family.visible_tokens]
    )
    byte_level_tokenizer.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in (*family.visible_tokens, *phrases)]
    )
    if family.adds_bos:
        byte_level_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, family.control_tokens[family.bos])]
        )
