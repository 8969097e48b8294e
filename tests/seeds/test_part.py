"""Parts of a chain that are made from seeds: which programs are supported, and which numbers can be replaced (paper
§3).
"""

import pytest

from nanoflux_local.seeds.part import fill, read_assignments, split_into_parts

EGGS_PROGRAM = '''
def solution():
    """Ducks lay 16 eggs."""
    eggs_per_day = 16
    eaten = 3
    price = 2
    sold = eggs_per_day - eaten
    result = sold * price
    return result
'''
EGGS_QUESTION = "Ducks lay 16 eggs per day. She eats 3 and sells the rest for $2 each. What does she earn?"


def make_program(*lines: str, last_line: str = "return result") -> str:
    """A program whose function `solution` consists of `lines` and `last_line`."""
    return "\n".join(["def solution():", *(f"    {line}" for line in (*lines, last_line))])


def find_slots(question: str, code: str) -> dict[str, str]:
    """The possible slots of a question: the quantity as written, by the name of its variable."""
    return {part.slot_variable: part.value for part in split_into_parts("id", question, code)}


def test_read_assignments_ends_with_the_answer():
    assert read_assignments(EGGS_PROGRAM) == (
        ("eggs_per_day", "16"), ("eaten", "3"), ("price", "2"), ("sold", "eggs_per_day - eaten"),
        ("result", "sold * price"), ("answer", "result"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (make_program("a = 5", last_line="return a * 2"), "a * 2"),
        (make_program("a = 5", "result = max(a, abs(-3), round(a / 2))"), "result"),
        (make_program("a = 5", "result = (a ** 2) % 7 // 2"), "result"),
        (make_program("a = 5", "result = -a"), "result"),
        (make_program("a = 5", "result = a") + "\n\nprint(repr(solution()))\n", "result"),
    ],
)
def test_read_assignments_accepts_arithmetic_and_a_few_calls(code, answer):
    assert read_assignments(code)[-1] == ("answer", answer)


UNSUPPORTED_PROGRAMS = {
    "a for loop": make_program("result = 0", "for i in range(3): result = result + i"),
    "a while loop": make_program("result = 5", "while result > 3: result = 1"),
    "a reassignment": make_program("a = 5", "a = a + 1", "result = a"),
    "an augmented assignment": make_program("result = 5", "result += 1"),
    "a branch": make_program("a = 5", "if a > 3: a = 1", "result = a"),
    "an if expression": make_program("a = 5", "result = a if a > 3 else 1"),
    "two targets": make_program("a = b = 5", "result = a + b"),
    "unpacking": make_program("a, b = 5, 6", "result = a + b"),
    "a list": make_program("a = [1, 2]", "result = sum(a)"),
    "a string": make_program("a = 'x'", "result = 5"),
    "a boolean": make_program("a = True", "result = a + 1"),
    "a comparison": make_program("a = 5", "result = a > 3"),
    "an attribute": make_program("a = 5", "result = a.real"),
    "an index": make_program("a = 5", "result = a[0]"),
    "another function": make_program("a = 5", "result = pow(a, 2)"),
    "a method": make_program("import math", "result = math.sqrt(4)"),
    "a keyword argument": make_program("a = 5", "result = round(a, ndigits=1)"),
    "a lambda": make_program("result = (lambda: 5)()"),
    "a walrus": make_program("result = (a := 5)"),
    "an annotation": make_program("a: int = 5", "result = a"),
    "an early return": make_program("a = 5", "return a", "result = 6"),
    "a statement with an effect": make_program("a = 5", "print(a)", "result = a"),
    "no return": "def solution():\n    a = 5",
    "a bare return": make_program("a = 5", last_line="return"),
    "a variable named answer": make_program("answer = 5", last_line="return answer"),
    "no function": "a = 5\nprint(a)",
    "a class": "class solution: pass",
    "an import before": "import math\n" + make_program("result = 5"),
    "not Python": "def solution(:",
    "a NUL": make_program("result = 5") + "\0",
    "nested too deep": make_program("result = " + "-" * 20_000 + "1"),
    "empty": "",
}


@pytest.mark.parametrize("code", UNSUPPORTED_PROGRAMS.values(), ids=UNSUPPORTED_PROGRAMS)
def test_unsupported_program_gives_no_part(code):
    assert read_assignments(code) is None
    assert split_into_parts("id", "There are 5 hens and 6 cocks.", code) == []


