"""Documentation: a strict build, a site that needs no network, links that work."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, PluginError
from tests.support.browser import CHROMIUM
from tests.support.paths import ROOT
from tests.support.snippets import DOCUMENTS

from docs.hooks import on_page_markdown

# Hosts that documents may name; no address of a person or of a repository is made up.
HOSTS = frozenset(
    (
        "arxiv.org",
        "docs.ray.io",
        "keepachangelog.com",
        "semver.org",
        "towardsdatascience.com",
        "ui.perfetto.dev",
        "www.apache.org",
        "zeromq.org",
    )
)
_LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "audio": "src", "video": "src"}
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


class SitePage(HTMLParser):
    """Ids of a page, and addresses from which it loads something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        self.classes |= set(found.get("class", "").split())
        if tag in _LOADING and _LOADING[tag] in found:
            self.loaded.append(found[_LOADING[tag]])
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, SitePage]:
    return {str(path.relative_to(site)): SitePage(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_no_page_loads_anything_from_the_network(pages: dict[str, SitePage]) -> None:
    assert len(pages) > 15
    remote = [(name, at) for name, page in pages.items() for at in page.loaded if urlsplit(at).netloc]
    assert remote == []
    # The theme would load the library that draws these, and fonts of formulas.
    assert [name for name, page in pages.items() if page.classes & {"mermaid", "arithmatex"}] == []


def test_no_style_loads_anything_from_the_network(site: Path) -> None:
    styles = list(site.rglob("*.css"))
    assert styles
    loading = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])(?:https?:)?//")
    assert [path.name for path in styles if loading.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_search_works_in_a_page_that_is_opened_as_a_file(site: Path, tmp_path: Path) -> None:
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    flags += " --disable-component-update --virtual-time-budget=20000 --dump-dom"
    page = (site / "index.html").as_uri() + "?q=spectral"
    command = [
        str(CHROMIUM),
        *flags.split(),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path}",
        page,
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout
    assert re.search(r'md-search-result__meta">\s*\d+ matching documents', shown)


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "docs" / "assets").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "assets" / "extra.css", tmp_path / "docs" / "assets")
    (tmp_path / "docs" / "index.md").write_text("[a page](no-such-page.md)\n")
    settings = re.sub(r"^nav:.*", "nav: [index.md]\n", (tmp_path / "mkdocs.yml").read_text(), flags=re.DOTALL | re.M)
    (tmp_path / "mkdocs.yml").write_text(settings.replace("hooks: [docs/hooks.py]\n", ""))
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    with pytest.raises(Abort, match="1 warnings"):
        build(load_config(str(tmp_path / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))


def test_a_page_that_cannot_be_generated_fails_the_build() -> None:
    class Page:
        class file:
            src_uri = "reference/new.md"

    with pytest.raises(PluginError, match=r"reference/new\.md: nothing is generated under the name 'new'"):
        on_page_markdown("<!-- generate: new -->", Page())


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.parts[0] != "docs"], ids=str)
def test_links_of_documents_outside_the_site_lead_somewhere(document: Path, pages: dict[str, SitePage]) -> None:
    """Those within the site are checked by its strict build."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in _LINK.findall(text) + _PICTURE.findall(text):
        address = urlsplit(target)
        if address.scheme:
            continue
        path = ROOT / document if not address.path else (ROOT / document).parent / unquote(address.path)
        if not path.exists():
            broken.append(target)
        elif address.fragment and path.is_relative_to(ROOT / "docs"):
            page = pages[str(path.relative_to(ROOT / "docs").with_suffix(".html"))]
            broken += [target] * (address.fragment not in page.ids)
        elif address.fragment:
            broken += [target] * (address.fragment not in anchors_of(path))
    assert broken == []


def anchors_of(path: Path) -> set[str]:
    """Anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_documents_name_no_address_that_may_be_made_up() -> None:
    named = []
    for document in (
        *DOCUMENTS,
        Path("pyproject.toml"),
        Path("mkdocs.yml"),
        *(path.relative_to(ROOT) for path in ROOT.glob("CITATION.cff")),
    ):
        text = (ROOT / document).read_text(encoding="utf-8")
        found = re.findall(r"[\w.+-]+@[\w.-]+\.\w+|\b10\.\d{4,}/\S+", text)
        named += [(str(document), one) for one in found if not one.endswith(".example")]  # reserved for documents
        hosts = {urlsplit(found).hostname for found in re.findall(r"https?://[^\s)>\"'`]+", text)}
        named += [(str(document), str(host)) for host in hosts - HOSTS]
    assert named == []
