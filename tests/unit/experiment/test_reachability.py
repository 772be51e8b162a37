"""Check of reachability on real sockets: `p2pfl peer --check`, one thread a peer."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest
from tests.support.helpers import free_ports, small_config, token_file

from p2pfl import make_topology
from p2pfl.config import RunConfig
from p2pfl.errors import P2PFLError
from p2pfl.experiment.reachability import check_reachability
from p2pfl.rendezvous.entry import Entry, Identity, process_name
from p2pfl.rendezvous.folder import Folder
from p2pfl.topology import Topology


def path_of(peers: int, ports: list[int]) -> Topology:
    topology = make_topology("path", peers)
    for peer, port in enumerate(ports):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=port)
    return topology


def checked(topology: Topology, configs: dict[int, RunConfig]) -> dict[int, list[str]]:
    """Lines of the peers that check, each in a thread; the error's line is the last."""
    said: dict[int, list[str]] = {peer: [] for peer in configs}

    def check(peer: int) -> None:
        announce = "127.0.0.1" if configs[peer].exchange.rendezvous else None
        try:
            check_reachability(topology, peer, configs[peer], announce=announce, say=said[peer].append)
        except P2PFLError as error:
            said[peer].append(str(error))

    with contextlib.ExitStack() as held:
        for peer in configs:
            thread = threading.Thread(target=check, args=(peer,))
            thread.start()
            held.callback(thread.join)
    return said


def settings(folder: Path, seconds: float, **options: object) -> RunConfig:
    return small_config(dataset="digits", token_file=token_file(folder), start_timeout=seconds, **options)


def test_neighbors_by_file_reach_each_other(tmp_path: Path) -> None:
    ports = free_ports(3)
    config = settings(tmp_path, 30.0)
    said = checked(path_of(3, ports), dict.fromkeys(range(3), config))
    assert said[0] == [
        f"peer 0: listens at tcp://127.0.0.1:{ports[0]}",
        f"peer 1 at tcp://127.0.0.1:{ports[1]}: reachable both ways",
        "peer 0: every neighbor is reachable both ways",
    ]
    assert sorted(said[1][1:3]) == [f"peer {n} at tcp://127.0.0.1:{ports[n]}: reachable both ways" for n in (0, 2)]


def test_neighbors_by_rendezvous_reach_each_other(tmp_path: Path) -> None:
    config = settings(tmp_path, 30.0, rendezvous=str(tmp_path / "meet"))
    said = checked(make_topology("path", 2), {0: config, 1: config})
    assert said[0][-1] == "peer 0: every neighbor is reachable both ways"
    assert said[0][0].startswith("peer 0: announces tcp://127.0.0.1:")
    assert said[0][-2].startswith("peer 1 at tcp://127.0.0.1:")
    assert list((tmp_path / "meet").iterdir()) == []


@pytest.mark.parametrize("rendezvous", [False, True], ids=["file", "folder"])
def test_who_is_missing_is_named_with_what_was_tried(tmp_path: Path, rendezvous: bool) -> None:
    config = settings(tmp_path, 0.5, **({"rendezvous": str(tmp_path / "meet")} if rendezvous else {}))
    ports = free_ports(2)
    said = checked(make_topology("path", 2) if rendezvous else path_of(2, ports), {0: config})[0]
    tried = "peer 1 (no address announced)" if rendezvous else f"peer 1 at tcp://127.0.0.1:{ports[1]}"
    no_connection = "not reached (no connection: nothing listens there, or a firewall is in between)"
    reason = "not looked for" if rendezvous else no_connection
    assert said[-2:] == [
        f"{tried}: {reason}, and has not reached this peer",
        "peer 0: 1 of 1 neighbors not reachable both ways within 0.5 s (--start-timeout): 1; all have to be started "
        "with --check at the same time",
    ]


def test_a_check_does_not_take_the_place_of_a_process_at_work(tmp_path: Path) -> None:
    """Its neighbors in the run would be drawn to it, and the run would end."""
    config = settings(tmp_path, 30.0, rendezvous=str(tmp_path / "meet"))
    pair = make_topology("path", 2)
    said: list[str] = []
    first = threading.Thread(target=lambda: said.extend(checked(pair, {0: config})[0]))
    first.start()
    try:
        entry = tmp_path / "meet" / "0.json"
        deadline = time.monotonic() + 30
        while not entry.exists():
            assert time.monotonic() < deadline
        announced = entry.read_bytes()
        second = checked(pair, {0: config})[0]
        assert second[-1].startswith("another process is this peer, and listens at tcp://127.0.0.1:")
        assert second[-1].endswith("a check would take its place in the run; stop that process first")
        assert entry.read_bytes() == announced
    finally:
        assert checked(pair, {1: config})[1][-1] == "peer 1: every neighbor is reachable both ways"
        first.join()
    assert said[-1] == "peer 0: every neighbor is reachable both ways"


def test_a_check_replaces_what_a_killed_process_has_left(tmp_path: Path) -> None:
    config = settings(tmp_path, 30.0, rendezvous=str(tmp_path / "meet"))
    pair = make_topology("path", 2)
    [port] = free_ports(1)
    stale = Entry(0, f"tcp://127.0.0.1:{port}", Identity("of", "another"), process_name())
    Folder(tmp_path / "meet", pair).exchange(stale, ())
    said = checked(pair, {0: config, 1: config})
    assert [lines[-1] for lines in said.values()] == [
        f"peer {n}: every neighbor is reachable both ways" for n in (0, 1)
    ]


def test_another_token_is_told_from_an_empty_port(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ports = free_ports(2)
    expected = [
        f"peer {other} at tcp://127.0.0.1:{ports[other]}: not reached (it does not admit this peer: other keys or "
        "token, or another program), and has not reached this peer"
        for other in (1, 0)
    ]
    found: list[str] = []
    for seconds in (2.0, 30.0):  # on a busy machine one may be done before the other listens
        configs = {0: settings(tmp_path, seconds), 1: settings(tmp_path / "other", seconds)}
        said = checked(path_of(2, ports), configs)
        found = [said[peer][-2] for peer in (0, 1)]
        if found == expected:
            break
    assert found == expected
