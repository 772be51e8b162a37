"""Connections cut in the middle of vectors change no bit of the result."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from pathlib import Path

import pytest
import torch
from tests.support.helpers import free_ports
from tests.support.swarms import LIVELY, memory_swarm, saved_vectors, thread_swarm

from p2pfl import RunConfig, make_topology
from p2pfl.transport import ZmqTransport

CUTS = 6


class CuttingProxy:
    """Proxy that forwards tcp to one port.

    It breaks the connection after a random number of bytes, a given number of times.
    """

    def __init__(self, target: int, mean_bytes: int, seed: int) -> None:
        self.cuts = 0
        self._target = target
        self._mean = mean_bytes
        self._random = random.Random(seed)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                left = self._random.expovariate(1 / self._mean)
                for ends in ((near, far, left), (far, near, float("inf"))):
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, left: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                left -= len(data)
                if left < 0 and self.cuts < CUTS:
                    self.cuts += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def ports() -> list[int]:
    return free_ports(3)


TOPOLOGY = make_topology("ring", 3)
OPTIONS = {**LIVELY, "model": "user_models:broad", "rounds": 4}  # vectors of three chunks


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("memory") / "run"
    return memory_swarm(TOPOLOGY, RunConfig.of(**OPTIONS, run_dir=str(run_dir)))


@pytest.mark.parametrize(
    ("transport", "mean_bytes"),
    [("tcp", 600_000), ("tcp", 3_000_000), ("shm", 3_000)],
    ids=["every vector", "now and then", "references to shared memory"],
)
def test_broken_connections_change_no_bit(
    tmp_path: Path, ports: list[int], undisturbed: Path, transport: str, mean_bytes: int
) -> None:
    proxies = [CuttingProxy(port, mean_bytes, seed=port) for port in ports]
    try:
        disturbed = thread_swarm(
            TOPOLOGY,
            RunConfig.of(**OPTIONS, transport=transport, run_dir=str(tmp_path / "cut")),
            binds=[f"tcp://127.0.0.1:{port}" for port in ports],
            endpoints=[f"tcp://127.0.0.1:{proxy.port}" for proxy in proxies],
            make_transport=ZmqTransport,
        )
    finally:
        for proxy in proxies:
            proxy.close()
    assert sum(proxy.cuts for proxy in proxies) >= CUTS, "the proxies must have done their work"
    assert torch.equal(saved_vectors(disturbed, TOPOLOGY, 4), saved_vectors(undisturbed, TOPOLOGY, 4))
    assert (disturbed / "consensus.safetensors").read_bytes() == (undisturbed / "consensus.safetensors").read_bytes()
