"""Habits of tests: no private name of the product, no import of a test."""

from __future__ import annotations

import pytest
from tests.support.habits import problems_of, problems_of_files

FOLDERS = ["tests", "soak", "benchmarks"]


def test_no_test_reads_a_private_name_or_imports_a_test() -> None:
    assert problems_of_files(FOLDERS) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("from p2pfl.node.worker import _run", "1: imports p2pfl.node.worker._run, a private name"),
        ("import p2pfl.node._log", "1: imports p2pfl.node._log, a private name"),
        ("from tests.unit.run.test_repair import mend", "1: imports tests.unit.run.test_repair.mend, a test"),
        ("from tests.unit.run import test_repair", "1: imports tests.unit.run.test_repair, a test"),
        ("from .test_repair import mend", "1: imports tests.test_repair.mend, a test"),
        ("model = 'tests.unit.run.test_repair:mend'", "1: names tests.unit.run.test_repair, a test"),
        ("from p2pfl import run\nrun._resume()", "2: reads _resume, a private name"),
        ("peer = make()\nassert peer.edges[1]._state", "2: reads _state, a private name"),
        ("class Mine(Peer):\n    def f(self):\n        return self._edges", "3: reads _edges, a private name"),
        ("import os\ndef f(self):\n    self.os._edges", "3: reads _edges, a private name"),
        ("monkeypatch.setattr(Peer, '_edges', 1)", "1: reads _edges, a private name"),
        ("monkeypatch.setattr('p2pfl.run._resume', 1)", "1: reads _resume, a private name"),
        ("getattr(peer, '_edges')", "1: reads _edges, a private name"),
    ],
)
def test_a_problem_is_found(text: str, problem: str) -> None:
    assert problems_of(text, "tests/unit/test_mine.py") == [problem]


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos._exit(1)\nmonkeypatch.setattr(os, '_exit', print)",
        "from torch import nn\nnn.Linear(1, 1)._parameters",
        "import json\nclass Mine(json.JSONDecoder):\n    def f(self):\n        return self._x",
        "class Mine:\n    def f(self):\n        self._x = 1\n        return self._x",
        "class Mine:\n    _x = 1\n    def f(self):\n        return self._g(self._x)\n    def _g(self, x): ...",
        "peer.__class__.__name__\nfrom p2pfl import __version__",
        "model = 'tests.unit.test_mine:linear'\ntext = 'test_repair: failed'",
    ],
)
def test_own_names_and_those_of_libraries_are_allowed(text: str) -> None:
    assert problems_of(text, "tests/unit/test_mine.py") == []
