"""Pages as a parser reads them and as a browser shows them."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """Elements, links and text of a page, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: dict[str, object] = {}
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if "data-field" in found:
            self.values[str(found["data-field"])] = json.loads(str(found["data-value"]))
        self.targets += [str(found[k]) for k in ("src", "href", "xlink:href", "action", "data") if k in found]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def in_browser(page: Path, profile: Path) -> tuple[Page, str]:
    """The page as a browser has it after loading, and what the browser complained of."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --dump-dom"
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout), done.stderr
