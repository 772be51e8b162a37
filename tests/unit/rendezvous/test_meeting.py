"""Meeting through a folder: links open at late addresses, and follow restarts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import zmq
from tests.support.entries import RUN

from p2pfl import make_topology
from p2pfl.errors import ConfigError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Reconnected, Refused, TransportEvent
from p2pfl.rendezvous.address import announced
from p2pfl.rendezvous.book import Book, News
from p2pfl.rendezvous.directory import DirectoryError, Found
from p2pfl.rendezvous.entry import Entry, process_name
from p2pfl.rendezvous.folder import Folder
from p2pfl.rendezvous.meeting import Meeting, RendezvousTransport
from p2pfl.rendezvous.upload import Upload, UploadRefusedError
from p2pfl.transport import Keys

PAIR = make_topology("path", 2)


def hello(sender: int) -> wire.Message:
    return wire.Message(wire.Header(wire.VERSION, "run", "hello", sender, 1))


class Peer:
    """One of two peers that meet in a folder, with keys that only the folder tells."""

    def __init__(self, folder: Path, me: int, pair: tuple[str, str] | None = None) -> None:
        public, secret = pair or tuple(part.decode() for part in zmq.curve_keypair())
        own = Entry(peer=me, address="", identity=RUN, process=process_name(), public_key=public)
        book = Book(RUN, {1 - me: "ab"[1 - me]}, wants_keys=True)
        self.me, self.said = me, list[News]()
        self.meeting = Meeting(Folder(folder, PAIR), book, own, announced("127.0.0.1", {}), self.said.append)
        self.credentials = Keys(public, secret, {})

    def open(self) -> RendezvousTransport:
        transport = self.meeting.open(10.0, self.credentials)
        transport.connect({1 - self.me: ""}, 4)
        return transport


@contextlib.contextmanager
def running(folder: Path, me: int) -> Iterator[tuple[Peer, RendezvousTransport]]:
    peer = Peer(folder, me)
    with peer.meeting, contextlib.closing(peer.open()) as transport:
        yield peer, transport


def until(
    transports: list[RendezvousTransport], enough: Callable[[list[TransportEvent]], bool], send: Callable[[], object]
) -> list[TransportEvent]:
    """Events of the first transport until there are enough, while all are polled."""
    events: list[TransportEvent] = []
    deadline = time.monotonic() + 30
    while not enough(events):
        assert time.monotonic() < deadline, events
        send()
        events += transports[0].poll(0.02)
        for other in transports[1:]:
            other.poll(0.02)
    return events


def has_received(events: list[TransportEvent]) -> bool:
    return any(isinstance(event, Received) for event in events)


def test_links_open_when_addresses_and_keys_come_and_follow_a_restart(tmp_path: Path) -> None:
    with running(tmp_path, 0) as (zero, here):
        assert here.send(1, hello(0)) == 0, "nowhere to send to yet"
        with running(tmp_path, 1) as (_, there):
            events = until([here, there], has_received, lambda: there.send(0, hello(1)))
            until([there, here], has_received, lambda: here.send(1, hello(0)))
            assert [event for event in events if isinstance(event, Refused)] == [], "a late key is no attack"
            first = zero.meeting.places[1]
            assert first.address == there.endpoint
        with running(tmp_path, 1) as (_, again):
            assert again.endpoint != first.address
            until([here, again], lambda events: Reconnected(1) in events, lambda: again.send(0, hello(1)))
            until([again, here], has_received, lambda: here.send(1, hello(0)))
        assert [line.text for line in zero.said] == [
            f"announces {here.endpoint} in {tmp_path}",
            f"peer b is at {first.address}",
            f"peer b has moved from {first.address} to {again.endpoint}",
        ]
    assert list(tmp_path.iterdir()) == [], "who ends withdraws"


def test_a_second_transport_of_a_peer_has_the_port_of_the_first(tmp_path: Path) -> None:
    peer = Peer(tmp_path, 0)
    with peer.meeting:
        with contextlib.closing(peer.open()) as first:
            pass
        with contextlib.closing(peer.open()) as second:
            assert second.endpoint == first.endpoint
        assert len(peer.said) == 1, "announced once"
        assert peer.meeting.whereabouts([1]) == "peer b (no address announced)"


def test_a_folder_that_goes_away_is_said_once_and_used_when_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "meet"
    with running(folder, 0) as (zero, here):
        until([here], lambda _: (folder / "0.json").exists(), lambda: None)
        folder.rename(tmp_path / "moved")
        until([here], lambda _: len(zero.said) > 1, lambda: None)
        (tmp_path / "moved").rename(folder)
        (folder / "0.json").unlink()
        until([here], lambda _: (folder / "0.json").exists(), lambda: None)
        assert len(zero.said) == 2
        assert zero.said[1].matters
        assert str(folder) in zero.said[1].text
        assert zero.said[1].text.endswith("; trying again")


def test_two_processes_of_one_peer_are_noticed(tmp_path: Path) -> None:
    with running(tmp_path, 0) as (zero, here):
        until([here], lambda _: (tmp_path / "0.json").exists(), lambda: None)
        with running(tmp_path, 0) as (twin, other):
            until([here, other], lambda _: len(zero.said) == 2 == len(twin.said), lambda: None)
            assert "another process has announced itself as this peer" in zero.said[1].text
            assert "replaces its entry of an earlier start" in twin.said[1].text
            where = f"another process has announced itself as this peer in {tmp_path} since"
            assert zero.meeting.whereabouts([1]) == f"peer b (no address announced) ({where})"


class Raced(Folder):
    """Folder in which a run begins between a check's question and its announcement."""

    def __init__(self, path: Path, run: Callable[[], object]) -> None:
        super().__init__(path, PAIR)
        self.run = run

    def occupant(self, own: Entry, stopped: Callable[[], bool] = lambda: False) -> Entry | None:
        found = super().occupant(own, stopped)
        self.run()
        return found


