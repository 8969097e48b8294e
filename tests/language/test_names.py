"""Variables are named after their value, and functions after what they do."""

import ast
import re

import pytest

from tests.language.project_sources import PACKAGES, SOURCES, Function, list_assigned_names, list_functions

BARE_NAMES = {"found", "told", "known", "given", "what", "thing", "at"}
"""Names that do not describe their value."""
NOT_PARTICIPLES = {
    "seed", "embed", "feed", "need", "read", "put", "cut", "set", "let", "split", "shed", "proceed", "exceed",
}  # fmt: skip
"""Words that look like participles, but are also verbs in the imperative or nouns."""
IRREGULAR_PARTICIPLES = {
    "told", "found", "known", "given", "made", "kept", "held", "drawn", "begun", "shown", "taken", "lost", "left",
    "written", "built", "sent", "met", "said", "spent", "stuck", "broken", "chosen", "worn", "gone", "done",
}  # fmt: skip


def is_participle(name: str) -> bool:
    """Whether a function's name is a single past participle."""
    word = name.strip("_")
    return word not in NOT_PARTICIPLES and (word in IRREGULAR_PARTICIPLES or bool(re.fullmatch(r"[a-z]+ed", word)))


def is_accessor(function: Function) -> bool:
    """Whether a function is a property or a fixture: these are named after their value."""
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    return any("property" in decorator or "fixture" in decorator for decorator in decorators)


def test_variables_and_parameters_are_named_after_their_value() -> None:
    misnamed = [f"{location}: {name}" for location, name in list_assigned_names(SOURCES) if name in BARE_NAMES]
    assert not misnamed, "\n".join(misnamed)


def test_functions_are_named_after_what_they_do() -> None:
    misnamed = [
        f"{location}: {function.name}()"
        for location, function in list_functions(SOURCES)
        if is_participle(function.name) and not is_accessor(function)
    ]
    assert not misnamed, "\n".join(misnamed)


def test_tests_are_named_by_subject_and_behaviour() -> None:
    words_without_subject = (
        "a|an|the|what|who|whoever|where|it|no|nothing|nobody|every|everything|when|if|its|that|those|there"
    )
    misnamed = [
        f"{location}: {function.name}"
        for location, function in list_functions(("tests",))
        if re.match(rf"test_({words_without_subject})_", function.name)
    ]
    assert not misnamed, "\n".join(misnamed)


@pytest.mark.parametrize(("name", "expected"), [("trained", True), ("_told", True), ("embed", False), ("train", False)])
def test_is_participle_distinguishes_participles_from_verbs(name: str, expected: bool) -> None:
    assert is_participle(name) is expected


def test_assigned_names_cover_the_packages() -> None:
    assert len(list(list_assigned_names(PACKAGES))) > 5000, "the search for names finds too few of them"
