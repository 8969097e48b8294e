"""All errors that users see have the same form, and each says how to fix it."""

import re

from tests.language.project_sources import VALUE, list_raised_errors

CAPITALIZED_WORDS = {"GGUF", "GPU", "HOME", "LoRA", "QLoRA", "Python", "Ray", "SHA", "NanoFlux", "US"}
"""Words with a capital letter that may start a message."""


def find_faults(text: str) -> list[str]:
    """What is wrong with the form of a message or fix: a full stop at the end, a capital letter at the start, `please`
    or an exclamation mark.
    """
    faults = []
    if re.search(r"[\w)`'\"}]\.$", text.strip()):
        faults.append("ends with a full stop")
    first_word = re.match(r"[A-Z][a-z]+\b", text)
    if first_word and first_word[0] not in CAPITALIZED_WORDS:
        faults.append("opens with a capital letter")
    if re.search(r"\bplease\b|!$", text, re.IGNORECASE):
        faults.append("contains `please` or an exclamation mark")
    return faults


def test_messages_and_fixes_have_the_same_form() -> None:
    faults = [
        f"{error.location}: {fault}: {text}"
        for error in list_raised_errors()
        for text in (*error.messages, *(error.fixes or ()))
        for fault in find_faults(text)
    ]
    assert not faults, "\n".join(faults)


def test_errors_have_a_fix() -> None:
    missing = [
        f"{error.location}: {error.messages}" for error in list_raised_errors() if not error.fixes or "" in error.fixes
    ]
    assert not missing, "\n".join(missing)


def test_messages_rarely_consist_of_an_inserted_value_alone() -> None:
    """The other tests cannot check a message that is only an inserted value, so there must be few such messages."""
    unchecked_errors = [error.location for error in list_raised_errors() if error.messages == (VALUE,)]
    assert len(unchecked_errors) < 60, "\n".join(unchecked_errors)


def test_find_faults_reports_each_fault() -> None:
    assert find_faults("no weights for {} in {}") == []
    assert find_faults("GPU {} is taken") == []
    assert find_faults("There is no run {}.") == ["ends with a full stop", "opens with a capital letter"]