def test_slot_splits_the_text_around_its_number():
    assert find_slots(EGGS_QUESTION, EGGS_PROGRAM) == {"eggs_per_day": "16", "eaten": "3", "price": "2"}
    parts = split_into_parts("ducks", EGGS_QUESTION, EGGS_PROGRAM)
    part_by_slot = {part.slot_variable: part for part in parts}
    part = part_by_slot["eaten"]
    assert part.seed == "ducks"
    assert part.before.endswith("She eats ") and part.after.startswith(" and sells")
    assert part.text() == EGGS_QUESTION
    assert part.text("X") == EGGS_QUESTION.replace("eats 3", "eats X")
    assert part.statements == read_assignments(EGGS_PROGRAM)
    assert part.lines == (
        "Sold = {eggs_per_day} - {eaten} = {sold}.", "The answer = {sold} * {price} = {result}.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("question", "slot_text"),
    [
        ("She has 4933828 hens.", "4933828"),
        ("She has 4,933,828 hens.", "4,933,828"),
        ("It costs $4933828.", "4933828"),
        ("A 4933828-piece puzzle", "4933828"),
        ("Are there 4933828?", "4933828"),
        ("4933828 hens", "4933828"),
        ("She has 4933828 hens and 4933828 cocks.", None),
        ("She has 4933828 hens, that is 4,933,828.", None),
        ("She has 4933828.5 hens.", None),
        ("She has 14933828 hens.", None),
        ("She has 49338280 hens.", None),
        ("She has 14,933,828 hens.", None),
        ("She has 4933828% more.", None),
        ("1/4933828 of it", None),
        ("4933828/3 of it", None),
        ("a ratio of 7:4933828", None),
        ("item x4933828", None),
        ("4933828th", None),
        ("She has many hens.", None),
    ],
)
def test_slot_is_a_number_that_occurs_once(question, slot_text):
    """`slot_text` is the number as the question writes it, or None if the number cannot be a slot."""
    code = make_program("hens = 4933828", "result = hens * 2")
    assert find_slots(question, code) == ({} if slot_text is None else {"hens": slot_text})


HENS_QUESTION = "There are 5 hens, 6 cocks, 1 dog and 0 cats."


@pytest.mark.parametrize(
    ("lines", "slots"),
    [
        (("hens = 5", "cocks = 6", "result = hens + cocks"), {"hens": "5", "cocks": "6"}),
        (("hens = 5", "also = 5", "result = hens + also"), {}),
        (("hens = 5", "result = hens * 5"), {}),
        (("hens = 5", "result = hens * 5.5"), {"hens": "5"}),
        (("hens = 5", "result = hens * 55"), {"hens": "5"}),
        (("dog = 1", "cats = 0", "result = dog + cats"), {}),
        (("hens = 5.0", "result = hens"), {}),
        (("hens = -5", "result = hens"), {}),
        (("hens = 5 + 0", "result = hens"), {}),
        (("hens = 7", "result = hens"), {}),
        (("hens = 5", "cocks = 6", "result = cocks * 2"), {"cocks": "6"}),
        (("hens = 5", "idle = hens * 2", "cocks = 6", "result = cocks * 2"), {"cocks": "6"}),
    ],
    ids=["two slots", "assigned twice", "repeated in an expression", "part of 5.5", "part of 55", "too small", "float",
         "negative", "calculated", "not in the question", "unused", "used only by an unused variable"],
)  # fmt: skip
def test_slot_occurs_once_in_the_program_and_affects_the_answer(lines, slots):
    assert find_slots(HENS_QUESTION, make_program(*lines)) == slots


def test_fill_writes_plain_numbers_into_explanations():
    assert fill("Sold = {a} - {b_2} = {sold}.", {"a": 16.0, "b_2": 2.5, "sold": 13.5}) == "Sold = 16 - 2.5 = 13.5."


def test_functions_keep_their_names_in_explanations():
    code = make_program("hens = 5", "cocks = 6", "result = max(hens, cocks)")
    assert split_into_parts("id", HENS_QUESTION, code)[0].lines == ("The answer = max({hens}, {cocks}) = {result}.",)
