"""Transports: one test on ZeroMQ for each behavior, and its twin in memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from p2pfl.errors import TransportError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Lost, Received, Reconnected, Refused
from p2pfl.transport import (
    Conditioner,
    MemoryHub,
    MemoryTransport,
    Transport,
    ZmqTransport,
    constant_delay,
    links,
)
from p2pfl.transport.zeromq import FILE_SECONDS

HELLO = wire.Message(wire.Header(wire.VERSION, "run", "hello", 0, 1))
Pair = tuple[Transport, Transport]


def chunk(data: np.ndarray) -> list[wire.Message]:
    header = wire.Header(wire.VERSION, "run", "chunk", 0, 1, codec="fp32")
    return list(wire.chunks(header, {"x": data.view(np.uint8).data}))


def collect(transport: Transport, enough: Callable[[list[object]], bool], seconds: float = 60.0) -> list[object]:
    """Poll until there is enough; fails when the time is over."""
    events: list[object] = []
    deadline = time.monotonic() + seconds
    while not enough(events):
        assert time.monotonic() < deadline, f"only {events}"
        events += transport.poll(0.05)
    return events


@pytest.fixture(params=["memory", "ipc", "tcp"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    ends: list[Transport]
    if request.param == "memory":
        hub = MemoryHub()
        ends = [MemoryTransport(hub, "a"), MemoryTransport(hub, "b")]
    else:
        binds = [f"ipc://{tmp_path}/{name}" if request.param == "ipc" else "tcp://127.0.0.1:*" for name in "ab"]
        ends = [ZmqTransport(bind) for bind in binds]
    ends[0].connect({1: ends[1].endpoint}, 1 << 23)
    ends[1].connect({0: ends[0].endpoint}, 1 << 23)
    yield ends[0], ends[1]
    for end in ends:
        end.close()


def test_vectors_arrive_whole_and_in_order(pair: Pair) -> None:
    sender, receiver = pair
    data = np.random.default_rng(0).standard_normal(700_000).astype(np.float32)
    sent = sum(sender.send(1, message) for message in chunk(data))
    events = collect(receiver, lambda events: len(events) == 3)
    bodies = [event.message.body for event in events]
    assert [event.message.header.offset for event in events] == [0, wire.CHUNK_BYTES, 2 * wire.CHUNK_BYTES]
    assert b"".join(bytes(body) for body in bodies) == data.tobytes()
    assert sum(event.size for event in events) == sent > data.nbytes
    deadline = time.monotonic() + 60
    while not sender.flushed():
        assert time.monotonic() < deadline
        sender.poll(0.01)


def test_wake_ends_a_poll_of_another_thread(pair: Pair) -> None:
    waiting = pair[0]
    done = threading.Event()

    def wait() -> None:
        while not done.is_set():
            waiting.poll(60.0)
            done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wake()
    thread.join(timeout=20)
    assert done.is_set()


def test_messages_wait_for_a_neighbor_that_starts_later(tmp_path: Path) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a") as early:
        early.connect({1: f"ipc://{tmp_path}/b"}, 4)
        early.send(1, HELLO)
        with ZmqTransport(f"ipc://{tmp_path}/b") as late:
            events = collect(late, lambda events: bool(events))
        assert isinstance(events[0], Received)
        assert events[0].message == HELLO


def test_a_broken_connection_is_reported_when_it_stands_again(tmp_path: Path) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a") as a:
        b = ZmqTransport(f"ipc://{tmp_path}/b")
        a.connect({1: b.endpoint}, 4)
        a.send(1, HELLO)
        collect(b, lambda events: bool(events))
        b.close()
        with ZmqTransport(f"ipc://{tmp_path}/b") as again:
            assert Reconnected(1) in collect(a, lambda events: Reconnected(1) in events)
            a.send(1, HELLO)
            assert isinstance(collect(again, lambda events: bool(events))[-1], Received)


def test_links_are_looked_at_by_the_clock_and_not_at_every_turn(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the links costs a system call; a peer takes thousands of turns."""
    sender, receiver = pair
    sender.send(1, HELLO)
    collect(receiver, lambda events: bool(events))
    looks = []
    monkeypatch.setattr(links, "bytes_received", lambda end: looks.append(end) or 0)
    collect(sender, lambda _: bool(looks) or isinstance(sender, MemoryTransport))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    looks.clear()
    for _ in range(100):
        sender.poll(0.0)
    assert len(looks) <= 1


