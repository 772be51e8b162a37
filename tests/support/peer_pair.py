"""Two peers that are started alone, as on two machines."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import commands
from tests.support.helpers import free_ports, token_file

from p2pfl import make_topology
from p2pfl.run.records import read_rounds
from p2pfl.topology import save_topology


class Pair:
    """Two peers with separate folders for data, cache and results, as on two machines."""

    def __init__(self, here: Path) -> None:
        self.here = here
        topology = make_topology("path", 2)
        for peer, port in enumerate(free_ports(2)):
            topology.graph.nodes[peer].update(host="127.0.0.1", port=port)
        save_topology(topology, here / "pair.gml")
        self.token = token_file(here)

    def run(self, *own: list[str]) -> list[subprocess.CompletedProcess[str]]:
        """Start both with their own words and run them to their ends."""
        started = [
            commands.start("peer", *words, "--node", node, "--token-file", self.token)
            for node, words in zip("01", own, strict=True)
        ]
        try:
            found = [process.communicate(timeout=120) for process in started]
        finally:
            for process in started:
                process.kill()
        return [
            subprocess.CompletedProcess([], process.returncode, *said)
            for process, said in zip(started, found, strict=True)
        ]

    def words(self, node: str, data: Path, *more: str) -> list[str]:
        words = [str(self.here / "pair.gml"), "--dataset", f"imagefolder:{data}", "--data-dir", str(self.here / node)]
        words += ["--model", "user_models:linear", "--batch-size", "2", "--lr", "0.001", "--schedule", "constant"]
        return [*words, "--rounds", "1", "--threads", "1", "--run-dir", str(self.here / f"run-{node}"), *more]

    def records(self, node: str) -> int:
        return sum(record.phase == "train" for record in read_rounds(self.here / f"run-{node}" / "peers" / node))
