"""Command that is printed for repetition."""

from __future__ import annotations

import pytest

from p2pfl.util.program import program


@pytest.mark.parametrize(
    ("started", "words"),
    [
        ("/usr/local/bin/p2pfl", ("p2pfl",)),
        ("run_peers.py", ("python", "run_peers.py")),
        ("../checkout/run_peers.py", ("python", "../checkout/run_peers.py")),
        ("/lib/python3/site-packages/p2pfl/__main__.py", ("python", "-m", "p2pfl")),
        ("my_experiment.py", ("p2pfl",)),
        ("/lib/python3/site-packages/pytest/__main__.py", ("p2pfl",)),
    ],
)
def test_it_is_that_which_was_used(monkeypatch: pytest.MonkeyPatch, started: str, words: tuple[str, ...]) -> None:
    monkeypatch.setattr("sys.argv", [started, "gossip", "ring.gml"])
    assert program() == words