def test_a_neighbor_that_stays_away_is_lost(tmp_path: Path) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a", grace=0.3) as a:
        b = ZmqTransport(f"ipc://{tmp_path}/b")
        a.connect({1: b.endpoint}, 4)
        a.send(1, HELLO)
        collect(b, lambda events: bool(events))
        b.close()
        assert collect(a, lambda events: bool(events)) == [Lost(1)]
        assert a.poll(0.5) == [], "it is lost once, not again and again"


@pytest.mark.parametrize(
    "frames",
    [[b"\xff garbage", b""], [b""], [b"a", b"b", b"c"], [b"x"] * 2000, [wire.encode(HELLO)[0], b"a body"]],
    ids=["garbage", "one frame", "three frames", "2000 frames", "body too many"],
)
def test_what_is_no_message_is_refused_and_the_next_one_arrives(tmp_path: Path, frames: list[bytes]) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a") as a, zmq.Context() as context:
        with context.socket(zmq.DEALER) as stranger:
            stranger.connect(a.endpoint)
            stranger.send_multipart(frames)
            stranger.send_multipart([bytes(frame) for frame in wire.encode(HELLO)])
            events = collect(a, lambda events: len(events) == 2)
        assert isinstance(events[0], Refused)
        assert isinstance(events[1], Received)


def test_a_frame_above_the_limit_ends_the_connection(tmp_path: Path) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a") as a, zmq.Context() as context:
        with context.socket(zmq.DEALER) as stranger:
            monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            stranger.connect(a.endpoint)
            stranger.send_multipart([b"", bytes(wire.CHUNK_BYTES + 1)])
            assert monitor.poll(20_000), "the connection must be closed"
            stranger.disable_monitor()
            monitor.close()
            stranger.close(0)
        assert a.poll(0.0) == []


def test_a_neighbor_that_takes_nothing_is_a_broken_link_not_endless_memory(tmp_path: Path) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a") as a:
        a.connect({1: f"ipc://{tmp_path}/b"}, 4)
        sent = [a.send(1, HELLO) for _ in range(1000)]
        assert sent[0] > 0
        full = sent.index(0)
        assert 2 < full < 1000
        with ZmqTransport(f"ipc://{tmp_path}/b") as b:
            waited = 1000 - (full + 1) * (
                1000 // (full + 1)
            )  # what was handed over since the link was last reconnected
            assert len(collect(b, lambda events: len(events) >= waited)) == waited


def test_what_is_discarded_lets_go_of_its_buffers_and_never_arrives(tmp_path: Path) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a") as a:
        a.connect({1: f"ipc://{tmp_path}/b"}, wire.CHUNK_BYTES)
        for message in chunk(np.ones(1 << 10, np.float32)):
            a.send(1, message)
        assert not a.flushed()  # nobody is there to take it
        a.discard(1)
        deadline = time.monotonic() + 20
        while not a.flushed():
            assert time.monotonic() < deadline
            a.poll(0.01)
        a.send(1, HELLO)
        with ZmqTransport(f"ipc://{tmp_path}/b") as b:
            (event,) = collect(b, lambda events: bool(events))
            assert isinstance(event, Received)
            assert event.message == HELLO


def test_a_neighbor_that_never_comes_is_lost_and_one_that_comes_late_is_told(tmp_path: Path) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a", grace=0.2) as a:
        a.connect({1: f"ipc://{tmp_path}/b"}, 4)
        assert collect(a, lambda events: bool(events)) == [Lost(1)]
        with ZmqTransport(f"ipc://{tmp_path}/b"):
            assert collect(a, lambda events: bool(events)) == [Reconnected(1)]


def test_endpoints_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    with ZmqTransport("tcp://127.0.0.1:*") as a, pytest.raises(TransportError, match="in use"):
        ZmqTransport(a.endpoint)
    with pytest.raises(TransportError, match="longer than 107 bytes"):
        ZmqTransport(f"ipc://{tmp_path}/{'x' * 107}")
    with pytest.raises(TransportError, match="tcp://nonsense"):
        ZmqTransport("tcp://nonsense")


