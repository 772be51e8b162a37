"""Dry runs refuse what the run would, and say which options have no effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl.cli import main

SMALL = ["--dataset", "digits", "--width", "0.0625", "--rounds", "1", "--local-steps", "1", "--dry-run"]
RING = "topologies/ring-4.graphml"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["sgd"], "exists already; choose another"),
        (["gossip", RING], "exists already; choose another"),
        (["compare", RING, "--partition", "iid,shards:2"], "is no folder; choose another"),
    ],
)
def test_a_run_dir_that_is_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], problem: str
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    assert main([*command, *SMALL, "--run-dir", str(taken)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"p2pfl: --run-dir {taken}: {problem}"


@pytest.mark.parametrize(("partition", "is_noted"), [("dirichlet:1", True), ("iid", False)])
def test_plain_sgd_says_that_a_rule_has_no_effect(
    capsys: pytest.CaptureFixture[str], partition: str, is_noted: bool
) -> None:
    assert main(["sgd", *SMALL, "--partition", partition]) == 0
    assert (f"--partition {partition}: has no effect on plain SGD" in capsys.readouterr().err) == is_noted
