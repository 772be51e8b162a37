"""Peers that a real Slurm starts on this machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import slurm
from tests.support.deployed import DEPLOY
from tests.support.paths import MODELS, ROOT

pytestmark = pytest.mark.processes

OPTIONS = shlex.split("--dataset digits --model user_models:linear --rounds 2 --local-steps 2 --announce 127.0.0.1")


def test_the_batch_file_trains_a_peer_in_each_of_four_tasks(tmp_path: Path) -> None:
    (tmp_path / "run_peers.py").symlink_to(ROOT / "run_peers.py")
    batch, ring = str(DEPLOY / "slurm" / "swarm.sbatch"), str(ROOT / "topologies" / "ring-4.graphml")
    with slurm.cluster() as environment:
        here = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}", "PYTHONPATH": str(MODELS)}
        words = ["sbatch", "--wait", "--ntasks=4", batch, ring, *OPTIONS]
        done = subprocess.run(
            words, env={**environment, **here}, cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
    [said] = [path.read_text() for path in tmp_path.glob("p2pfl-*.txt")]
    assert done.returncode == 0, done.stderr + said
    assert sorted(line[0] for line in said.splitlines() if ": done; " in line) == ["0", "1", "2", "3"]
    [run_dir] = [path.parent for path in tmp_path.glob("runs/*/consensus.safetensors")]
    assert [len((run_dir / "peers" / peer / "rounds.jsonl").read_text().splitlines()) > 2 for peer in "0123"] == [
        True
    ] * 4
    assert list(run_dir.with_name(f"{run_dir.name}.meet").iterdir()) == []
