"""Runs that share memory: the same bits as over sockets, through kills and faults."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.support.fault_scripts import fault
from tests.support.same_bits import check_same_bits, check_simulated

from p2pfl import RunConfig, make_topology
from p2pfl.experiment.run import run
from p2pfl.modes import topology_of
from p2pfl.run.paths import LOG_FILE, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.topology import Topology
from p2pfl.transport.segments import Announcement, Mapping, SegmentError
from p2pfl.transport.shared_memory import USED

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memfd"),
]

OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",  # 120 KB: enough to be shared
    "batch_size": 8,
    "local_steps": 2,
    "rounds": 3,
    "eval_samples": 20,
    "threads": 1,
    "device": "cpu",
}


def share(run_dir: Path, topology: Topology) -> list[bool]:
    """Whether each process's vectors went through shared memory."""
    return [USED in (folder / LOG_FILE).read_text() for folder in peer_dirs(run_dir, topology)]


@pytest.mark.parametrize(
    ("sockets", "own"),
    [
        ("tcp", {}),
        ("ipc", {"wire_dtype": "bf16", "transport": "shm"}),
        ("ipc", {"algorithm": "median", "byzantine": 1}),
        ("ipc", {"mode": "centralized", "num_clients": 3, "num_selected": 2}),
    ],
    ids=["fp32", "bf16", "robust", "centralized"],
)
def test_the_same_bits_as_over_sockets(tmp_path: Path, sockets: str, own: dict[str, Any]) -> None:
    config = RunConfig.of(**{**OPTIONS, **own}, run_dir=str(tmp_path / "shared"))
    topology = topology_of(config) or make_topology("complete", 4)
    start = topology if config.mode == "gossip" else None
    run(config, start)
    assert all(share(tmp_path / "shared", topology))
    run(RunConfig.of(**{**OPTIONS, **own, "transport": sockets}, run_dir=str(tmp_path / sockets)), start)
    check_same_bits(tmp_path / "shared", tmp_path / sockets, topology)
    assert not any(share(tmp_path / sockets, topology))


def test_kills_freezes_and_message_faults_end_as_in_the_simulator(tmp_path: Path) -> None:
    faults = [
        fault(kind="kill", peer="3", round=3, restart=5),
        fault(kind="delay", edge=["0", "1"], rounds=[2, 4], seconds=0.01),
        fault(kind="corrupt", edge=["1", "2"], rounds=[2, 6], probability=0.2),
    ]
    (tmp_path / "faults.toml").write_text("\n".join(faults))
    topology = make_topology("ring", 5)
    common: dict[str, Any] = {**OPTIONS, "rounds": 7, "round_timeout": 3.0, "faults": str(tmp_path / "faults.toml")}
    run(RunConfig.of(**common, run_dir=str(tmp_path / "real")), topology)
    assert all(share(tmp_path / "real", topology))
    check_simulated(tmp_path / "real", topology, RunConfig.of(**common, run_dir=str(tmp_path / "simulated")))
    assert [record.round for record in read_rounds(peer_dirs(tmp_path / "real", topology)[3])][:4] == [1, 2, 5, 6]


OWNER = """
import os, sys, msgspec
from p2pfl.transport.segments import Owner, Segment
segment = Segment(Owner(), 0, 1 << 20)
segment.write(0, b"kept")
sys.stdout.buffer.write(msgspec.json.encode(segment.announcement) + b"\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.fixture
def owner() -> Any:
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_what_a_killed_process_shared_stays_with_its_readers_only(owner: subprocess.Popen[bytes]) -> None:
    assert owner.stdout is not None
    announced = msgspec.json.decode(owner.stdout.readline(), type=Announcement)
    view = Mapping(announced, 1 << 21).view(0, 4)
    owner.send_signal(signal.SIGSTOP)
    assert Mapping(announced, 1 << 21).view(0, 4).tobytes() == b"kept"  # of a process that does not run
    owner.kill()
    owner.wait()
    assert view.tobytes() == b"kept"
    assert np.count_nonzero(view) == 4
    with pytest.raises(SegmentError):
        Mapping(announced, 1 << 21)
