"""Runs that share memory: the same bits as over sockets, through kills and faults."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from tests.support.fault_scripts import fault
from tests.support.launched import FAST
from tests.support.real_run import Run, is_past, kill_all
from tests.support.same_bits import check_same_bits, check_simulated

from p2pfl import RunConfig, make_topology
from p2pfl.experiment.run import run
from p2pfl.modes import topology_of
from p2pfl.protocol.wire import VERSION, Header, Message, chunks
from p2pfl.run.paths import LOG_FILE, MODEL_FILE, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.topology import Topology, save_topology
from p2pfl.transport import SharedMemoryTransport, ZmqTransport
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
        ("ipc", {"order": "overlapped", "rounds": 6}),
        ("ipc", {"algorithm": "gradient-tracking", "rounds": 6}),
        ("ipc", {"algorithm": "median", "byzantine": 1}),
        ("ipc", {"mode": "centralized", "num_clients": 3, "num_selected": 2}),
    ],
    ids=["fp32", "bf16", "overlapped", "two vectors", "robust", "centralized"],
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


READER = """
import hashlib, sys
from p2pfl.protocol.events import Received
from p2pfl.protocol.wire import VERSION, Header, Message
from p2pfl.transport import SharedMemoryTransport, ZmqTransport
folder, size = sys.argv[1], int(sys.argv[2])
end = SharedMemoryTransport(ZmqTransport(f"ipc://{folder}/1"), "run", 1, lambda line: None)
end.connect({0: f"ipc://{folder}/0"}, size)
end.send(0, Message(Header(VERSION, "run", "hello", 1, 1)))
while True:
    for event in end.poll(1.0):
        if isinstance(event, Received) and event.message.header.kind == "chunk":
            print(hashlib.sha256(event.message.body).hexdigest(), event.message.is_shared, flush=True)
"""


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="t-") as short:  # a socket's path must be short
        yield short


def test_a_process_that_stood_still_reads_what_it_was_sent(folder: str) -> None:
    size, said = 3 << 20, list[str]()
    x = np.zeros(size, np.uint8)
    sockets = ZmqTransport(f"ipc://{folder}/0")
    with contextlib.closing(SharedMemoryTransport(sockets, "run", 0, said.append)) as owner:
        owner.connect({1: f"ipc://{folder}/1"}, size)
        owner.send(1, Message(Header(VERSION, "run", "hello", 0, 1)))
        words = [sys.executable, "-c", READER, folder, str(size)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as reader:
            try:
                assert reader.stdout is not None
                deadline = time.monotonic() + 60
                while USED not in said:
                    assert time.monotonic() < deadline
                    owner.poll(0.1)
                sent = []
                for round in range(1, 4):
                    if round == 2:
                        reader.send_signal(signal.SIGSTOP)
                        while psutil.Process(reader.pid).status() != psutil.STATUS_STOPPED:
                            assert time.monotonic() < deadline
                    x[:] = round
                    sent.append(f"{hashlib.sha256(x).hexdigest()} True\n")
                    header = Header(VERSION, "run", "chunk", 0, round, codec="fp32")
                    for message in chunks(header, {"x": x.data}):
                        owner.send(1, message)
                    assert owner.flushed(), "it waits for no reader"
                    if round == 1:
                        assert reader.stdout.readline() == sent[0]
                x[:] = 9
                reader.send_signal(signal.SIGCONT)
                assert [reader.stdout.readline() for _ in range(2)] == sent[1:]
            finally:
                reader.kill()


def test_a_killed_swarm_leaves_nothing_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    topology = make_topology("ring", 3)
    save_topology(topology, tmp_path / "ring.graphml")
    words = [str(tmp_path / "ring.graphml"), *FAST, "--local-steps", "2", "--rounds", "60"]
    models, before = [], set(os.listdir("/dev/shm"))
    for transport in ("ipc", "shm"):
        (tmp_path / transport).mkdir()
        run = Run(tmp_path / transport, "gossip", *words, "--transport", transport)
        try:
            if transport == "shm":
                assert is_past(run, 3)
                shared = {name for process in run.family() for name in segments_of(process.pid)}
                assert len(shared) == 3, "of each worker"
                kill_all(run)
                assert not any(shared & segments_of(process.pid) for process in psutil.process_iter())
                assert set(os.listdir("/dev/shm")) <= before
                run = Run(tmp_path / transport, "gossip", "--resume", str(run.run_dir), fresh=False)
            assert run.end() == (0, "")
        finally:
            run.kill()
        models.append((run.run_dir / MODEL_FILE).read_bytes())
        assert share(run.run_dir, topology) == [transport == "shm"] * 3
    assert models[0] == models[1]


def segments_of(pid: int) -> set[str]:
    """Names of the segments that a process has open or mapped, one for each owner."""
    with contextlib.suppress(OSError):
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(entry)]
        return set(re.findall(r"/memfd:(p2pfl-\w+)", "\n".join([Path(f"/proc/{pid}/maps").read_text(), *links])))
    return set()


ROBUST = """
import re, sys
import numpy as np, torch
from p2pfl.algorithms.base import RoundContext
from p2pfl.algorithms.robust import Robust, TrimmedMean
from p2pfl.protocol.inbox import Inbox, Senders
from p2pfl.protocol.wire import VERSION, Header, Message
from p2pfl.topology import Neighborhood
from p2pfl.transport.segments import Mapping, Owner, Segment

SIZE = 1 << 21
torch.set_num_threads(1)

def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def peak(degree, is_shared):
    weights = {peer: 1 / (degree + 1) for peer in range(1, degree + 1)}
    around = Neighborhood(0, 1 / (degree + 1), weights, weights)
    algorithm, x, top = Robust(TrimmedMean(1)), torch.ones(SIZE), 0
    state = algorithm.init(x, lambda round: around)
    algorithm.outgoing(state, RoundContext(1, around))
    algorithm.accumulate(state, 0, algorithm.own(state))
    inbox, owner, before = Inbox(SIZE, lambda round: algorithm, 1), Owner(), private()
    for peer in weights:
        inbox.grant(1, Senders(list(weights)), Senders())
        segment = Segment(owner, 0, 4 * SIZE)
        segment.write(0, np.full(SIZE, peer, np.float32).data.cast("B"))
        view = Mapping(segment.announcement, 1 << 30).view(0, 4 * SIZE)
        segment.close()
        body = view.data if is_shared else bytearray(view)
        header = Header(VERSION, "run", "chunk", peer, 1, "fp32", "", "x", 0, 4 * SIZE)
        assert inbox.add(Message(header, body, is_shared=is_shared))
        algorithm.accumulate(state, peer, inbox.take(1, peer, algorithm.reads_borrowed))
    for here, block in algorithm.rule(around, state.gathered):
        assert float(block[0]) > 1
        top = max(top, private() - before)
    return top / (4 * SIZE)

print(peak(4, True), peak(16, True), peak(16, False))
"""


def test_the_memory_of_a_robust_average_does_not_grow_with_the_degree() -> None:
    """Peak of a process's private memory, in vectors: none of them is a neighbor's."""
    done = subprocess.run([sys.executable, "-c", ROBUST], capture_output=True, text=True, check=True, timeout=120)
    few, many, as_messages = map(float, done.stdout.split())
    assert as_messages > 15, "what is measured"
    assert few < 2
    assert many < 4, "some blocks of 1/32 of a vector for each neighbor: as they came, and sorted"
