"""Examples in docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest
from tests.support.paths import ROOT

API = (ROOT / "docs" / "reference" / "python-api.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^::: (\S+)$", API, re.MULTILINE)


def module_of(name: str) -> str:
    owner = importlib.import_module(name.rpartition(".")[0])
    return str(getattr(owner, name.rpartition(".")[2]).__module__)


MODULES = sorted({module_of(name) for name in NAMES})


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_the_api_are_true(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(importlib.import_module(module), verbose=False)
    assert found.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test.name for module in MODULES for test in finder.find(importlib.import_module(module))]
    assert {"p2pfl.config.run.RunConfig.of", "p2pfl.topology.generators.make_topology"} <= set(examples)


def test_the_api_has_every_public_name_of_the_package() -> None:
    import p2pfl

    assert {f"p2pfl.{name}" for name in p2pfl.__all__} <= set(NAMES)
