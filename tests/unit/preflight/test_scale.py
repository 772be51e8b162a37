"""Figures of docs/explanation/scale.md are what the package's estimates give."""

from __future__ import annotations

import pytest
from tests.support.paths import ROOT

from p2pfl import RunConfig, make_topology
from p2pfl.model.vector import Layout
from p2pfl.modes import assign_roles
from p2pfl.node.limits import files_needed
from p2pfl.preflight.scale import SwarmCost, swarm_cost
from p2pfl.training import initial_model

PAGE = (ROOT / "docs" / "explanation" / "scale.md").read_text(encoding="utf-8")
CONFIG = RunConfig.of("swarm.graphml", model="vgg11", dataset="cifar10", mixing="auto")
ROWS = [line for line in PAGE.splitlines() if line.startswith(("| 100 |", "| 1,000 |"))]
KINDS = {"full mesh": "complete", "random regular": "random-regular"}


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout.of(initial_model(CONFIG, 10))


def cost_of(kind: str, peers: int, layout: Layout) -> SwarmCost:
    return swarm_cost(assign_roles(CONFIG, make_topology(kind, peers)), CONFIG, layout)


def row(name: str, cost: SwarmCost) -> str:
    cells = (
        f"{cost.peers:,}",
        name,
        f"{cost.neighbors}",
        f"{cost.gap:.2g}",
        f"{cost.plain:,}",
        f"{cost.phase:,}",
        f"{cost.bytes_by_peer / 1e6:,.0f}",
        f"{cost.bytes_in_all / 1e9:,.0f}",
        f"{cost.messages_in_all:,}",
        f"{cost.phase_bytes / cost.peers / 1e9:,.1f}",
        f"{cost.connections}",
        f"{files_needed(1, cost.neighbors)}",
        f"{cost.memory / 1e6:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("line", ROWS, ids=[" ".join(line.split("|")[1:3]).strip() for line in ROWS])
def test_a_row_of_the_table_is_what_the_estimates_give(line: str, layout: Layout) -> None:
    peers, name = (cell.strip() for cell in line.split("|")[1:3])
    assert line == row(name, cost_of(KINDS.get(name, name), int(peers.replace(",", "")), layout))


def test_the_table_has_five_graphs_and_the_text_the_same_figures(layout: Layout) -> None:
    assert len(ROWS) == 9
    cost = cost_of("torus", 100, layout)
    assert f"{layout.size * 4 / 1e6:.1f} MB" in PAGE
    assert f"{cost.disk / 1e6:.0f} MB of checkpoints" in PAGE
    assert f"{(cost.memory + 25e6) / 1e6:.0f} MB" in PAGE
    assert f"{files_needed(1, 999):,} files" in PAGE
