"""Topology files written from text and read, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl.errors import TopologyError
from p2pfl.topology.files import read_raw
from p2pfl.topology.raw import RawGraph


def read(folder: Path, file: str, content: str | bytes) -> RawGraph:
    """The graph of a file of this name and content."""
    path = folder / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_raw(path)


def check_refused(folder: Path, file: str, content: str | bytes, message: str) -> None:
    """Check that a file is refused in one line with its path and the message."""
    with pytest.raises(TopologyError, match=message) as caught:
        read(folder, file, content)
    assert str(caught.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(caught.value)
