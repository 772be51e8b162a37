"""Made-up runs in pieces, a run directory for each peer."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.runs import make_run

from p2pfl.run.identity import next_incarnation, write_run_id
from p2pfl.run.paths import peer_dirs
from p2pfl.topology import Topology


def make_pieces(folder: Path, topology: Topology) -> tuple[Path, list[Path]]:
    """Make a whole run, and the same in a directory for each peer."""
    whole = make_run(folder / "whole", topology)
    pieces = []
    for index, name in enumerate(topology.names):
        piece = folder / f"of-{name}"
        shutil.copytree(whole, piece)
        for other, path in enumerate(peer_dirs(piece, topology)):
            if other != index:
                shutil.rmtree(path)
                path.mkdir()  # as a run directory of any peer has a folder for each
        own = peer_dirs(piece, topology)[index]
        write_run_id(own)
        next_incarnation(own)
        pieces.append(piece)
    return whole, pieces
