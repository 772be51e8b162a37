from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from tests.support.runs import hostile_topology

from p2pfl.errors import ConfigError
from p2pfl.report import draw_topology
from p2pfl.report.topology_layout import node_positions
from p2pfl.topology import make_topology


def test_svg_is_the_same_every_time(tmp_path: Path) -> None:
    topology = make_topology("erdos-renyi", 12, seed=3)
    for name in ("a.svg", "b.svg"):
        draw_topology(topology, tmp_path / name, values=[i / 12 for i in range(12)])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


SHAPES = """
ring-8 path-2 path-20 star-8 complete-8 torus-16 torus-64 hypercube-16 hypercube-64 exponential-16 tree-15 tree-40
random-regular-20 small-world-20 erdos-renyi-20
"""


@pytest.mark.parametrize("shape", SHAPES.split())
def test_layouts_keep_peers_apart(shape: str) -> None:
    kind, n = shape.rsplit("-", 1)[0], int(shape.rsplit("-", 1)[1])
    positions = node_positions(make_topology(kind, n).graph)
    assert positions.shape == (n, 2)
    gap = np.linalg.norm(positions[:, None] - positions[None], axis=2) + np.eye(n) * 1e9
    assert gap.min() > 0.02 * np.ptp(positions)


def test_a_ring_is_drawn_as_a_circle_in_any_node_order() -> None:
    graph = nx.cycle_graph(6)
    positions = node_positions(nx.relabel_nodes(graph, dict(enumerate([3, 0, 5, 1, 4, 2]))))
    assert np.linalg.norm(positions, axis=1) == pytest.approx(np.ones(6))


def test_a_torus_looks_like_a_grid() -> None:
    assert node_positions(make_topology("torus", 12).graph).tolist() == [[i % 4, -(i // 4)] for i in range(12)]


def test_draw_topology_writes_pictures(tmp_path: Path) -> None:
    for name in ("t.png", "t.SVG"):
        draw_topology(hostile_topology(), tmp_path / name, values=[0.5, None, 0.75, 0.5], title="$odd$ title")
        assert (tmp_path / name).stat().st_size > 3_000
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        draw_topology(hostile_topology(), tmp_path / "t.jpg")
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_topology(hostile_topology(), tmp_path / "missing" / "t.png")


@pytest.mark.processes
def test_drawing_leaves_no_global_state(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; from pathlib import Path\n"
        "from p2pfl.report import draw_topology; from p2pfl.topology import make_topology\n"
        "state = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}; before = state()\n"
        "draw_topology(make_topology('ring', 4), Path(sys.argv[1]), values=[0.1, 0.2, 0.3, 0.4])\n"
        "print(state() == before, 'matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "t.svg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "True False"
