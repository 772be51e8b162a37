"""Names of the files and folders of a run directory, each defined once."""

from __future__ import annotations

import re
from pathlib import Path

from p2pfl.topology import Topology

# In the run directory.
CONFIG_FILE = "config.toml"
"""All settings; a run with --config of this file repeats the run."""
TOPOLOGY_FILE = "topology.graphml"
"""Graph of the run; of a centralized run the star around its coordinator."""
SCHEDULE_FILE = "topology.json"
"""Graphs of the run by round, in place of `topology.graphml` where the topology is a schedule."""
FAULTS_FILE = "faults.toml"
"""Fault script of the run, if any."""
INIT_FILE = "initial.safetensors"
"""Initial weights, if --init named a file."""
DATA_FILE = "data.json"
"""Digest of the data set's content, and whether its images are augmented."""
PARTITION_STEM = "partition"
"""Copy of the file of --partition file:PATH, as partition.json or partition.csv."""
PARTITION_NAME_FILE = "partition-name.txt"
"""PATH of that file as its user gave it, for reports and messages."""
RUN_ID_FILE = "run.id"
"""Permanent id of the run, also in its checkpoints; of `peer` in the peer's own folder."""
MODEL_FILE = "consensus.safetensors"
"""Final model of the run, a plain state dict; a local run has none."""
SUMMARY_FILE = "summary.json"
"""Numbers of the run."""
REPORT_FILE = "report.html"
"""Report of these numbers, in one page that needs no network; of a comparison, too."""
PLOTS_FOLDER = "plots"
"""Plots of the report, as SVG and PNG."""
PEERS_FOLDER = "peers"
"""One folder for each process, named as its label (percent-encoded)."""

# In the folder of one process below `peers`.
ROUNDS_FILE = "rounds.jsonl"
"""Records of the process, one line a round. Records of rounds that had to be repeated without a checkpoint are kept in
`rounds.jsonl.1`, with their sketches beside them."""
SKETCHES_FILE = "sketches.f32"
"""4,096 numbers a round, from which the consensus distance is estimated to 1.1 % (gossip and local)."""
LOG_FILE = "log.txt"
"""Log of the process, with the tracebacks of its errors."""
SHARD_FILE = "shard.json"
"""Labels of the training samples in the shard of the process, and its number of samples."""
CHECKPOINTS_FOLDER = "checkpoint"
"""The two newest checkpoints of the process, of the rounds of `--checkpoint-every`, and that of the last training
round; more where peers may be further apart."""
FIRED_FILE = "faults.fired"
"""Faults of the script that this process has already caused to itself, so that none happens twice."""
INCARNATION_FILE = "incarnation"
"""Number of the process's last start, by which neighbors tell old messages from new ones."""
INTRODUCTIONS_FILE = "introductions.json"
"""Classes, sizes and statistics of all peers' own data, as the peers agreed on them (--partition own)."""
PROFILE_FILE = "profile-round-{round}.json.gz"
"""Trace of that round, with --profile."""

# In the folder of a comparison, beside `report.html`.
COMPARISON_CSV_FILE = "comparison.csv"
"""Table of the comparison, one row a group of runs."""
COMPARISON_RUNS_FILE = "comparison-runs.csv"
"""Every single run, one row each: topology or mode, algorithm, partition, seed, tuned settings, numbers, directory."""
COMPARISON_JSON_FILE = "comparison.json"
"""Both tables, the grid of methods and partitions, and the runs' summaries and directories."""

TUNING_FOLDER = "tuning"
"""Trials of --tune, a run directory each; they have not read the test set."""
TUNING_FILE = "chosen.json"
"""In that folder: the values tried in each cell, their validation accuracies, and the values chosen."""

CHECKPOINT_NAME = re.compile(r"round-(\d{6,})\.safetensors")


def topology_file(run_dir: Path) -> Path:
    """File with the run's topology: its graph, or its schedule of graphs."""
    schedule = run_dir / SCHEDULE_FILE
    return schedule if schedule.exists() else run_dir / TOPOLOGY_FILE


def peer_dir(run_dir: Path, topology: Topology, index: int) -> Path:
    """Folder of one process: a peer, a client or the coordinator."""
    return run_dir / PEERS_FOLDER / topology.node_path(index)


def peer_dirs(run_dir: Path, topology: Topology) -> list[Path]:
    """Folders of all processes, by index."""
    return [peer_dir(run_dir, topology, index) for index in range(topology.n)]


def checkpoint_name(round: int) -> str:
    """File name of a round's checkpoint."""
    return f"round-{round:06d}.safetensors"
