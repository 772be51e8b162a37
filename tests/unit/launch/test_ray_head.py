"""Head of a Ray cluster: told from other services, and watched during a run."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from tests.support.heads import GRPC, head

from p2pfl.config import LaunchConfig
from p2pfl.errors import ConfigError
from p2pfl.launch import ray_head
from p2pfl.launch.ray_cluster import connected
from p2pfl.launch.ray_head import HeadWatch, check_answers
from p2pfl.util.signals import interruptible


def test_a_head_is_known_by_its_answer() -> None:
    with head(GRPC) as address:
        check_answers(address, address)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what listens there is no head of a Ray cluster"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is no head of a Ray cluster"),
        (b"", "what listens there is no head of a Ray cluster"),
        (None, r"no cluster answers there \(no answer\)"),
    ],
    ids=["ssh", "http", "end", "silence"],
)
def test_other_services_are_refused_within_a_limited_time(answer: bytes | None, said: str) -> None:
    with head(answer) as address, pytest.raises(ConfigError, match=rf"^--ray-address {address}: {said}; see `ray "):
        check_answers(address, address, 10.0 if answer is not None else 0.05)


def test_an_interrupt_ends_the_wait_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with (
        interruptible(),
        head(None, interrupt) as address,
        pytest.raises(KeyboardInterrupt),
        connected(LaunchConfig("ray", address), 4, Path()),
    ):
        pass


def test_a_head_that_is_gone_for_long_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_head, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ray_head, "LOST_SECONDS", 0.05)
    server = socket.create_server(("127.0.0.1", 0))
    watch = HeadWatch(f"127.0.0.1:{server.getsockname()[1]}")
    try:
        server.accept()[0].close()
        server.accept()[0].close()
        assert not watch.is_lost
        server.close()
        deadline = time.monotonic() + 30
        while not watch.is_lost:
            assert time.monotonic() < deadline
        assert watch.is_silent
    finally:
        server.close()
        watch.close()
