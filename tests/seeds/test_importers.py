"""Imports: an error about a bad row names its line, an item's split depends only on its words, and draws are
uniform.
"""

import hashlib
import json
import random
from collections import Counter

import pytest

from nanoflux_local.errors import DataError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.records import Identity, PythonReply
from nanoflux_local.seeds.benchmarks.starter import make_starter_items
from nanoflux_local.seeds.datasets import load_items
from nanoflux_local.seeds.importing import check_programs, hash_file
from nanoflux_local.seeds.part import split_into_parts
from nanoflux_local.seeds.reading import read_benchmark
from nanoflux_local.seeds.source import Items
from nanoflux_local.seeds.splits import hash_into_split
from nanoflux_local.seeds.tables import MAX_LINE_BYTES, read_rows

# A row of GSM-Hard, from which the tests make other rows.
GOOD_ROW = {"input": " How many are 6 times 7? ", "code": "def solution():\n    return 6 * 7\n\n", "target": 42.0}


def read_items(path, **options):
    """The items of a file in GSM-Hard's format."""
    return read_benchmark("gsmhard", [path], **options).items


def make_line(**changed_values) -> bytes:
    """The good row with some changed values, as a line of JSON."""
    return json.dumps({**GOOD_ROW, **changed_values}).encode()


def make_line_without(key: str) -> bytes:
    """The good row without a key, as a line of JSON."""
    return json.dumps({name: value for name, value in GOOD_ROW.items() if name != key}).encode()


@pytest.fixture
def write(tmp_path):
    """A function that writes the given lines to a file and returns its path."""

    def write_lines(*lines: bytes):
        path = tmp_path / "file.jsonl"
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write_lines


def test_good_row_becomes_an_item_with_its_location(write):
    path = write(make_line(), b"", b"  ", make_line(target=-3))
    first_item, last_item = read_items(path)
    location, seed, _ = first_item
    assert (location, seed.id, seed.dataset) == (f"{path}, line 1", "gsmhard-1", "gsmhard")
    assert (seed.question, seed.answer) == ("How many are 6 times 7?", "42")
    assert seed.program == "def solution():\n    return 6 * 7\n\nprint(repr(solution()))\n"
    assert last_item.location == f"{path}, line 4", "the line number skips blank lines"
    assert last_item.seed.id == "gsmhard-2", "the item number counts blank lines"


