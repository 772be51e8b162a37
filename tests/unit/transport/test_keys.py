"""Keys: made, checked, and used by whole swarms of real processes."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest
import torch
import zmq
from tests.support import commands
from tests.support.helpers import free_ports
from tests.support.swarms import LIVELY, memory_swarm, saved_vectors

from p2pfl import RunConfig, make_topology, run_swarm
from p2pfl.cli import main
from p2pfl.errors import ConfigError, Refusal
from p2pfl.node.messages import WorkerSpec
from p2pfl.node.worker import zeromq_maker
from p2pfl.protocol.events import Refused
from p2pfl.topology import Topology, load_topology, save_topology
from p2pfl.transport import Keys, keyring

pytestmark = pytest.mark.usefixtures("blank_plots")

# The command


def keyed_ring(folder: Path, name: str = "ring.graphml") -> tuple[Topology, Path]:
    save_topology(make_topology("ring", 3), folder / name)
    assert main(["keys", str(folder / name), "-o", str(folder / "secret")]) == 0
    return load_topology(folder / name), folder / "secret"


@pytest.mark.parametrize("name", ["ring.graphml", "ring.gml", "ring.gexf", "ring.json"])
def test_keys_are_made_for_every_peer_and_nobody_else_can_read_them(tmp_path: Path, name: str) -> None:
    before = os.umask(0)
    try:
        topology, folder = keyed_ring(tmp_path, name)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    public = keyring.public_keys(topology)
    assert sorted(public) == [0, 1, 2]
    for peer in range(3):
        path = folder / f"{peer}.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        secret = path.read_text().strip()
        assert zmq.curve_public(secret.encode()).decode() == public[peer]
        assert secret not in (tmp_path / name).read_text()
    keyring.check_keys(topology, str(folder), False, range(3))


def test_everything_else_in_the_file_stays(tmp_path: Path) -> None:
    graph = nx.DiGraph(name="mine")
    graph.add_node("a", host="127.0.0.1", port=4001, color="red")
    graph.add_node("b/c", host="127.0.0.1", port=4002, device="cpu")
    graph.add_edge("a", "b/c", weight=0.5, length=3)
    graph.add_edge("b/c", "a", weight=0.5)
    nx.write_graphml(graph, tmp_path / "mine.graphml")
    assert main(["keys", str(tmp_path / "mine.graphml"), "-o", str(tmp_path / "secret")]) == 0
    after = nx.read_graphml(tmp_path / "mine.graphml")
    for _, data in after.nodes(data=True):
        assert len(data.pop("public_key")) == 40
    assert dict(after.nodes(data=True)) == dict(graph.nodes(data=True))
    assert list(after.edges(data=True)) == list(graph.edges(data=True))
    assert {path.name for path in (tmp_path / "secret").iterdir()} == {"a.key", "b%2Fc.key"}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology, folder = keyed_ring(tmp_path)
    files = {path: path.read_bytes() for path in [*folder.iterdir(), tmp_path / "ring.graphml"]}
    again = ["keys", str(tmp_path / "ring.graphml"), "-o", str(tmp_path / "others")]
    assert "has public keys already" in refused(again, capsys)
    assert not (tmp_path / "others").exists()
    save_topology(make_topology("ring", 3), tmp_path / "new.graphml")
    plain = (tmp_path / "new.graphml").read_bytes()
    (folder / "0.key").unlink()
    del files[folder / "0.key"]
    assert "1.key: exists already" in refused(["keys", str(tmp_path / "new.graphml"), "-o", str(folder)], capsys)
    assert {path: path.read_bytes() for path in files} == files
    assert not (folder / "0.key").exists(), "all or nothing"
    assert (tmp_path / "new.graphml").read_bytes() == plain
    assert topology.n == 3


def test_formats_without_attributes_are_refused_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_topology(make_topology("ring", 3), tmp_path / "ring.edgelist")
    error = refused(["keys", str(tmp_path / "ring.edgelist"), "-o", str(tmp_path / "secret")], capsys)
    assert "holds no public keys" in error
    assert ".graphml" in error
    assert not (tmp_path / "secret").exists()


def test_a_folder_that_others_can_look_into_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_topology(make_topology("ring", 3), tmp_path / "ring.graphml")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o750)
    (tmp_path / "file").touch()
    words = ["keys", str(tmp_path / "ring.graphml"), "-o"]
    assert "others can enter it (mode 0750); chmod 700" in refused([*words, str(tmp_path / "open")], capsys)
    assert "is a file; choose a folder" in refused([*words, str(tmp_path / "file")], capsys)
    assert list((tmp_path / "open").iterdir()) == []
    assert keyring.public_keys(load_topology(tmp_path / "ring.graphml")) == {}
    (tmp_path / "open").chmod(0o700)
    assert main([*words, str(tmp_path / "open")]) == 0


def test_a_full_disk_leaves_no_key_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_topology(make_topology("ring", 3), tmp_path / "ring.graphml")
    plain = (tmp_path / "ring.graphml").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keyring, "publish", full)
    words = ["keys", str(tmp_path / "ring.graphml"), "-o", str(tmp_path / "secret")]
    assert "No space left on device" in refused(words, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["ring.graphml"]
    assert (tmp_path / "ring.graphml").read_bytes() == plain


@pytest.mark.parametrize("published", [False, True])
def test_ctrl_c_leaves_both_halves_of_the_keys_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    save_topology(make_topology("ring", 3), tmp_path / "ring.graphml")
    publish = keyring.publish

    def interrupted(path: Path, public: dict[str, str]) -> None:
        if published:
            publish(path, public)
        raise KeyboardInterrupt

    monkeypatch.setattr(keyring, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        keyring.make_keys(tmp_path / "ring.graphml", tmp_path / "secret")
    assert (tmp_path / "secret").exists() == published
    if published:
        keyring.check_keys(load_topology(tmp_path / "ring.graphml"), str(tmp_path / "secret"), False, range(3))


def test_a_link_to_a_topology_file_stays_a_link(tmp_path: Path) -> None:
    save_topology(make_topology("ring", 3), tmp_path / "real.graphml")
    (tmp_path / "link.graphml").symlink_to("real.graphml")
    assert main(["keys", str(tmp_path / "link.graphml"), "-o", str(tmp_path / "secret")]) == 0
    assert (tmp_path / "link.graphml").is_symlink()
    assert len(keyring.public_keys(load_topology(tmp_path / "real.graphml"))) == 3


def test_only_neighbors_are_on_a_peers_list(tmp_path: Path) -> None:
    save_topology(make_topology("path", 3), tmp_path / "path.graphml")
    keyring.make_keys(tmp_path / "path.graphml", tmp_path / "secret")
    topology = load_topology(tmp_path / "path.graphml")
    public = keyring.public_keys(topology)
    assert keyring.neighbors_keys(topology, 0) == {1: public[1]}
    assert keyring.neighbors_keys(topology, 1) == {0: public[0], 2: public[2]}
    config = RunConfig.of(keys=str(tmp_path / "secret"))
    spec = WorkerSpec(config, tmp_path, tmp_path, index=0, run="", settings="", bind="tcp://127.0.0.1:*")
    transport = zeromq_maker(spec, topology)(spec.bind)
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    try:
        stranger.setsockopt(zmq.CURVE_PUBLICKEY, public[2].encode())
        stranger.setsockopt(zmq.CURVE_SECRETKEY, keyring.own_secret(topology, str(tmp_path / "secret"), 2).encode())
        stranger.setsockopt(zmq.CURVE_SERVERKEY, public[0].encode())
        stranger.connect(transport.endpoint)
        events: list[object] = []
        deadline = time.monotonic() + 30
        while not events:
            assert time.monotonic() < deadline, "peer 2 is no neighbor of peer 0 and must be refused"
            events += transport.poll(0.1)
        assert set(events) == {Refused(Refusal.KEY, "no neighbor's")}  # one for each try: a late poll sees several
    finally:
        stranger.close(0)
        context.term()
        transport.close()


def without(topology: Topology, peer: int) -> Topology:
    graph = topology.graph.copy()
    del graph.nodes[peer]["public_key"]
    return replace(topology, graph=graph)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


BAD = {
    "missing": (lambda folder: (folder / "1.key").unlink(), "1.key: cannot be read"),
    "readable": (lambda folder: (folder / "1.key").chmod(0o640), "others can read it (mode 0640); chmod 600"),
    "a pipe": (lambda folder: pipe(folder / "1.key"), "1.key: is not a file"),
    "no key": (lambda folder: (folder / "1.key").write_text("x" * 39), "1.key: not a secret key"),
    "too large": (lambda folder: (folder / "1.key").write_text("#" * 40), "1.key: not a secret key"),
    "not text": (lambda folder: (folder / "1.key").write_bytes(b"\xff" * 40), "1.key: not a secret key"),
    "of another": (
        lambda folder: (folder / "1.key").write_bytes((folder / "2.key").read_bytes()),
        "does not belong to the public_key of node '1'",
    ),
}


def test_renewed_keys_replace_the_old_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = keyed_ring(tmp_path)
    graph, others = str(tmp_path / "ring.graphml"), tmp_path / "others"
    assert main(["keys", graph, "-o", str(others), "--renew"]) == 0
    capsys.readouterr()
    words = ["gossip", graph, "--dataset", "digits", "--dry-run", "--keys"]
    assert "does not belong to the public_key" in refused([*words, str(folder)], capsys)
    assert main([*words, str(others)]) == 0


@pytest.mark.parametrize("name", BAD)
def test_keys_that_cannot_be_used_are_refused_before_anything_starts(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = keyed_ring(tmp_path)
    spoil, reason = BAD[name]
    spoil(folder)
    words = ["gossip", str(tmp_path / "ring.graphml"), "--keys", str(folder), "--dataset", "digits"]
    assert reason in refused([*words, "--run-dir", str(tmp_path / "run")], capsys)
    assert reason in refused([*words, "--dry-run"], capsys)
    assert not (tmp_path / "run").exists()


def test_public_and_secret_keys_are_asked_for_together(tmp_path: Path) -> None:
    topology, folder = keyed_ring(tmp_path)
    with pytest.raises(ConfigError, match=r"has public keys; say where the secret ones are \(--keys DIR\)"):
        keyring.check_keys(topology, None, False, range(3))
    keyring.check_keys(topology, None, True, range(3))
    with pytest.raises(ConfigError, match="node '2' has no public_key"):
        keyring.check_keys(without(topology, 2), str(folder), False, range(3))
    keyring.check_keys(make_topology("ring", 3), None, False, range(3))


def test_keys_mean_nothing_with_a_coordinator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--keys x: only a gossip run" in refused(["centralized", "--keys", "x", "--dataset", "digits"], capsys)


def test_a_secret_is_in_no_representation() -> None:
    assert "hidden" not in repr(Keys("public", "hidden", {1: "other"}))


# Swarms


def no_secret_in(run_dir: Path, folder: Path) -> None:
    secrets = [path.read_bytes().strip() for path in folder.iterdir()]
    for path in run_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


@pytest.mark.processes
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_swarm_with_keys_ends_with_the_same_bits(tmp_path: Path, transport: str) -> None:
    topology, folder = keyed_ring(tmp_path)
    options = {**LIVELY, "rounds": 2}
    plain = memory_swarm(topology, RunConfig.of(**options, run_dir=str(tmp_path / "memory")))
    config = RunConfig.of(**options, transport=transport, keys=str(folder), run_dir=str(tmp_path / "keyed"))
    result = run_swarm(topology, config)
    assert torch.equal(saved_vectors(result.run_dir, topology, 2), saved_vectors(plain, topology, 2))
    assert keyring.public_keys(load_topology(result.run_dir / "topology.graphml")) == keyring.public_keys(topology)
    no_secret_in(result.run_dir, folder)


@pytest.mark.processes
def test_peers_on_their_own_need_no_more_than_their_own_key(tmp_path: Path) -> None:
    topology = make_topology("ring", 3)
    for peer, port in enumerate(free_ports(3)):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=port)
    save_topology(topology, tmp_path / "ring.graphml")
    assert main(["keys", str(tmp_path / "ring.graphml"), "-o", str(tmp_path / "secret")]) == 0
    words = [str(tmp_path / "ring.graphml"), "--dataset", "digits", "--model", "user_models:linear", "--rounds", "3"]
    peers = []
    for node in "012":
        own = tmp_path / f"machine-{node}"
        own.mkdir()
        (tmp_path / "secret" / f"{node}.key").rename(own / f"{node}.key")
        where = ["--keys", str(own), "--run-dir", str(tmp_path / f"run-{node}"), "--node", node]
        peers.append(commands.start("peer", *words, *where))
    try:
        for process in peers:
            out, err = process.communicate(timeout=200)
            assert (process.returncode, err) == (0, ""), out
    finally:
        for process in peers:
            process.kill()
            process.wait()
