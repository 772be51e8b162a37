"""Limit of open files: a neighbor's real need, raised limits, refusals."""

from __future__ import annotations

import os
import resource
import socket
import time
from contextlib import ExitStack

import pytest
from tests.support.live_socket import wire_frames
from tests.support.raw_zmtp import answer_hands, message, open_stranger

from p2pfl.errors import P2PFLError
from p2pfl.node.limits import allow_open_files, files_needed
from p2pfl.protocol.events import Received
from p2pfl.transport import ZmqTransport


def open_files(neighbors: int) -> int:
    """Open files of a peer with so many neighbors, connected in both directions."""
    before = len(os.listdir("/dev/fd"))
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=neighbors))
        peer = stack.enter_context(ZmqTransport("tcp://127.0.0.1:*"))
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        peer.connect(dict.fromkeys(range(neighbors), endpoint), 4)
        theirs = [server]
        for _ in range(neighbors):
            theirs.append(stack.enter_context(server.accept()[0]))
            answer_hands(theirs[-1])
            theirs.append(stack.enter_context(open_stranger(peer.endpoint)))
            theirs[-1].sendall(message(*wire_frames(1)))
        heard, deadline = 0, time.monotonic() + 30
        while heard < neighbors:
            assert time.monotonic() < deadline
            heard += sum(isinstance(event, Received) for event in peer.poll(0.1))
        peer.poll(0.1)
        return len(os.listdir("/dev/fd")) - before - len(theirs)


def test_a_neighbor_takes_no_more_files_than_are_asked_for() -> None:
    few, many = open_files(4), open_files(24)
    assert many - few > 20 * 6, "what is measured"
    assert many - few <= files_needed(0, 24) - files_needed(0, 4)
    assert many < files_needed(0, 24)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """The system's limits, which a test may set and then read."""
    kept = {"files": (256, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: kept["files"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: kept.update(files=both))
    return kept


@pytest.mark.parametrize("hard", [4096, 1024, 900, resource.RLIM_INFINITY])
def test_the_soft_limit_is_raised_with_room_as_far_as_the_hard_one_allows(
    limits: dict[str, tuple[int, int]], hard: int
) -> None:
    limits["files"] = (256, hard)
    allow_open_files(4, 70)
    soft, after = limits["files"]
    assert after == hard
    assert soft >= files_needed(4, 70)
    assert soft == hard or soft >= files_needed(4, 140)
    allow_open_files(2, 1)
    assert limits["files"] == (soft, hard), "it is never lowered"


def test_a_hard_limit_that_is_too_low_is_one_line(limits: dict[str, tuple[int, int]]) -> None:
    limits["files"] = (256, 600)
    with pytest.raises(P2PFLError, match=r"only 600 files .* needs up to \S+; raise the limit \(ulimit -n \d+\)"):
        allow_open_files(4, 300)
    assert limits["files"] == (256, 600)
