"""Names of the files and folders of a run directory, each defined once."""

from __future__ import annotations

import re
from pathlib import Path

from p2pfl.topology import Topology

# In the run directory.
CONFIG_FILE = "config.toml"
TOPOLOGY_FILE = "topology.graphml"
FAULTS_FILE = "faults.toml"
INIT_FILE = "initial.safetensors"  # the weights given by --init
DATA_FILE = "data.json"
RUN_ID_FILE = "run.id"  # also in the folder of a peer that was started alone
MODEL_FILE = "consensus.safetensors"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"  # of a comparison, too
PLOTS_FOLDER = "plots"
PEERS_FOLDER = "peers"

# In the folder of one process below PEERS_FOLDER.
LOG_FILE = "log.txt"
ROUNDS_FILE = "rounds.jsonl"
SKETCHES_FILE = "sketches.f32"
SHARD_FILE = "shard.json"
FIRED_FILE = "faults.fired"
INCARNATION_FILE = "incarnation"
CHECKPOINTS_FOLDER = "checkpoint"

# In the folder of a comparison, beside REPORT_FILE.
COMPARISON_CSV_FILE = "comparison.csv"
COMPARISON_JSON_FILE = "comparison.json"

CHECKPOINT_NAME = re.compile(r"round-(\d{6,})\.safetensors")


def peer_dir(run_dir: Path, topology: Topology, index: int) -> Path:
    """Folder of one process: a peer, a client or the coordinator."""
    return run_dir / PEERS_FOLDER / topology.node_path(index)


def peer_dirs(run_dir: Path, topology: Topology) -> list[Path]:
    """Folders of all processes, by index."""
    return [peer_dir(run_dir, topology, index) for index in range(topology.n)]


def checkpoint_name(round: int) -> str:
    """File name of a round's checkpoint."""
    return f"round-{round:06d}.safetensors"
