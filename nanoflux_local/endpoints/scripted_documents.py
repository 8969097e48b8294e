"""The packaged fake model's replies about passages of documents: attacks, premises, and answers from the passages.

An attack quotes the first words of a sentence from each of two passages, and asks for the last word of each sentence.
Only a model with the passages can answer it.
"""

import random
import re
from collections.abc import Sequence

_PASSAGE = re.compile(r"^Passage (\d+)(?: \(.*?\))?: (.+)$", re.MULTILINE)
_SENTENCE = re.compile(r".+?[.!?](?=\s|$)|.+$")
_OPTION = re.compile(r"^([A-D])\. (.+)$", re.MULTILINE)
_QUOTED_OPENING = re.compile(r"“(.+?) …”")
"""The first words of a sentence, as a question of `write_document_attack` quotes them."""
OPENING_WORDS = 6
"""The number of words with which a question quotes the beginning of a sentence."""


def write_document_attack(prompt: str, rng: random.Random) -> str:
    """An attack on two passages of the prompt. One attack in ten misquotes, and one in ten cites a single passage."""
    first_sentences = [(number, sentences[0]) for number, sentences in _list_passages(prompt)]
    cited_sentences = rng.sample(first_sentences, min(2, len(first_sentences)))
    draw = rng.randrange(10)
    if draw == 0:
        cited_sentences = cited_sentences[:1]
    openings = [" ".join(sentence.split()[:OPENING_WORDS]) for _, sentence in cited_sentences]
    answer = " and ".join(_find_last_word(sentence) for _, sentence in cited_sentences)
    if draw == 1:
        cited_sentences = [(number, f"Nobody says that {sentence}") for number, sentence in cited_sentences]
    citations = "\n".join(f'{number}: "{sentence}"' for number, sentence in cited_sentences)
    quoted_openings = " and ".join(f"“{opening} …”" for opening in openings)
    stated_answer, option_lines = _offer_options(answer, rng) if "option letter" in prompt else (answer, "")
    return (
        f"CITATIONS:\n{citations}\n"
        f"QUESTION: {rng.choice(_SITUATIONS)} Which word ends {quoted_openings}?{option_lines}\n"
        f"SOLUTION: The rules end with {answer}.\nANSWER: {stated_answer}\nREFLECTION: each rule has one last word."
    )


def write_document_answer(prompt: str) -> str:
    """The answer to a question of `write_document_attack`, read from the passages of the prompt."""
    all_sentences = [sentence for _, sentences in _list_passages(prompt) for sentence in sentences]
    openings = _QUOTED_OPENING.findall(prompt.split("Question:")[-1])
    asked_sentences = [_find_sentence(all_sentences, opening) for opening in openings]
    if not openings or "" in asked_sentences:
        return "SOLUTION: The passages do not say it.\nANSWER: CANNOT BE ANSWERED, because a rule is missing"
    answer = " and ".join(map(_find_last_word, asked_sentences))
    if "option letter" in prompt:
        matching_letters = [letter for letter, option in _OPTION.findall(prompt) if option == answer]
        answer = matching_letters[0] if matching_letters else "A"
    return f"SOLUTION: The rules are in the passages.\nANSWER: {answer}"


def write_document_premises(prompt: str, rng: random.Random) -> str:
    """The sentences that a question of `write_document_attack` rests on. One reply in eight misquotes them, and one in
    eight reports an unsupported premise.
    """
    openings = _QUOTED_OPENING.findall(prompt.split("Question:")[-1].split("Solution:")[0])
    draw = rng.randrange(8)
    prefix = "Nobody says that " if draw == 0 else ""
    quotation_lines = [
        f'{number}: "{prefix}{sentence}"'
        for number, sentences in _list_passages(prompt)
        for sentence in sentences
        if any(sentence.startswith(opening) for opening in openings)
    ]
    unsupported = "that each rule has a last word" if draw == 1 else "NONE"
    return "PREMISES:\n" + ("\n".join(quotation_lines) or "NONE") + f"\nUNSUPPORTED: {unsupported}"


# The sentences with which questions begin, so that questions differ.
_SITUATIONS = (
    "A new colleague asks about two rules.", "The night shift starts.", "An audit is announced.", "A visitor waits.",
    "The store is being checked.", "A form is filled in.", "Two teams disagree.", "The weekly meeting begins.",
)  # fmt: skip


def _offer_options(answer: str, rng: random.Random) -> tuple[str, str]:
    """The letter of an answer among four options, and the lines of the options."""
    options = rng.sample([answer, f"{answer} twice", "neither word", "both words"], 4)
    option_lines = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    return "ABCD"[options.index(answer)], option_lines


def _list_passages(prompt: str) -> Sequence[tuple[int, list[str]]]:
    """The number and the sentences of each passage of a prompt."""
    return [
        (int(number), [sentence.strip() for sentence in _SENTENCE.findall(text)])
        for number, text in _PASSAGE.findall(prompt)
    ]


def _find_sentence(sentences: Sequence[str], opening: str) -> str:
    """The first sentence that starts with `opening`; "" if there is none."""
    return next((sentence for sentence in sentences if sentence.startswith(opening)), "")


def _find_last_word(sentence: str) -> str:
    return str(re.findall(r"\w+", sentence)[-1])
