"""Ports in use, unreachable hosts, exhausted memory: one line, no process left."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support import commands
from tests.support.helpers import free_ports, token_file
from tests.support.launched import FAST, Swarm, nobody_left, ring
from tests.support.launched import start as start

from p2pfl import make_topology
from p2pfl.errors import ConfigError, TrainingError, TransportError
from p2pfl.topology import save_topology
from p2pfl.training.device import on_device
from p2pfl.transport import ZmqTransport

SOON = ["--start-timeout", "5", "--handshake-timeout", "5"]


def one_line(err: str) -> str:
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def placed(folder: Path, hosts: list[tuple[str, int]]) -> str:
    topology = make_topology("ring", len(hosts))
    for node, (host, port) in enumerate(hosts):
        topology.graph.nodes[node].update(host=host, port=port)
    save_topology(topology, folder / "placed.graphml")
    return str(folder / "placed.graphml")


def peer(folder: Path, topology: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = ["peer", topology, "--node", "0", *FAST, *SOON, "--run-dir", str(folder / "run"), *options]
    words += ["--token-file", token_file(folder)]
    return commands.run(*words)


@pytest.mark.processes
def test_a_port_in_use_ends_the_run_in_one_line(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        places = [("127.0.0.1", p) for p in (*free_ports(2), port)]
        swarm = start(placed(tmp_path, places), *FAST, "--rounds", "1", "--run-dir", str(tmp_path / "run"))
        swarm.until("starting")
        family = swarm.family()
        code, err = swarm.end()
    assert code == 1
    assert f"peer 2: tcp://127.0.0.1:{port}: cannot be opened (address already in use" in one_line(err)
    assert "another port in the topology file" in err
    nobody_left(swarm, family)


@pytest.mark.processes
def test_a_port_in_use_ends_a_peer_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = peer(tmp_path, placed(tmp_path, [("127.0.0.1", p) for p in (port, *free_ports(2))]))
    assert done.returncode == 1
    assert f"tcp://127.0.0.1:{port}: cannot be opened (address already in use" in one_line(done.stderr)


def test_a_socket_at_another_machines_address_is_explained() -> None:
    with pytest.raises(TransportError, match="no address of this machine: correct the node's host"):
        ZmqTransport("tcp://192.0.2.1:7001")
    with pytest.raises(TransportError, match="no address of this machine: correct the node's host"):
        ZmqTransport("tcp://no-such-host.invalid:7001")


@pytest.mark.processes
def test_hosts_that_cannot_be_reached_end_a_peer_in_one_line_that_says_where_they_should_be(tmp_path: Path) -> None:
    """Hosts that refuse, that accept and stay silent, and that have no address."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        own, refused = free_ports(2)
        heard = silent.getsockname()[1]
        topology = make_topology("complete", 4)
        hosts = [("127.0.0.1", own), ("127.0.0.1", refused), ("127.0.0.1", heard), ("no-such-host.invalid", 7001)]
        for node, (host, port) in enumerate(hosts):
            topology.graph.nodes[node].update(host=host, port=port)
        save_topology(topology, tmp_path / "complete.graphml")
        done = peer(tmp_path, str(tmp_path / "complete.graphml"), "--insecure")
    assert done.returncode == 1
    assert "no greeting for" in one_line(done.stderr)
    assert f"looked for at tcp://127.0.0.1:{refused}, tcp://127.0.0.1:{heard}, " in done.stderr
    assert "tcp://no-such-host.invalid:7001 (host no-such-host.invalid: " in done.stderr


@pytest.mark.processes
def test_memory_that_is_used_up_ends_the_run_in_one_line(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    words = [*FAST, "--model", "user_models:hungry", "--rounds", "2", "--run-dir", str(tmp_path / "run")]
    swarm = start(ring(tmp_path), *words)
    swarm.until("starting")
    family = swarm.family()
    code, err = swarm.end()
    assert code == 1
    assert "cpu: out of memory; choose fewer peers a machine" in one_line(err)
    nobody_left(swarm, family)


FULL = [
    (MemoryError(), "cpu: out of memory"),
    (
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
        "cpu: out of memory",
    ),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory; choose fewer peers a GPU"),
    (RuntimeError("CUDA error: out of memory"), "out of memory; choose fewer peers a GPU"),
    (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out of memory; choose fewer peers a GPU"),
]


@pytest.mark.parametrize(("error", "said"), FULL)
@pytest.mark.parametrize("refusal", [TrainingError, ConfigError])
def test_every_way_of_running_out_of_memory_is_said_alike(
    error: BaseException, said: str, refusal: type[TrainingError]
) -> None:
    with pytest.raises(refusal, match=said), on_device(torch.device("cpu"), refusal):
        raise error


def test_other_mistakes_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), on_device(torch.device("cpu")):
        raise RuntimeError("shape")
