"""Hooks of mkdocs: generated parts of pages, and a site that needs no network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the program of mkdocs stands elsewhere

from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.utils import get_relative_url  # noqa: E402

from docs.generate import fill  # noqa: E402

# The theme's script for the search of pages that are opened as files, and ours in its place.
REMOTE_WORKER = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
WORKER = "assets/search-worker.js"


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill the requests of one page; the build fails where that is not possible."""
    try:
        return fill(markdown)
    except (KeyError, ValueError) as error:
        raise PluginError(f"{page.file.src_uri}: {error.args[0]}") from error


def on_post_page(output: str, page: Any, **_: object) -> str:
    """Load the script of the search from the site itself."""
    return _with_own_worker(output, get_relative_url(WORKER, page.url))


def on_post_template(output_content: str, template_name: str, **_: object) -> str:
    """Do the same for pages without a source, such as 404.html."""
    return _with_own_worker(output_content, WORKER) if template_name.endswith(".html") else output_content


def _with_own_worker(output: str, url: str) -> str:
    if REMOTE_WORKER not in output:
        raise PluginError("the theme loads its script for the search otherwise now; adapt docs/hooks.py")
    return output.replace(REMOTE_WORKER, f'<script src="{url}"></script>')
