"""The commands page is current, the paper's table names existing code, links have targets, the site works offline."""

import importlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from nanoflux_local.cli.main import COMMANDS
from nanoflux_local.cli.manual import render_manual

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"


def test_commands_page_matches_the_commands_help() -> None:
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == render_manual(), "run: make docs"
    assert all(f"\n### nanoflux {name}\n" in render_manual() for name in COMMANDS)


def test_paper_table_names_existing_code_and_tests() -> None:
    page = (DOCS / "reference" / "paper.md").read_text(encoding="utf-8")
    references = re.findall(r"\| `(nanoflux_[\w.]+)` \| `(tests/[\w/.]+)::(\w+)` \|", page)
    assert len(references) == page.count("\n| ") - 1 and len(references) > 20, "a row lacks its code or its test"
    for symbol_path, file, test in references:
        module, name = symbol_path.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), symbol_path
        assert f"def {test}(" in (PROJECT / file).read_text(encoding="utf-8"), test


@pytest.mark.parametrize("page", [PROJECT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_links_between_pages_have_targets(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not urlsplit(target).scheme and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


class PageLinks(HTMLParser):
    """The resources that a page loads, its links, and the anchors it defines."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id" and value:
                self.anchors.add(value)
            if key == "src" or (key == "href" and tag == "link"):
                self.fetched.append(value or "")
            elif key == "href":
                self.links.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mkdocs is not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return folder


def test_site_works_from_disk_with_every_link_and_anchor(site: Path) -> None:
    pages = {path: PageLinks(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert {page.relative_to(site).with_suffix(".md") for page in pages} >= {
        page.relative_to(DOCS) for page in DOCS.rglob("*.md")
    }
    for page, links in pages.items():
        if page.name == "404.html":
            continue  # only a web server shows this page
        for target in [*links.fetched, *links.links]:
            url = urlsplit(target)
            if url.scheme in ("http", "https"):
                assert target in links.links, f"{page.name} fetches {target}"
                continue
            path = (page.parent / unquote(url.path)).resolve() if url.path else page
            assert path.is_file(), f"{page.name}: {target}"
            assert not url.fragment or path not in pages or unquote(url.fragment) in pages[path].anchors, target
