"""Files of the repository's root as pages: changelog, contributing, security."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Root files that are pages, and their names there.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def root_file(name: str) -> str:
    """Text of a root file, whose links lead to pages of the site.

    A link to a file that is no page becomes its text alone. Raises KeyError for a file that does not exist.
    """
    path = ROOT / name
    if not path.is_file():
        raise KeyError(f"{name}: no such file in the root of the repository")
    return _LINK.sub(lambda link: _relinked(link[1], link[2]), path.read_text(encoding="utf-8"))


def _relinked(text: str, target: str) -> str:
    if re.match(r"https?://|#", target):
        return f"[{text}]({target})"
    file, hash, anchor = target.partition("#")
    page = file.removeprefix("docs/") if file.startswith("docs/") else PAGES.get(file)
    return text if page is None else f"[{text}]({page}{hash}{anchor})"