BAD_ROWS = {
    "input missing": (make_line_without("input"), "key 'input' is missing"),
    "code missing": (make_line_without("code"), "key 'code' is missing"),
    "target missing": (make_line_without("target"), "key 'target' is missing"),
    "input not a string": (make_line(input=5), "key 'input'"),
    "code null": (make_line(code=None), "key 'code'"),
    "target a string": (make_line(target="42"), "key 'target'"),
    "target a boolean": (make_line(target=True), "key 'target'"),
    "target infinite": (make_line(target=float("inf")), "key 'target'"),
    "target NaN": (make_line(target=float("nan")), "key 'target'"),
    "target beyond a double": (make_line(target=10**400), "key 'target'"),
    "input empty": (make_line(input="  "), "key 'input' is empty"),
    "a list": (b"[1, 2]", "not a JSON object"),
    "a number": (b"7", "not a JSON object"),
    "truncated": (make_line()[:-5], "not JSON in UTF-8"),
    "two objects": (make_line() + make_line(), "not JSON in UTF-8"),
    "nested too deep": (b'{"a": ' + b"[" * 100_000, "not JSON in UTF-8"),
    "Latin-1": (b'{"input": "caf\xe9"}', "not JSON in UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf" + make_line(), "not JSON in UTF-8"),
    "too long": (make_line(input="x" * MAX_LINE_BYTES), f"longer than {MAX_LINE_BYTES} bytes"),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_error_on_a_bad_row_names_file_and_line(write, row, message):
    path = write(make_line(), b"", row, make_line())
    with pytest.raises(DataError) as error:
        read_items(path)
    assert error.value.message.startswith(f"{path}, line 3: ")
    assert message in error.value.message
    assert error.value.exit_code == 2


def test_line_as_long_as_the_limit_is_read(write):
    row = b'{"a": "' + b"x" * (MAX_LINE_BYTES - 10) + b'"}'
    assert len(row) + 1 == MAX_LINE_BYTES
    assert [row.problem for row in read_rows(write(row))] == [""]


@pytest.mark.parametrize(
    ("name", "cause"), [("missing.jsonl", "No such file"), (".", r"a folder without \.arrow files")]
)
def test_error_on_an_unreadable_path_names_the_cause(tmp_path, name, cause):
    with pytest.raises(DataError, match=cause):
        list(read_rows(tmp_path / name))


def test_empty_file_has_no_items(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.touch()
    assert read_items(path) == []


def test_file_hash_covers_its_bytes(write):
    path = write(make_line(), b"\xff")
    assert hash_file(path) == hashlib.sha256(make_line() + b"\n\xff\n").hexdigest()


def test_unknown_benchmarks_and_splits_are_refused(tmp_path):
    for name in ("Poetry", "starter-poems", "../poems", ""):
        with pytest.raises(UsageError, match="is neither a benchmark nor a valid name"):
            read_benchmark(name, [tmp_path])
    with pytest.raises(UsageError, match="'starter' is a built-in benchmark, which needs no import"):
        read_benchmark("starter", [tmp_path])
    with pytest.raises(UsageError, match=r"'gsm-hard' is neither .*; did you mean 'gsmhard'\?"):
        read_benchmark("gsm-hard", [tmp_path])
    with pytest.raises(UsageError, match="training"):
        load_items(tmp_path / "ledger.db", "starter", "training")
    with pytest.raises(NothingMatchedError, match="'gsmhard' has no train items"):
        load_items(tmp_path / "ledger.db", "gsmhard", "train")
    assert not (tmp_path / "ledger.db").exists(), "a failed load must not create the ledger"


def check_file(sandbox, path):
    """Run the programs of a file's items, and compare the numbers that they print with the answers."""
    sandbox.wait(check_programs(read_items(path), sandbox.call, sandbox.identity))


DISAGREEING_ROWS = {
    "another number": make_line(target=43),
    "a number just outside the tolerance": make_line(target=42.001),
    "an error": make_line(code="def solution():\n    return 1 / 0"),
    "no function": make_line(code="x = 42"),
    "no number": make_line(code="def solution():\n    return None"),
    "an infinity": make_line(code="def solution():\n    return float('inf')"),
    "not Python": make_line(code="def solution(:"),
    "a lone surrogate": make_line(code="def solution():\n    return '\ud800'"),
}


def test_programs_that_print_the_answers_pass_the_check(write, sandbox):
    check_file(sandbox, write(make_line(), make_line(target=42), make_line(target=42.00001)))


@pytest.mark.parametrize("row", DISAGREEING_ROWS.values(), ids=DISAGREEING_ROWS)
def test_error_on_a_disagreeing_program_names_the_line(write, sandbox, row):
    path = write(make_line(), row, make_line())
    with pytest.raises(DataError) as error:
        check_file(sandbox, path)
    assert error.value.message.startswith(f"{path}, line 2: its program gives ")


def test_unavailable_sandbox_is_not_reported_as_a_bad_row(write, sandbox):
    async def reply_unavailable(request):
        return PythonReply("unavailable", None, "", "no namespaces", False, "none")

    path = write(make_line())
    with pytest.raises(RefusedError, match="no namespaces"):
        sandbox.wait(check_programs(read_items(path), reply_unavailable, Identity("sandbox", "none")))


def make_texts(count: int) -> list[str]:
    """`count` texts of eight random words each."""
    rng = random.Random(0)
    words = ["apples", "hens", "trains", "boxes", "litres", "coins", "miles", "pages", "hours", "loaves"]
    return [" ".join(rng.choice(words) for _ in range(8)) for _ in range(count)]


def test_hashed_splits_have_their_shares_and_never_change():
    distinct_texts = set(make_texts(5000))
    count_by_split = Counter(hash_into_split(text) for text in distinct_texts)
    for split, share in (("train", 0.6), ("dev", 0.1), ("test", 0.3)):
        assert count_by_split[split] / len(distinct_texts) == pytest.approx(share, abs=0.025), count_by_split
    assert [hash_into_split(f"{word} are eaten") for word in ("Eggs", "Dates", "Oats")] == ["train", "dev", "test"]


def test_split_ignores_numbers_case_and_punctuation():
    """A restated question with different numbers must be in the same split as the original."""
    for text in make_texts(200):
        variants = [
            f"{text.capitalize()} 16 and 3?",
            f"{text} 4,933,828 and 0.5",
            f"{text}; and",
            f"{text.upper()}: $7 AND",
        ]
        assert len({hash_into_split(variant) for variant in variants}) == 1


def test_official_file_of_gsm_hard_is_read_completely(gsmhard_path):
    seeds = [item.seed for item in read_items(gsmhard_path)]
    assert len(seeds) == 1319
    assert len({seed.id for seed in seeds}) == 1319
    assert seeds[0].answer == "-9867630"
    assert len(split_into_parts("x", seeds[1].question, seeds[1].program)) == 1


def test_most_seeds_of_gsm_hard_can_be_chained(gsmhard_path):
    """A chain inserts the answer of one question into the next."""
    seeds = [item.seed for item in read_items(gsmhard_path)]
    rng = random.Random(0)
    drawn_seeds = Items(seeds, chainable=True).draw(1000, rng)
    assert len({seed.id for seed in drawn_seeds}) == 1000
    for seed in drawn_seeds:
        first_part = split_into_parts(seed.id, seed.question, seed.program)[0]
        assert first_part.text() == seed.question


@pytest.mark.parametrize(
    ("source", "count"),
    [(Items(make_starter_items("train")), 20), (Items(make_starter_items("test")), 15)],
    ids=["train", "test"],
)
def test_draws_avoid_excluded_seeds_while_enough_others_are_left(source, count):
    first_ids = {seed.id for seed in source.draw(count, random.Random(1))}
    second_ids = {seed.id for seed in source.draw(count, random.Random(1), excluded_ids=first_ids)}
    assert len(first_ids) == len(second_ids) == count
    assert not first_ids & second_ids


def test_draws_are_uniform():
    source = Items(make_starter_items("train")[:10])
    rng = random.Random(0)
    count_by_id: Counter[str] = Counter()
    for _ in range(4000):
        count_by_id.update(seed.id for seed in source.draw(3, rng))
    assert len(count_by_id) == 10
    for count in count_by_id.values():
        assert count == pytest.approx(1200, abs=120)


def test_draw_of_more_seeds_than_exist_is_refused():
    source = Items(make_starter_items("train")[:4])
    with pytest.raises(NothingMatchedError, match="needs 5 seeds, but there are only 4"):
        source.draw(5, random.Random(0))
    assert len(source.draw(4, random.Random(0))) == 4


def test_draw_includes_excluded_seeds_if_too_few_others_are_left():
    items = make_starter_items("train")[:4]
    source = Items(items)
    excluded_ids = {items[0].id, items[1].id}
    seeds = source.draw(2, random.Random(0), excluded_ids)
    assert {seed.id for seed in seeds} == {items[2].id, items[3].id}
    assert len(source.draw(3, random.Random(0), excluded_ids)) == 3


def test_source_without_usable_seeds_is_refused():
    with pytest.raises(NothingMatchedError, match="no training items"):
        Items([])
    with pytest.raises(NothingMatchedError, match="no training items"):
        Items(make_starter_items("train")[:3], chainable=True)  # starter programs define no function
