"""A user's own domains: the example on the page about domains works, and each error in a domain or data file names the
file and the key.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nanoflux_local.cli.main import main
from nanoflux_local.domains.base import Domain, list_built_in
from nanoflux_local.domains.own import list_domain_names, load_domain, render_prompt
from nanoflux_local.errors import ConfigError, DataError, NanofluxError
from nanoflux_local.seeds.reading import read_benchmark

PROJECT = Path(__file__).parents[2]
DOMAINS_PAGE = PROJECT / "docs" / "how-to" / "domains.md"
PROMPTS_PAGE = PROJECT / "docs" / "reference" / "prompts.md"
MINIMAL_DOMAIN = """
title = "doses"
answer = "number"
datasets = ["pharmacy"]
seeds = { min = 2, max = 3 }
novelty = { question = 0.9 }
"""
"""The file of a domain with only the required keys."""


def read_block(language: str) -> str:
    """The only code block in `language` on the page about domains."""
    page = DOMAINS_PAGE.read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    (block,) = blocks
    return block


@pytest.fixture
def write_domain(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the file of the domain `mine` and its prompt files into a home, and returns the home."""

    def write_files(text: str, **prompt_by_file: str) -> Path:
        folder = tmp_path / "domains"
        folder.mkdir(exist_ok=True)
        (folder / "mine.toml").write_text(text, encoding="utf-8")
        for name, prompt in prompt_by_file.items():
            (folder / f"{name}.md").write_text(prompt, encoding="utf-8")
        return tmp_path

    return write_files


def test_example_on_the_domains_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "domains").mkdir()
    (tmp_path / "domains" / "pharmacy.toml").write_text(read_block("toml"), encoding="utf-8")
    (tmp_path / "domains" / "pharmacy_attacker.md").write_text(read_block("jinja"), encoding="utf-8")
    (tmp_path / "pharmacy.jsonl").write_text(read_block("json"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path))
    commands = read_block("sh").splitlines()
    assert len(commands) == 4
    outputs = []
    for command in commands:
        with pytest.raises(SystemExit) as exit_info:
            main(command.split()[1:])
        outputs.append("".join(capfd.readouterr()))
        assert exit_info.value.code == 0, outputs[-1]
    assert "6 items" in outputs[0] and "for the pharmacy's examination" in outputs[1]
    assert "3 of 3" in outputs[2] and outputs[3].count("kept_") == 3


def test_domains_page_names_every_key() -> None:
    page = DOMAINS_PAGE.read_text(encoding="utf-8")
    keys = Domain.model_fields.keys() - {"name", "prompts"}
    missing_keys = [key for key in keys if not re.search(rf"`{key}`|^\[?{key}\b", page, re.MULTILINE)]
    assert missing_keys == []


