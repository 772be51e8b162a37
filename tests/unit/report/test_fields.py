"""Fields of summary.json have the types that the documentation states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.support.runs import hostile_topology, make_centralized, make_local, make_run, make_sgd

from p2pfl.report import summarize
from p2pfl.report.fields import FIELDS, TYPES
from p2pfl.topology import make_topology


def wrong_types(run_dir: Path) -> list[str]:
    found = []
    for name, value in summarize(run_dir, versions={"torch": "2.6"}, restarts={"1": 2}).items():
        try:
            msgspec.convert(value, TYPES[name], strict=True)
        except msgspec.ValidationError as error:
            found.append(f"{name}: {error}")
    return found


def test_every_field_has_a_type() -> None:
    assert list(TYPES) == list(FIELDS)


@pytest.mark.parametrize(
    "make",
    [
        lambda run_dir: make_run(run_dir, make_topology("ring", 4)),
        lambda run_dir: make_local(run_dir, make_topology("ring", 4)),
        make_sgd,
        make_centralized,
    ],
    ids=["gossip", "local", "sgd", "centralized"],
)
def test_values_of_every_mode_have_their_types(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert wrong_types(make(tmp_path / "run")) == []


def test_values_of_an_unfinished_run_have_their_types(tmp_path: Path) -> None:
    assert wrong_types(make_run(tmp_path / "run", hostile_topology(), finished=3)) == []