def test_a_check_gives_way_to_a_process_that_is_quicker(tmp_path: Path) -> None:
    with contextlib.ExitStack() as held:

        def begin() -> None:
            if not began:
                began.append(held.enter_context(running(tmp_path, 0)))
                until([began[0][1]], lambda _: (tmp_path / "0.json").exists(), lambda: None)

        began: list[tuple[Peer, RendezvousTransport]] = []
        own = Entry(peer=0, address="", identity=RUN, process=process_name())
        book = Book(RUN, {1: "b"})
        meeting = held.enter_context(
            Meeting(Raced(tmp_path, begin), book, own, announced("127.0.0.1", {}), lambda news: None)
        )
        meeting.give_way()
        check = held.enter_context(contextlib.closing(meeting.open(10.0, None)))
        with pytest.raises(ConfigError, match="another process is this peer, and listens at"):
            until([check], lambda _: bool(meeting.places), lambda: None)
        [(peer, transport)] = began
        transport.poll(0.0)
        assert len(peer.said) == 1, "it is still the one that is announced"


@pytest.mark.parametrize("address", ["tcp://999.1.1.1:7", "tcp://[::ffff]:1", "tcp://no-such-host.invalid:1"])
def test_an_address_that_leads_nowhere_ends_no_peer(tmp_path: Path, address: str) -> None:
    Folder(tmp_path, PAIR).exchange(
        Entry(peer=1, address=address, identity=RUN, process="process-1", public_key=zmq.curve_keypair()[0].decode()),
        [],
    )
    with running(tmp_path, 0) as (zero, here):
        until([here], lambda _: 1 in zero.meeting.places, lambda: None)
        assert here.send(1, hello(0)) >= 0
        here.poll(0.05)
        assert zero.meeting.whereabouts([1]) == f"peer b at {address}"


class Keeping:
    """A directory that keeps records, until it fails as the test says."""

    where = "tcp://10.0.0.1:7300"

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.parts = 0
        self.left = 0
        self.calls: list[str] = []

    def exchange(self, own: Entry, neighbors: Collection[int], stopped: Callable[[], bool]) -> Found:
        return Found()

    def occupant(self, own: Entry, stopped: Callable[[], bool]) -> Entry | None:
        return None

    def claim(self, own: Entry, other: Entry | None, stopped: Callable[[], bool]) -> bool:
        return True

    def record(self, upload: Upload, stopped: Callable[[], bool]) -> bool:
        if self.failures:
            raise self.failures.pop(0)
        self.left -= self.left > 0
        self.parts += 1
        self.calls.append("record")
        return self.left > 0

    def withdraw(self, own: Entry) -> None:
        self.calls.append("withdraw")

    def close(self) -> None:
        self.calls.append("close")


RECORDING = (
    f"sends its records (its settings, rounds, label counts and log; no weights) to {Keeping.where}, which keeps them"
)


def kept(directory: Keeping, tmp_path: Path, leave: Callable[[], object]) -> list[str]:
    """Lines of a peer whose records are kept, to its end."""
    own = Entry(peer=0, address="", identity=RUN, process=process_name())
    said = list[News]()
    with Meeting(directory, Book(RUN, {1: "b"}), own, announced("127.0.0.1", {}), said.append) as meeting:
        meeting.keep_records(tmp_path, tmp_path / "peers" / "0")
        with contextlib.closing(meeting.open(10.0, None)) as transport:
            until([transport], lambda _: len(said) > 1, lambda: None)
        leave()
    return [line.text for line in said[1:]]


def test_the_last_records_are_sent_before_the_announcement_is_withdrawn(tmp_path: Path) -> None:
    directory = Keeping()
    directory.left = 2
    assert kept(directory, tmp_path, lambda: setattr(directory, "left", 40)) == [RECORDING]
    assert directory.left == 0
    assert directory.calls[-3:] == ["record", "withdraw", "close"]


def test_a_service_that_is_gone_at_the_end_is_said_with_what_helps(tmp_path: Path) -> None:
    directory = Keeping()
    directory.left = 2
    gone = [DirectoryError("no answer")] * 9
    said = kept(directory, tmp_path, lambda: directory.failures.extend(gone))
    assert said[-1] == (
        "its last records have not reached the service: no answer; name this peer's run directory to p2pfl collect, "
        "besides the service"
    )
    assert directory.calls[-2:] == ["withdraw", "close"]


def test_records_that_are_refused_are_said_once_and_end_no_peer(tmp_path: Path) -> None:
    directory = Keeping(UploadRefusedError("no room"))
    assert kept(directory, tmp_path, lambda: None) == [f"{directory.where} does not keep this peer's records: no room"]
    assert directory.parts == 0