def test_a_delayed_message_comes_later_whole_and_in_order() -> None:
    hub = MemoryHub()
    sender, receiver = Conditioner(MemoryTransport(hub, "a"), constant_delay(0.05)), MemoryTransport(hub, "b")
    sender.connect({1: "b"}, 4)
    began = time.monotonic()
    sizes = [sender.send(1, message) for message in (HELLO, *chunk(np.ones(1, np.float32)))]
    assert not sender.flushed()
    assert receiver.poll(0) == []
    received: list[Received] = []
    while len(received) < 2 and time.monotonic() < began + 60:
        sender.poll(1.0)
        received += [event for event in receiver.poll(0) if isinstance(event, Received)]
    assert time.monotonic() - began >= 0.05
    assert [event.message.header.kind for event in received] == ["hello", "chunk"]
    assert [event.size for event in received] == sizes
    assert sender.flushed()


def test_closing_delivers_what_was_held_back() -> None:
    hub = MemoryHub()
    sender, receiver = Conditioner(MemoryTransport(hub, "a"), constant_delay(1000.0)), MemoryTransport(hub, "b")
    sender.connect({1: "b"}, 4)
    sender.send(1, HELLO)
    sender.close()
    assert [event.message for event in receiver.poll(0) if isinstance(event, Received)] == [HELLO]


def test_a_vector_with_a_small_last_chunk_is_not_flushed_before_it_is_sent(tmp_path: Path) -> None:
    with ZmqTransport(f"ipc://{tmp_path}/a") as transport:
        transport.connect({1: f"ipc://{tmp_path}/nobody"}, wire.CHUNK_BYTES + 4)
        for message in chunk(np.zeros(wire.CHUNK_BYTES // 4 + 1, np.float32)):
            transport.send(1, message)
        assert not transport.flushed()


SENDERS = """
import sys, threading, time
from pathlib import Path
from p2pfl.protocol import wire
from p2pfl.transport import ZmqTransport

folder, count = Path(sys.argv[1]), 32
header = wire.Header(wire.VERSION, "run", "chunk", 0, 1, codec="fp32")
sys.setswitchinterval(1e-6)
meet, flushed = threading.Barrier(count), []

def send(number: int) -> None:
    with ZmqTransport(f"ipc://{folder}/{number}") as receiver, ZmqTransport(f"ipc://{folder}/s{number}") as sender:
        sender.connect({1: receiver.endpoint}, 4)
        receiver.poll(0)
        meet.wait()
        for message in wire.chunks(header, {"x": memoryview(bytes(4))}):
            sender.send(1, message)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            sender.poll(0.01)
            if sender.flushed():
                flushed.append(number)
                break

threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(flushed) == list(range(count)))
"""


@pytest.mark.processes
def test_threads_that_send_at_once_hear_that_their_buffers_are_free(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SENDERS, str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert ended.stdout == "True\n", ended.stderr


def test_a_socket_whose_file_was_removed_is_bound_again(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir(mode=0o700)
    with ZmqTransport(f"ipc://{folder}/a") as a, ZmqTransport(f"ipc://{folder}/b") as early:
        early.connect({1: a.endpoint}, 4)
        early.send(1, HELLO)
        collect(a, lambda events: bool(events))
        shutil.rmtree(folder)
        a.poll(0.01)
        folder.mkdir(mode=0o700)
        with ZmqTransport(f"ipc://{folder}/c") as late:
            late.connect({1: a.endpoint}, 4)
            late.send(1, HELLO)
            collect(a, lambda events: bool(events))
        early.send(1, HELLO)
        collect(a, lambda events: bool(events))  # the connection that stood goes unharmed


def test_a_socket_is_not_bound_again_in_a_folder_that_is_open_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir(mode=0o700)
    with ZmqTransport(f"ipc://{folder}/a") as a:
        shutil.rmtree(folder)
        folder.mkdir()
        folder.chmod(0o777)
        deadline = time.monotonic() + 2 * FILE_SECONDS
        while time.monotonic() < deadline:
            a.poll(0.1)
        assert list(folder.iterdir()) == []
