"""Address book: entries that are taken, replaced, or refused with a line."""

from __future__ import annotations

import msgspec
import pytest
from tests.support.entries import RUN, book, entry, public_key

from p2pfl import make_topology
from p2pfl.rendezvous.book import News, Place
from p2pfl.rendezvous.entry import ENTRY_BYTES, Entry, Identity, is_address, topology_digest


def test_a_newer_address_replaces_an_older_one_and_each_is_said_once() -> None:
    mine = book()
    assert mine.missing == [1, 2]
    assert mine.take([entry()]) == [News("peer bob is at tcp://10.0.0.2:7000")]
    before = mine.places
    assert mine.take([entry()]) == []
    assert mine.places is before
    moved = mine.take([entry(address="tcp://10.0.0.9:7001", process="another one")])
    assert moved == [News("peer bob has moved from tcp://10.0.0.2:7000 to tcp://10.0.0.9:7001")]
    assert before[1].address == "tcp://10.0.0.2:7000", "a reader in another thread keeps what it has"
    assert mine.places == {1: Place("tcp://10.0.0.9:7001")}
    assert mine.missing == [2]
    assert mine.take([entry(peer=7)]) == [], "no neighbor"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Identity("another", RUN.settings, RUN.start), "another topology"),
        (Identity(RUN.topology, "others", RUN.start), "other options"),
        (Identity(RUN.topology, RUN.settings, "job 0"), "another --rendezvous-run"),
        (Identity("another", RUN.settings, ""), "another topology, another --rendezvous-run"),
    ],
)
def test_an_entry_of_another_run_is_refused_once_and_named_at_the_end(other: Identity, words: str) -> None:
    mine = book()
    stale = entry(identity=other)
    [news] = mine.take([stale])
    assert news == News(
        f"entry of peer bob is not used: of another run ({words}), perhaps an earlier one; waiting for it to be "
        "replaced",
        matters=True,
    )
    assert mine.take([stale]) == []
    assert mine.whereabouts([1, 2]) == (
        f"peer bob (no address announced; its entry: of another run ({words}), perhaps an earlier one), "
        "peer carol (no address announced)"
    )
    assert mine.take([entry()]) == [News("peer bob is at tcp://10.0.0.2:7000")]
    [news] = mine.take([stale])
    assert news.text.endswith("the known address stays")
    assert mine.whereabouts([1, 9]) == "peer bob at tcp://10.0.0.2:7000"
    assert mine.whereabouts([9]) == "peer bob at tcp://10.0.0.2:7000, peer carol (no address announced)"


def test_keys_are_taken_where_they_are_wanted() -> None:
    first, second = public_key(), public_key()
    plain = book()
    plain.take([entry(public_key=first)])
    assert plain.places[1].public_key == "", "the topology file's keys count"
    mine = book(wants_keys=True)
    for bad in ("", "short", "\x00" * 40):
        mine.take([entry(public_key=bad)])
        assert mine.places == {}
    mine.take([entry(public_key=first)])
    assert mine.places[1] == Place("tcp://10.0.0.2:7000", first)
    assert mine.take([entry(public_key=second)]) == [News("peer bob at tcp://10.0.0.2:7000 has another public key")]


def test_without_encryption_addresses_beyond_this_machine_are_refused() -> None:
    mine = book(only_local=True)
    [news] = mine.take([entry()])
    assert "beyond this machine, and messages are not encrypted; use --keys or --insecure" in news.text
    for address in ("tcp://127.0.0.1:7000", "tcp://[::1]:7000", "tcp://localhost:7000"):
        assert mine.take([entry(address=address)])[0].matters is False


@pytest.mark.parametrize(
    "address",
    [
        *("", "tcp://", "10.0.0.1:7000", "ipc:///tmp/x", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://:1"),
        *("tcp://a b:1", "tcp://a;b:1", "tcp://*:7", "tcp://host:*", "tcp://host:1\n", "tcp://[::1:1", "tcp://[]:1"),
        *("tcp://::1:1", "tcp://h\u00f6st:1", "udp://host:1", "tcp://host:1/x", "tcp://host:\u0661"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    assert not is_address(address)
    [news] = book().take([entry(address=address)])
    assert "is not an address" in news.text
    assert "\n" not in news.text


LONGEST = Identity("t" * 64, "s" * 64, "n" * 200)


def test_entries_are_typed_and_bounded() -> None:
    whole = entry(address=f"tcp://{'h' * 280}:7000", public_key="k" * 40, identity=LONGEST)
    for codec in (msgspec.json, msgspec.msgpack):
        data = codec.encode(whole)
        assert len(data) < ENTRY_BYTES
        assert codec.decode(data, type=Entry) == whole
    for changed in ({"peer": -1}, {"process": "x"}, {"address": "tcp://" + "h" * 300}, {"public_key": "k" * 41}):
        bad = {**msgspec.to_builtins(whole), **changed}
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, Entry)


def test_another_format_is_refused() -> None:
    [news] = book().take([entry(version=2)])
    assert "format 2 instead of 1; install the same p2pfl everywhere" in news.text


def test_the_digest_of_a_topology_is_of_its_labels_and_edges() -> None:
    digests = {topology_digest(make_topology(kind, 4)) for kind in ("ring", "complete", "path", "star")}
    digests |= {topology_digest(make_topology("ring", 5)), topology_digest(make_topology("exponential", 4))}
    assert len(digests) == 6
    assert topology_digest(make_topology("ring", 4)) in digests
