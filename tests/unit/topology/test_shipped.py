"""The files in topologies/ are what their names say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.paths import ROOT

from p2pfl.topology import FORMATS, load_topology, make_topology, mixing_matrix, spectral_gap

FOLDER = ROOT / "topologies"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in FORMATS)
KIND = {"mesh": "complete", "base-2": "base-k"}
OWN = {"lan-3.graphml", "weighted-4.json"}


@pytest.mark.parametrize("file", FILES)
def test_file_is_what_its_generator_makes(file: str) -> None:
    loaded = load_topology(FOLDER / file)
    kind, _, n = loaded.name.rpartition("-")
    assert loaded.n == int(n)
    if file not in OWN:
        made = make_topology(KIND.get(kind, kind), loaded.n)
        assert loaded.names == made.names
        assert loaded.directed == made.directed
        for ours, theirs in zip(loaded.by_round, made.by_round, strict=True):
            assert list(ours.graph.edges(data=True)) == list(theirs.graph.edges(data=True))


def test_all_promised_files_and_formats_are_there() -> None:
    promised = "ring-4 ring-8 ring-16 ring-20 mesh-4 mesh-8 torus-16 star-8 exponential-16 hypercube-16 "
    promised += "small-world-20 tree-15"
    assert {f"{name}.graphml" for name in promised.split()} <= set(FILES)
    assert {Path(file).suffix for file in FILES} == set(FORMATS)


def test_own_files_do_what_they_are_for() -> None:
    lan = load_topology(FOLDER / "lan-3.graphml")
    assert lan.names == ("alice", "bob", "carol")
    assert [lan.graph.nodes[i]["port"] for i in range(3)] == [7101, 7102, 7103]
    weighted = load_topology(FOLDER / "weighted-4.json")
    w = mixing_matrix(weighted, "weights")
    assert w[0, 1] == 0.4
    assert spectral_gap(w) != pytest.approx(spectral_gap(mixing_matrix(weighted)))


@pytest.mark.processes
def test_importing_topology_does_not_import_torch() -> None:
    code = "import sys, p2pfl.topology; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, timeout=200).returncode == 0
