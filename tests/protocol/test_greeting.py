"""Greetings: neighbors compare their settings, and name the differences."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import networkx as nx
import pytest
import torch
from tests.support.helpers import images
from tests.support.one_peer import CONTEXT, SIZE, greeted, hello, news, only_fail, peer_zero, sends

from p2pfl import RunConfig, make_topology
from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.errors import ProtocolError
from p2pfl.model.vector import Layout
from p2pfl.modes import assign_roles
from p2pfl.node.greeting import greeting_of
from p2pfl.protocol.client import Client
from p2pfl.protocol.coordinator import Coordinator
from p2pfl.protocol.events import Action, Fail, Received, Started, Tick
from p2pfl.protocol.greeting import (
    MAX_CLASS,
    MAX_CLASSES,
    MAX_ENTRIES,
    MAX_NAME,
    MAX_VALUE,
    Data,
    Greeting,
    decode,
    describe_data,
    difference,
    encode,
    short,
)
from p2pfl.protocol.peer import Peer
from p2pfl.protocol.server_exchange import Federation
from p2pfl.protocol.wire import GREETING_BYTES, Message
from p2pfl.topology import Topology, build_topology
from p2pfl.training import initial_model

CLIENT = replace(
    CONTEXT, me=1, names=["zero", "one", "two", "three", "four", "five", "coordinator"], links=frozenset({6})
)
RING = make_topology("ring", 3)
DATA = describe_data("folder: 8 images", (32, 32, 3), ("cat", "dog"), "0123456789abcdef")
OURS = Greeting(
    {"--lr": "0.05", "--batch-size": "16"}, {"nodes": "2 (a, b; 1)", "links": "2 (3)"}, DATA, "9 parameters"
)


def changed(**fields: object) -> Greeting:
    return msgspec.structs.replace(OURS, **fields)


def other_data(**fields: object) -> Greeting:
    return changed(data=msgspec.structs.replace(DATA, **fields))


def of_classes(*names: str) -> Greeting:
    return changed(data=describe_data("folder: 8 images", (32, 32, 3), names, "fedcba9876543210"))


KINDS = {
    "nothing": (OURS, None),
    "description alone": (other_data(about="folder: 9 images"), None),
    "one setting": (
        changed(settings={"--lr": "0.02", "--batch-size": "16"}),
        "has --lr 0.02, this peer 0.05: start both with the same settings",
    ),
    "two settings": (
        changed(settings={"--lr": "0.02", "--batch-size": "8"}),
        "has --lr 0.02 and --batch-size 8, this peer --lr 0.05 and --batch-size 16: start both",
    ),
    "a setting that we do not know": (
        changed(settings={**OURS.settings, "--new": "1"}),
        "has --new 1, this peer unset",
    ),
    "a setting less": (changed(settings={"--lr": "0.05"}), "has --batch-size unset, this peer 16"),
    "control characters": (
        changed(settings={"--lr": "\x1b[2J\n0.05", "--batch-size": "16"}),
        r"has --lr \x1b[2J\x0a0.05, this peer 0.05",
    ),
    "shape": (other_data(shape="28×28×1"), "has images of 28×28×1, this peer of 32×32×3"),
    "other class": (of_classes("cat", "horse"), "has other classes: class 1 is 'horse' there and 'dog' here"),
    "more classes": (of_classes("bird", "cat", "dog"), "has 3 classes, this peer 2; class 0 is 'bird' there"),
    "classes at the end": (of_classes("cat", "dog", "eel"), "has 3 classes, this peer 2: give both the same --dataset"),
    "other images": (
        other_data(content="ffff", about="folder: 9 images"),
        "has other data of the same classes (folder: 9 images, content ffff), this peer folder: 8 images, content 0123",
    ),
    "other links": (
        changed(topology={"nodes": "2 (a, b; 1)", "links": "4 (9)"}),
        "has a topology file with links 4 (9), this peer 2 (3): give both the same file",
    ),
    "other model": (changed(model="8 parameters"), "has a model of 8 parameters, this peer of 9 parameters"),
    "setting before classes": (
        msgspec.structs.replace(of_classes("x"), settings={"--lr": "1", "--batch-size": "16"}),
        "has --lr 1",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_difference_is_named(name: str) -> None:
    theirs, text = KINDS[name]
    found = difference(OURS, decode(encode(theirs)))
    assert (found is None) == (text is None)
    assert found is None or (found.startswith(text) and found.isprintable())


def test_classes_beyond_those_that_are_carried_count_and_names_are_cut_short() -> None:
    many = [f"class {number}" for number in range(MAX_CLASSES)]
    found = difference(of_classes(*many, "a"), of_classes(*many, "b"))
    assert found is not None
    assert found.startswith(f"has other names of classes after the first {MAX_CLASSES}")
    long = "x" * 100
    assert len(short(long + "a")) <= MAX_VALUE
    assert short(long + "a") != short(long + "b")
    assert of_classes("\udce9").data.classes == ["\\udce9"]  # the name of a folder that is no UTF-8


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        msgspec.msgpack.encode(["text"]),
        msgspec.msgpack.encode([{"--lr": 5}]),
        msgspec.msgpack.encode([{"--lr": "x" * (MAX_VALUE + 1)}]),
        msgspec.msgpack.encode([{str(number): "" for number in range(MAX_ENTRIES + 1)}]),
        msgspec.msgpack.encode([{}, {}, ["", "", -1]]),
        msgspec.msgpack.encode([{}, {}, ["", "", 1, ["x"] * (MAX_CLASSES + 1)]]),
        b"\x91" * 5000,
    ],
    ids=["no message", "type", "number", "long", "many", "negative", "classes", "deep"],
)
def test_what_is_no_greeting_is_refused_in_few_plain_characters(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^greeting: ") as caught:
        decode(body)
    assert len(str(caught.value)) < 100
    assert str(caught.value).isprintable()


def test_the_longest_greeting_fits_its_message() -> None:
    entries = {f"{number:{MAX_NAME}}": "≠" * MAX_VALUE for number in range(30)}
    data = Data("≠" * MAX_VALUE, "x" * MAX_VALUE, 1, ["≠" * MAX_CLASS] * MAX_CLASSES)
    assert len(encode(Greeting(entries, entries, data, "≠" * MAX_VALUE))) <= GREETING_BYTES


# What a process says of itself


def said(topology: Topology = RING, **options: object) -> Greeting:
    config = RunConfig.of(**{"width": 0.0625, "dataset": "imagefolder:/a", **options})
    layout = Layout.of(initial_model(config, 4))
    return greeting_of(config, assign_roles(config, topology), replace(images(), content="c"), layout)


def named(labels: str, *edges: str, source: str = "a.gml") -> Topology:
    graph = nx.Graph()
    graph.add_nodes_from(labels)
    graph.add_edges_from(edge for edge in edges)
    return build_topology(graph, name="named", source=source)


def test_paths_and_what_concerns_one_machine_do_not_count() -> None:
    here = said()
    there = said(dataset="imagefolder:/b/x", data_dir="/c", device="cpu", threads=7, name="n", run_dir="r", keys="k")
    assert difference(here, there) is None
    assert here.settings == there.settings
    assert difference(here, said(width=0.125)) == (
        "has --width 0.125, this peer 0.0625: start both with the same settings"
    )
    assert difference(here, said(rounds=41)) == "has --rounds 41, this peer 40: start both with the same settings"


def test_links_and_labels_of_a_topology_count_and_neither_its_path_nor_their_order_in_the_file() -> None:
    ours = said(named("abc", "ab", "bc", "ca"))
    assert difference(ours, said(named("abc", "ab", "bc", "ca", source="elsewhere/b.graphml"))) is None
    assert "topology file with nodes 3 (a, b, d" in str(difference(ours, said(named("abd", "ab", "bd", "da"))))
    assert difference(ours, said(named("bca", "ab", "bc", "ca"))) is None  # labels are put in order
    assert "topology file with links 4 (" in str(difference(ours, said(named("abc", "ab", "bc"))))


# What a process does about it


def greets(sender: int, greeting: Greeting, run: str = "another") -> Received:
    """Greeting of another run, unless its id is given.

    The id of a run depends on all that is in a greeting.
    """
    told = hello(sender, 1, epoch=1).message
    body = encode(greeting)
    header = msgspec.structs.replace(told.header, run=run, length=len(body))
    return Received(Message(header, body))


def started(spare: int = 0) -> Peer:
    peer = peer_zero(replace(CONTEXT, greeting=OURS, max_missing=spare))
    peer.handle(Started(), 0.0)
    return peer


OTHER = changed(settings={"--lr": "0.02", "--batch-size": "16"})
LINE = "peer 'one' has --lr 0.02, this peer 0.05: start both with the same settings"


def test_a_peer_answers_a_neighbor_with_other_settings_and_ends_with_one_line() -> None:
    peer = started()
    told = peer.handle(greets(1, OTHER), 1.0)
    assert sends(told) == [("hello", 1, 1)]  # so that the neighbor can say the same
    assert news(told) == []  # its end says it
    assert sends(peer.handle(greets(1, OTHER), 1.5)) == []
    assert peer.refused == {"settings": 2}
    assert peer.deadline <= 3.0
    ended: list[Action] = peer.handle(Tick(), 3.0)
    assert only_fail(ended) == LINE
    assert ended == [Fail(LINE, resumable=False, usage=True)]


def test_a_peer_that_can_spare_it_begins_without_such_a_neighbor_when_time_is_up() -> None:
    peer = started(spare=1)
    assert news(peer.handle(greets(1, OTHER), 1.0)) == [f"refused a message: settings: {LINE}"]
    assert not any(isinstance(action, Fail) for action in peer.handle(Tick(), 3.0))
    peer.handle(greets(3, OURS), 3.0)
    assert peer.stage == "greeting"  # which was of another run, though with the same settings
    assert peer.refused == {"settings": 1, "run": 1}


def test_a_greeting_with_other_settings_ends_no_run_that_has_begun() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(greets(1, OTHER), 1.0)
    assert peer.refused == {"settings": 1}
    assert peer.stage == "working"
    assert not any(isinstance(action, Fail) for action in peer.handle(Tick(), 9.0))


def test_a_stranger_with_other_settings_is_named_and_ends_nothing() -> None:
    peer = started()
    assert news(peer.handle(greets(2, OTHER), 1.0)) == [
        f"refused a message: settings: {LINE.replace('one', 'two')}, from 2"
    ]
    assert not any(isinstance(action, Fail) for action in peer.handle(Tick(), 9.0))


def test_a_greeting_without_settings_is_none() -> None:
    peer = started()
    peer.handle(hello(1, 1, epoch=1), 1.0)
    assert peer.refused == {"greeting": 1}
    assert peer.stage == "greeting"


def test_a_client_ends_where_its_coordinator_has_other_settings() -> None:
    client = Client(replace(CLIENT, greeting=OURS), torch.zeros(SIZE), "fp32")
    client.handle(Started(), 0.0)
    ended = client.handle(greets(6, OTHER), 1.0)
    assert ended[-1] == Fail(LINE.replace("one", "coordinator"), resumable=False, usage=True)


def test_a_coordinator_begins_without_a_client_that_has_other_settings() -> None:
    context = replace(CLIENT, me=6, links=frozenset(range(6)), greeting=OURS)
    server = ServerAverage(torch.zeros(SIZE), torch.zeros(SIZE))
    coordinator = Coordinator(context, Federation(weights=[1.0] * 6, selected=6, seed=0, min_updates=3), server)
    coordinator.handle(Started(), 0.0)
    for client in (0, 2, 3, 4, 5):
        coordinator.handle(greets(client, OURS, run="run"), 1.0)
    assert coordinator.stage == "greeting"
    told = coordinator.handle(greets(1, OTHER), 1.0)
    assert news(told) == [f"refused a message: settings: {LINE}"]
    assert coordinator.stage == "working"


@pytest.mark.parametrize("options", [{"validation": 0.2}, {"validation": 0.1, "test": False}, {}])
def test_peers_that_hold_back_other_samples_refuse_each_other(options: dict[str, object]) -> None:
    problem = difference(said(validation=0.1), said(**options))
    assert problem is not None
    assert ("--test" if "test" in options else "--validation") in problem
