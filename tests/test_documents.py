"""README and docs/ as readers use them: rendered by PyPI, followed link by link, copied into a file."""

import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from textwrap import indent
from urllib.parse import unquote, urlsplit

import psycopg2.extensions
import pytest
from readme_renderer import markdown
from support.processes import run_script

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/psycopg/psycogreen"
PAGES = f"{REPOSITORY}/blob/master/"
FOLDERS = f"{REPOSITORY}/tree/master/"
RAW = "https://raw.githubusercontent.com/psycopg/psycogreen/master/"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MAX_README_LINES = 130

pytestmark = pytest.mark.once


class _Page(HTMLParser):
    """The links, pictures and anchors of a document as PyPI shows it."""

    def __init__(self, document: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        html = markdown.render(document.read_text())
        assert html, f"PyPI could not render {document}"
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                self.targets.append(value or "")
            elif name == "id":
                self.anchors.add((value or "").removeprefix("user-content-"))


def path_in_repository(url: str) -> Path | None:
    """Return the file of the checkout that *url* shows, None if it shows none."""
    for beginning in (PAGES, FOLDERS, RAW):
        if url.startswith(beginning):
            return ROOT / unquote(urlsplit(url.removeprefix(beginning)).path)
    return None


def dead(document: Path) -> list[str]:
    """Return the links of *document* to files and headings that do not exist."""
    targets = []
    for target in _Page(document).targets:
        parts = urlsplit(target)
        if parts.scheme:
            path = path_in_repository(target)
        else:
            path = document.parent / unquote(parts.path) if parts.path else document
        if path is None:
            continue
        anchor = parts.fragment.removeprefix("user-content-")
        if not path.exists() or (anchor and anchor not in _Page(path).anchors):
            targets.append(target)
    return targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_exist(document):
    assert not dead(document)


def test_dead_links_are_reported(tmp_path):
    document = tmp_path / "page.md"
    links = ["no.md", "page.md#no", f"{PAGES}no.py", f"{RAW}no.svg", f"{FOLDERS}docs/no"]
    alive = ["page.md#yes", "https://www.python.org/no", f"{PAGES}README.md#documentation", f"{REPOSITORY}/issues"]
    document.write_text("# Yes\n" + "".join(f"[x]({link})\n" for link in [*links, *alive]))
    assert dead(document) == links


def test_readme_links_and_pictures_are_absolute():
    # A heading's link to itself stays on the page.
    targets = [target for target in _Page(ROOT / "README.md").targets if not target.startswith("#")]
    assert len(targets) > 10
    assert not [target for target in targets if not target.startswith("https://")]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


def test_docs_link_relatively_only_to_each_other():
    """docs/ can then be published as a site of its own."""
    outside = [
        f"{document.name}: {target}"
        for document in ROOT.glob("docs/*.md")
        for target in _Page(document).targets
        if not urlsplit(target).scheme and "/" in urlsplit(target).path
    ]
    assert not outside


def test_tables_of_the_comparison_are_made_from_its_record(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import peers_report

    pages = sorted((ROOT / "docs").glob("comparison*.md"))
    assert len(pages) == 2
    for page in pages:
        shutil.copy(page, tmp_path)
    peers_report.document(json.loads((ROOT / "benchmarks/peers.json").read_text()), tmp_path)
    assert [(tmp_path / page.name).read_text() for page in pages] == [page.read_text() for page in pages]


def python_blocks() -> dict[str, str]:
    """Return the blocks of Python code in the documents, each once, by their places."""
    places = {}
    for document in DOCUMENTS:
        text = document.read_text()
        for block in re.finditer("^```python\n(.*?)^```$", text, re.M | re.S):
            places[block[1]] = f"{document.name}:{text.count(chr(10), 0, block.start()) + 2}"
    return {place: block for block, place in places.items()}


def is_a_program(block: str) -> bool:
    """Return whether *block* runs and ends by itself; if not, it is a part of a program, or a server."""
    try:
        compile(block, "block", "exec")
    except SyntaxError:
        compile("async def part():\n" + indent(block, "    "), "block", "exec")
        return False
    return "serve_forever" not in block


@pytest.mark.parametrize("place", python_blocks())
def test_a_block_of_python_runs(place, dsn, monkeypatch):
    block = python_blocks()[place]
    if not is_a_program(block):
        return
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "password": "PGPASSWORD"}
    for name, value in psycopg2.extensions.parse_dsn(dsn).items():
        monkeypatch.setenv(names[name], value)
    began = time.monotonic()
    output = run_script(block)
    if "range(10)" in block:
        assert sorted(output.split()) == [str(n) for n in range(10)]
        assert time.monotonic() - began < 9  # one after the other, the queries take ten seconds
