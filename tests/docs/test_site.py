"""The page of commands is current, the table in paper.md names existing code and tests, links have targets, and the
site works without a network.
"""

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
    row_count = page.count("\n| ") - 1  # without the headings
    assert len(references) == row_count > 20, "a row lacks its code or its test"
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
    """The resources that an HTML page loads, its links, and the anchors that it defines."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id" and value:
                self.anchors.add(value)
            if key == "src" or (key == "href" and tag == "link"):
                self.resources.append(value or "")
            elif key == "href":
                self.links.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site that mkdocs builds from the pages."""
    if shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mkdocs is not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return folder


def test_site_works_offline_and_its_links_and_anchors_have_targets(site: Path) -> None:
    links_by_page = {path: PageLinks(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    built_pages = {page.relative_to(site).with_suffix(".md") for page in links_by_page}
    assert built_pages >= {page.relative_to(DOCS) for page in DOCS.rglob("*.md")}
    for page, page_links in links_by_page.items():
        if page.name == "404.html":
            continue  # only a web server shows this page
        for target in [*page_links.resources, *page_links.links]:
            url = urlsplit(target)
            if url.scheme in ("http", "https"):
                assert target in page_links.links, f"{page.name} loads {target} from the network"
                continue
            path = (page.parent / unquote(url.path)).resolve() if url.path else page
            assert path.is_file(), f"{page.name}: {target}"
            if url.fragment and path in links_by_page:
                assert unquote(url.fragment) in links_by_page[path].anchors, target