def test_domain_commands_print_json(
    write_domain: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = write_domain(MINIMAL_DOMAIN)
    monkeypatch.setenv("NANOFLUX_HOME", str(home))
    outputs = []
    for arguments in (("list",), ("show", "mine"), ("show", "mine", "--prompt", "code")):
        with pytest.raises(SystemExit) as exit_info:
            main(["domains", *arguments, "--json"])
        assert exit_info.value.code == 0
        outputs.append(json.loads(capfd.readouterr().out))
    domains, domain, prompt = outputs
    assert [entry["name"] for entry in domains] == [*list_built_in(), "mine"]
    assert domains[-1] == {"name": "mine", "title": "doses", "answer": "number", "datasets": ["pharmacy"]}
    assert (domain["hash"], domain["seeds"]) == (load_domain("mine", home).hash, {"min": 2, "max": 3})
    assert prompt["text"] == render_prompt(load_domain("mine", home), "code")
    with pytest.raises(SystemExit) as exit_info:
        main(["domains", "show", "poetry"])
    assert exit_info.value.code == 2 and "there is no domain 'poetry'" in capfd.readouterr().err


def test_domain_without_a_base_has_the_shared_prompts(write_domain: Callable[..., Path]) -> None:
    home = write_domain(MINIMAL_DOMAIN)
    domain = load_domain("mine", home)
    assert list_domain_names(home) == [*list_built_in(), "mine"]
    assert domain.prompts == load_domain("gsmhard").prompts and domain.examples == ()
    assert (domain.budgets["SOLUTION"], domain.confidence, domain.programs) == (1500, 0.9, False)


def test_domain_hash_covers_only_the_keys_that_runs_do_not_record(write_domain: Callable[..., Path]) -> None:
    """A run records the thresholds, but not the title, of its domain."""
    domain = load_domain("mine", write_domain(MINIMAL_DOMAIN))
    domain_with_other_title = load_domain("mine", write_domain(MINIMAL_DOMAIN.replace("doses", "drips")))
    domain_with_other_threshold = load_domain("mine", write_domain(MINIMAL_DOMAIN.replace("0.9", "0.8")))
    assert domain_with_other_title.hash != domain.hash
    assert domain_with_other_threshold.hash == domain.hash


ATTACKER_PROMPT_LINE = "prompt_files = { attacker = 'a.md' }"
INVALID_DOMAINS = {
    "unknown key": (MINIMAL_DOMAIN + "sonnets = 1", {}, "mine.toml: unknown key 'sonnets'"),
    "unknown key in a table": (
        MINIMAL_DOMAIN.replace("max = 3", "most = 3"), {}, "mine.toml: unknown key 'seeds.most'",
    ),
    "missing key": (MINIMAL_DOMAIN.replace('title = "doses"', ""), {}, "mine.toml: title: is missing"),
    "not TOML": ("title =", {}, "mine.toml: Invalid value"),
    "unknown base": ('extends = "poetry"', {}, "extends: there is no domain 'poetry'"),
    "threshold out of range": (MINIMAL_DOMAIN.replace("0.9", "9"), {}, "mine.toml: novelty.question"),
    "unknown prompt": (MINIMAL_DOMAIN + "prompt_files = { judge = 'a.md' }", {}, "unknown key 'prompt_files.judge'"),
    "text in place of file names": (MINIMAL_DOMAIN + "prompt_files = 'a.md'", {}, "prompt_files is not a table"),
    "missing prompt file": (MINIMAL_DOMAIN + ATTACKER_PROMPT_LINE, {}, "No such file"),
    "invalid template": (MINIMAL_DOMAIN + ATTACKER_PROMPT_LINE, {"a": "x\n{% for %}"}, "a.md, line 2"),
    "prompt file in another folder": (
        MINIMAL_DOMAIN + "prompt_files = { attacker = '../a.md' }", {"a": "x"}, "is in another folder",
    ),
    "unknown variable in a prompt": (
        MINIMAL_DOMAIN + ATTACKER_PROMPT_LINE, {"a": "{{ answer }}"}, "a.md: uses the unknown variable 'answer'",
    ),
    "unknown key of a variable in a prompt": (
        MINIMAL_DOMAIN + ATTACKER_PROMPT_LINE, {"a": "{{ domain.poem }}"}, "a.md: the template cannot be filled in",
    ),
    "Python attributes in a prompt": (
        MINIMAL_DOMAIN + ATTACKER_PROMPT_LINE,
        {"a": "{{ seeds.__class__.__mro__ }}"},
        "the template cannot be filled in",
    ),
    "missing section": (
        MINIMAL_DOMAIN + 'sections = { defender = ["SOLUTION"] }', {}, "sections.defender lacks ANSWER",
    ),
    "negative budget": (MINIMAL_DOMAIN + "budgets = { ANALYSIS = -1 }", {}, "mine.toml: budgets.ANALYSIS: "),
    "budget of an unknown section": (MINIMAL_DOMAIN + "budgets = { FOO = 1 }", {}, "unknown key 'budgets.FOO'"),
    "trial beyond the maximum of a run": (MINIMAL_DOMAIN + "trial = 1001", {}, "mine.toml: trial: "),
    "choice without letters": (MINIMAL_DOMAIN.replace('"number"', '"choice"'), {}, "letters is missing"),
}  # fmt: skip
"""For each invalid domain: its file, its prompt files by name without suffix, and a part of the error message."""


@pytest.mark.parametrize(("text", "prompts", "message"), INVALID_DOMAINS.values(), ids=INVALID_DOMAINS)
def test_error_in_a_domain_names_the_file(
    write_domain: Callable[..., Path], text: str, prompts: dict[str, str], message: str
) -> None:
    home = write_domain(text, **prompts)
    with pytest.raises(ConfigError) as caught:
        load_domain("mine", home)
    assert message in caught.value.message and str(home) in caught.value.message
    assert caught.value.fix


def test_domain_show_refuses_an_unknown_check(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("NANOFLUX_HOME", str(tmp_path))
    (tmp_path / "domains").mkdir()
    (tmp_path / "domains" / "mine.toml").write_text(MINIMAL_DOMAIN + 'checks = ["blind", "blin"]')
    with pytest.raises(SystemExit) as exit_info:
        main(["domains", "show", "mine"])
    assert exit_info.value.code == 2
    output = capfd.readouterr().err
    assert "domain mine: checks: there is no check 'blin'" in output and "did you mean 'blind'?" in output


def test_domain_list_shows_the_error_of_a_broken_file(
    write_domain: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = write_domain(MINIMAL_DOMAIN)
    (home / "domains" / "broken.toml").write_text("title =")
    monkeypatch.setenv("NANOFLUX_HOME", str(home))
    with pytest.raises(SystemExit) as exit_info:
        main(["domains", "list", "--json"])
    entries = json.loads(capfd.readouterr().out)
    assert exit_info.value.code == 0
    assert [entry["name"] for entry in entries] == [*list_built_in(), "broken", "mine"]
    assert "broken.toml: Invalid value" in entries[-2]["title"] and entries[-1]["title"] == "doses"
    with pytest.raises(SystemExit) as exit_info:
        main(["domains", "list"])
    assert exit_info.value.code == 0 and "broken.toml: Invalid value" in capfd.readouterr().out


def test_domain_file_with_a_built_in_name_is_refused(write_domain: Callable[..., Path]) -> None:
    home = write_domain(MINIMAL_DOMAIN)
    (home / "domains" / "starter.toml").write_text(MINIMAL_DOMAIN)
    with pytest.raises(ConfigError, match=r"starter\.toml: the name 'starter' belongs to a built-in domain") as caught:
        load_domain("starter", home)
    assert "my-starter.toml" in caught.value.fix


def test_domain_files_outside_the_folder_are_ignored(write_domain: Callable[..., Path]) -> None:
    home = write_domain(MINIMAL_DOMAIN)
    for name in ("../domains/mine", "mine.toml", "", "other"):
        with pytest.raises(ConfigError, match="there is no domain"):
            load_domain(name, home)


def write_data(folder: Path, *lines: str) -> Path:
    """Write a data file with `lines`, and return its path."""
    path = folder / "own.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_own_data_can_set_every_field_of_a_seed(tmp_path: Path) -> None:
    path = write_data(
        tmp_path,
        '{"question": "Q1?", "answer": 5, "solution": "s", "program": "print(5)", "id": "q-1", "split": "dev"}',
        '{"question": "Q2?", "answer": "B", "options": {"A": "a", "B": "b"}, "solution": null}',
        '{"question": "Q3?", "answer": "a text"}',
    )
    first_item, second_item, third_item = read_benchmark("mine", [path]).items
    first_seed = first_item.seed
    second_seed = second_item.seed
    assert (first_seed.id, first_seed.answer) == ("mine-q-1", "5")
    assert (first_seed.solution, first_seed.program, first_item.split) == ("s", "print(5)", "dev")
    assert (second_seed.id, second_seed.options, second_seed.answer) == ("mine-2", {"A": "a", "B": "b"}, "B")
    assert third_item.split in ("train", "dev", "test")
    (tmp_path / "test.csv").write_text("question,answer,solution\nQ?,7,\n")
    assert read_benchmark("mine", [tmp_path / "test.csv"]).items[0].split == "test"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Q?", "answer": "a", "note": 1}', "unknown key 'note'"),
        ('{"question": "Q?"}', "key 'answer' is missing or null"),
        ('{"question": "", "answer": "a"}', "key 'question' is empty"),
        ('{"question": null, "answer": "a"}', "key 'question' is missing or null"),
        ('{"question": 5, "answer": "a"}', "key 'question' is not a string"),
        ('{"question": "Q?", "answer": true}', "key 'answer' is neither a number nor a string"),
        ('{"question": "Q?", "answer": " "}', "key 'answer' is empty"),
        ('{"question": "Q?", "answer": "C", "options": {"A": "a", "B": "b"}}', "'C' is not one of the options"),
        ('{"question": "Q?", "answer": "A", "options": {"A": "a", "C": "b"}}', "strings under A, B, C"),
        ('{"question": "Q?", "answer": "A", "options": ["a"]}', "not a table"),
        ('{"question": "Q?", "answer": "a", "split": "exam"}', "'exam', not train"),
    ],
)
def test_error_in_own_data_names_the_row(tmp_path: Path, line: str, message: str) -> None:
    path = write_data(tmp_path, '{"question": "Q?", "answer": "a"}', line)
    with pytest.raises(DataError) as caught:
        read_benchmark("mine", [path])
    assert caught.value.message.startswith(f"{path}, line 2: ") and message in caught.value.message


# Prompts


PROMPT_FILE_NAMES = {
    ("starter", "defender"): "defender_short",
    ("gsmhard-short", "defender"): "defender_steps",
    ("documents", "attacker"): "attacker_documents",
    ("documents", "validation"): "validation_documents",
    ("documents-choice", "attacker"): "attacker_documents",
    ("documents-choice", "validation"): "validation_documents",
}
"""The prompt files that are not named after their prompt, by domain and prompt (without the suffix `.md`)."""


def read_prompt_table() -> dict[str, tuple[int, int]]:
    """The version and the maximum number of tokens of each prompt file, as the page about prompts states them."""
    page = PROMPTS_PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    return {name: (int(version), int(tokens)) for name, version, tokens in rows}


def test_prompts_page_lists_every_prompt_with_its_version() -> None:
    folder = PROJECT / "nanoflux_local" / "domains" / "prompts"
    first_lines = {path.stem: path.read_text(encoding="utf-8").splitlines()[0] for path in folder.glob("*.md")}
    expected_lines = {name: f"{{# version {version} #}}" for name, (version, _) in read_prompt_table().items()}
    assert first_lines == expected_lines


@pytest.mark.real_model
def test_prompts_stay_within_the_token_counts_on_the_page(smollm2_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    prompt_table = read_prompt_table()
    for name in list_built_in():
        domain = load_domain(name)
        for prompt in domain.prompts:
            _, max_tokens = prompt_table[PROMPT_FILE_NAMES.get((name, prompt), prompt)]
            text = render_prompt(domain, prompt)
            token_count = len(tokenizer(text)["input_ids"])
            assert token_count <= max_tokens, (name, prompt, token_count)
            assert "version 1" not in text, "the rendered prompt contains the comment with the version"


def test_unknown_prompt_is_refused() -> None:
    with pytest.raises(NanofluxError, match="unknown prompt 'judge'"):
        render_prompt(load_domain("gsmhard"), "judge")
