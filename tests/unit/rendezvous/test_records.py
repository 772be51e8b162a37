"""Records that go to the directory service, and from there to a collector."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from tests.support.entries import RUN, entry
from tests.support.pieces import make_pieces
from tests.support.rendezvous_service import ServiceThread

from p2pfl import make_topology
from p2pfl.cli import main
from p2pfl.errors import ConfigError, P2PFLError
from p2pfl.rendezvous import archive as archive_module
from p2pfl.rendezvous.archive import FILE_BYTES, Archive, ArchiveError, folder_of
from p2pfl.rendezvous.client import ServiceClient
from p2pfl.rendezvous.directory import DirectoryError
from p2pfl.rendezvous.download import download
from p2pfl.rendezvous.entry import Identity, topology_digest
from p2pfl.rendezvous.service import Service
from p2pfl.rendezvous.token_keys import as_hex
from p2pfl.rendezvous.upload import Upload, UploadRefusedError
from p2pfl.rendezvous.wire import (
    FILES_BYTES,
    REQUEST_BYTES,
    Answer,
    Browse,
    Fetch,
    Listing,
    Part,
    Refused,
    Request,
    Store,
    Stored,
    encode,
)
from p2pfl.report import summarize
from p2pfl.run.identity import read_run_id, write_run_id
from p2pfl.run.mirror import PIECE_BYTES

TOKEN = "0123456789abcdef" * 2
RING = make_topology("ring", 3)
PAIR = tuple(part.decode() for part in zmq.curve_keypair())
PEERS = range(3)


class Running(ServiceThread):
    """A service that keeps records, in a thread."""

    def __init__(self, folder: Path, bind: str = "tcp://127.0.0.1:*") -> None:
        super().__init__(Service(RING, bind, PAIR, TOKEN, lambda _: None, Archive(folder, RING)))  # type: ignore[arg-type]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    service = Running(tmp_path / "kept")
    yield service
    service.end()


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return str(path)


def patient() -> bool:
    return False


def own(piece: Path, peer: int) -> Path:
    return piece / "peers" / str(peer)


def announced(client: ServiceClient, peer: int, start: str = "", process: str = "") -> None:
    identity = Identity(topology_digest(RING), RUN.settings, start)
    client.exchange(entry(peer, identity=identity, process=process or f"process-{peer}"), [], patient)


def send(client: ServiceClient, upload: Upload) -> int:
    count = 0
    while client.record(upload, patient):
        count += 1
    return count


def upload_all(running: Running, pieces: list[Path], start: str = "") -> None:
    for peer, piece in enumerate(pieces):
        with contextlib.closing(ServiceClient(running.where, as_hex(PAIR[0]), TOKEN, peer, 2)) as client:
            announced(client, peer, start)
            send(client, Upload(piece, own(piece, peer), f"process-{peer}"))


def collect(running: Running, token: str, target: Path, *words: str) -> int:
    how = ["--rendezvous-key", as_hex(PAIR[0]), "--token-file", token, "--run-dir", str(target)]
    return main(["collect", running.where, *words, *how])


def test_all_but_weights_comes_through_the_service_and_again_what_is_new(
    running: Running, tmp_path: Path, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, pieces = make_pieces(tmp_path / "made", RING)
    (pieces[0] / "consensus.safetensors").write_bytes(b"weights")
    (own(pieces[0], 0) / "checkpoint").mkdir()
    (own(pieces[0], 0) / "checkpoint" / "round-000001.safetensors").write_bytes(b"weights")
    rounds = own(pieces[2], 2) / "rounds.jsonl"
    complete = rounds.read_bytes()
    rounds.write_bytes(complete[: complete.index(b"\n") + 1])
    upload_all(running, pieces)
    assert not list((tmp_path / "kept").rglob("*.safetensors"))
    target = tmp_path / "all"
    assert collect(running, token, target) == 0
    assert capsys.readouterr().out == f"{target}: peers: 3 copied; report with: p2pfl report {target}\n"
    rounds.write_bytes(complete)
    upload_all(running, pieces)
    assert collect(running, token, target) == 0
    assert capsys.readouterr().out.startswith(f"{target}: peers: 1 copied, 2 up to date;")
    expected = {name: value for name, value in summarize(whole).items() if name != "versions"}
    assert {name: value for name, value in summarize(target).items() if name != "versions"} == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "kept", "made", "token"], "nothing is left"
    assert not list((tmp_path / "kept").rglob(".*"))


def test_what_one_peer_could_not_send_comes_from_its_folder(running: Running, tmp_path: Path, token: str) -> None:
    _, pieces = make_pieces(tmp_path / "made", RING)
    upload_all(running, pieces[:2])
    assert collect(running, token, tmp_path / "all", str(pieces[2])) == 0
    assert summarize(tmp_path / "all")["uncollected_peers"] == []


def test_starts_of_a_run_are_kept_apart_and_runs_are_never_mixed(
    running: Running, tmp_path: Path, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, first = make_pieces(tmp_path / "first", RING)
    _, second = make_pieces(tmp_path / "second", RING)
    upload_all(running, first, "job 1")
    with pytest.raises(UploadRefusedError, match="of another run of this peer; give each start another --rendezvous-r"):
        upload_all(running, second, "job 1")
    upload_all(running, second, "job/../2")
    assert collect(running, token, tmp_path / "all") == 2
    assert "of several starts: job 1, job/../2; name one (--rendezvous-run)" in capsys.readouterr().err
    for start, pieces in (("job 1", first), ("job/../2", second)):
        assert collect(running, token, tmp_path / f"of-{start[-1]}", "--rendezvous-run", start) == 0
        for peer in PEERS:
            there = own(tmp_path / f"of-{start[-1]}", peer)
            assert read_run_id(there) == read_run_id(own(pieces[peer], peer))
    assert collect(running, token, tmp_path / "none", "--rendezvous-run", "job 3") == 2
    assert "it has no records of --rendezvous-run job 3, only of: job 1" in capsys.readouterr().err


def test_a_service_that_was_started_again_gets_all_again(running: Running, tmp_path: Path, token: str) -> None:
    _, pieces = make_pieces(tmp_path / "made", RING)
    upload = Upload(pieces[0], own(pieces[0], 0), "process-0")
    with contextlib.closing(ServiceClient(running.where, as_hex(PAIR[0]), TOKEN, 0, 2)) as client:
        announced(client, 0)
        send(client, upload)
        running.end()
        shutil.rmtree(tmp_path / "kept")
        with open(own(pieces[0], 0) / "log.txt", "a") as log:
            log.write("more\n")
        with pytest.raises(DirectoryError):
            client.record(upload, patient)
        again = Running(tmp_path / "kept", running.where)
        try:
            announced(client, 0)
            send(client, upload)
        finally:
            again.end()
    kept = tmp_path / "kept" / "run" / "0"
    sent = {path.relative_to(kept).as_posix(): path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert sent == {name: (pieces[0] / name).read_bytes() for name in sent}
    assert {"config.toml", "topology.graphml", "peers/0/rounds.jsonl", "peers/0/sketches.f32"} <= sent.keys()


def test_a_lost_answer_makes_no_gap(tmp_path: Path) -> None:
    _, pieces = make_pieces(tmp_path / "made", RING)
    large = os.urandom(3 * PIECE_BYTES)
    (own(pieces[1], 1) / "log.txt").write_bytes(large)
    archive, fails = Archive(tmp_path / "kept", RING), iter([False, False, True] * 2)

    def ask(request: Request, _seconds: float, _stopped: Callable[[], bool]) -> Answer:
        assert isinstance(request, Store)
        archive.store(1, "", request)
        if next(fails, False):
            raise DirectoryError("no answer")
        return Stored(request.number, "service")

    upload, more, number = Upload(pieces[1], own(pieces[1], 1), "process-1"), True, 0
    while more:
        number += 1
        try:
            more = upload.step(ask, number, 1.0, patient)
        except DirectoryError:
            continue
    assert (tmp_path / "kept" / "run" / "1" / "peers" / "1" / "log.txt").read_bytes() == large


def request(path: str = "config.toml", **changed: object) -> Store:
    fields = {"number": 1, "process": "process-1", "run": RUN_ID, "path": path, "size": 1, "offset": 0, "content": b"x"}
    return Store(**{**fields, **changed})  # type: ignore[arg-type]


RUN_ID = ""


@pytest.fixture(autouse=True)
def _run_id(tmp_path_factory: pytest.TempPathFactory) -> None:
    global RUN_ID
    RUN_ID = write_run_id(tmp_path_factory.mktemp("id"))


@pytest.mark.parametrize(
    "bad",
    [
        {"path": "../config.toml"},
        {"path": "/etc/passwd"},
        {"path": "peers/0/rounds.jsonl"},
        {"path": "peers/1/run.id"},
        {"path": "consensus.safetensors"},
        {"path": "peers/1/checkpoint/round-000001.safetensors"},
        {"size": FILE_BYTES + 1},
        {"content": b"xx"},
        {"offset": 7, "size": 8},
        {"offset": 7, "size": 8, "grows": True, "path": "peers/1/rounds.jsonl"},
        {"run": "../.."},
    ],
)
def test_a_peer_can_write_nothing_but_its_own_records(tmp_path: Path, bad: dict[str, object]) -> None:
    archive = Archive(tmp_path / "kept", RING)
    with pytest.raises(ArchiveError):
        archive.store(1, "", request(**bad))  # type: ignore[arg-type]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.id"]


def test_a_bounded_number_of_starts_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MOST_STARTS", 2)
    archive = Archive(tmp_path / "kept", RING)
    for start in ("a", "b", "a"):
        archive.store(1, start, request())
    with pytest.raises(ArchiveError, match="it has 2 starts already; remove some there"):
        archive.store(1, "c", request())


def test_a_damaged_id_of_a_run_is_made_again_and_one_that_cannot_be_read_ends_no_service(
    running: Running, tmp_path: Path
) -> None:
    with contextlib.closing(ServiceClient(running.where, as_hex(PAIR[0]), TOKEN, 1, 2)) as one:
        announced(one, 1)
        (tmp_path / "kept" / "run" / "1" / "peers" / "1" / "run.id").mkdir(parents=True)
        found = one.ask(request(), 3.0, patient)
        assert isinstance(found, Refused)
        assert "run.id" in found.reason
        announced(one, 1)


@pytest.mark.parametrize("start", ["", "..", ".", "a/b", "x" * 200, "é" * 200, "\0", "run"])
def test_each_start_has_a_folder_of_a_plain_name(tmp_path: Path, start: str) -> None:
    name = folder_of(start)
    assert name.startswith("run")
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("folder", "path"), [("run", "1/../0/config.toml"), ("..", "1/config.toml"), ("run", "secret"), (".", "x")]
)
def test_a_collector_gets_nothing_but_records(tmp_path: Path, folder: str, path: str) -> None:
    archive = Archive(tmp_path / "kept", RING)
    archive.store(1, "", request())
    (tmp_path / "kept" / "run" / "secret").write_text("secret")
    with pytest.raises(ArchiveError, match="no such file"):
        archive.part(Fetch(1, folder, path, 0))


def test_peers_do_not_collect_collectors_do_not_announce_and_old_processes_do_not_write(running: Running) -> None:
    def answer(client: ServiceClient, asked: Request) -> str:
        found = client.ask(asked, 3.0, patient)
        assert isinstance(found, Refused)
        return found.reason

    with contextlib.ExitStack() as held:
        one, collector = (
            held.enter_context(contextlib.closing(ServiceClient(running.where, as_hex(PAIR[0]), TOKEN, peer, 2)))
            for peer in (1, None)
        )
        announced(one, 1)
        assert answer(one, Fetch(1, "run", "1/config.toml", 0)) == "a peer does not collect"
        assert answer(one, request(process="process-old")) == "another process is announced as this peer"
        assert answer(collector, request()) == "another process is announced as this peer"
        with pytest.raises(ConfigError, match="a collector is no peer"):
            announced(collector, 1)


def test_who_has_not_the_token_collects_nothing(
    running: Running, tmp_path: Path, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(token).write_text(TOKEN[::-1])
    assert collect(running, token, tmp_path / "all") == 1
    assert "it refuses this peer: another token" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_messages_about_records_are_bounded() -> None:
    longest = request(path="x" * 1000, content=b"x" * PIECE_BYTES, size=2**53 - 1, offset=2**53 - 1, run="r" * 64)
    assert len(encode(longest)) <= REQUEST_BYTES
    listed = msgspec.msgpack.encode([("é" * 1000, 2**53 - 1)] * 64)
    assert len(listed) + PIECE_BYTES <= FILES_BYTES + 4096


class Changing:
    """A service whose only file is replaced after its first part, so often."""

    where = "tcp://10.0.0.1:7300"

    def __init__(self, changes: int) -> None:
        self.changes = changes

    def ask(self, request: Request, _seconds: float, _stopped: Callable[[], bool]) -> Answer:
        if isinstance(request, Browse):
            return Listing(request.number, "run", (("1/peers/1/log.txt", 4),))
        assert isinstance(request, Fetch)
        if request.offset and self.changes:
            self.changes -= 1
            return Part(request.number, f"file {self.changes}", 4, b"xx")
        return Part(request.number, f"file {self.changes}", 6, b"abcdef"[request.offset : request.offset + 2])


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    download(Changing(2), None, tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "1" / "peers" / "1" / "log.txt").read_bytes() == b"abcdef"
    with pytest.raises(P2PFLError, match=r"1/peers/1/log.txt changes all the time; repeat the command"):
        download(Changing(99), None, tmp_path)  # type: ignore[arg-type]
