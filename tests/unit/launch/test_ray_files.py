"""Files of workers on nodes that do not share the launcher's run directory."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.helpers import small_config
from tests.support.ray_files import filled, launched, worker

from p2pfl.errors import ConfigError, P2PFLError
from p2pfl.launch.ray_files import PrivateFolder, Supply
from p2pfl.run.identity import read_run_id
from p2pfl.run.mirror import PIECE_BYTES, Incoming, Piece
from p2pfl.run.paths import LOG_FILE, MODEL_FILE, ROUNDS_FILE, SUMMARY_FILE


@pytest.fixture
def folder() -> Iterator[PrivateFolder]:
    made = PrivateFolder()
    yield made
    made.close()


def test_a_worker_gets_what_it_reads_and_nothing_of_others(tmp_path: Path, folder: PrivateFolder) -> None:
    spec = launched(tmp_path)
    (spec.peer_dir(1) / ROUNDS_FILE).write_text("of itself\n")
    (spec.peer_dir(2) / ROUNDS_FILE).write_text("of another\n")
    (spec.run_dir / SUMMARY_FILE).write_text("{}")
    there = filled(folder, spec).run_dir
    assert there != spec.run_dir
    assert read_run_id(there) == read_run_id(spec.run_dir) is not None
    found = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert found == {"config.toml", "run.id", "topology.graphml", f"peers/1/{ROUNDS_FILE}"}


def test_what_a_worker_writes_is_collected_while_it_writes(tmp_path: Path, folder: PrivateFolder) -> None:
    spec = launched(tmp_path)
    (spec.peer_dir(1) / ROUNDS_FILE).write_text("1\n")
    there, launcher = filled(folder, spec).run_dir, Incoming(spec.run_dir)
    assert folder.changes() == []
    own = there / "peers" / "1"
    with open(own / ROUNDS_FILE, "a") as file:
        file.write("2\n")
    (own / LOG_FILE).write_text("ready\n")
    (there / MODEL_FILE).write_bytes(b"model")
    while pieces := folder.changes():
        for piece in pieces:
            launcher.put(piece)
    assert (spec.peer_dir(1) / ROUNDS_FILE).read_text() == "1\n2\n"
    assert (spec.peer_dir(1) / LOG_FILE).read_text() == "ready\n"
    assert (spec.run_dir / MODEL_FILE).read_bytes() == b"model"


def test_files_that_do_not_come_are_an_error(tmp_path: Path, folder: PrivateFolder) -> None:
    spec = launched(tmp_path, start_timeout=0.01)
    with pytest.raises(P2PFLError, match="--start-timeout"):
        folder.wait(worker(spec.config, spec.run_dir))


def test_a_worker_waits_for_its_files(tmp_path: Path, folder: PrivateFolder) -> None:
    spec, found = launched(tmp_path), []
    waiting = threading.Thread(target=lambda: found.append(folder.wait(worker(spec.config, spec.run_dir))))
    waiting.start()
    filled(folder, spec)
    waiting.join(30)
    assert [one.index for one in found] == [1]


def test_a_fault_script_needs_a_shared_folder(tmp_path: Path, folder: PrivateFolder) -> None:
    script = tmp_path / "faults.toml"
    script.write_text('[[fault]]\nkind = "kill"\npeer = "1"\nround = 1\n')
    spec = launched(tmp_path, faults=str(script))
    with pytest.raises(ConfigError, match=r"needs a run directory that all nodes share"):
        folder.wait(worker(spec.config, spec.run_dir))


def test_batches_that_are_lost_or_come_twice_are_made_up_for(tmp_path: Path, folder: PrivateFolder) -> None:
    spec = launched(tmp_path)
    large = b"".join(b"%08d" % number for number in range(3 * PIECE_BYTES // 8))
    (spec.peer_dir(1) / "checkpoint").mkdir()
    (spec.peer_dir(1) / "checkpoint" / "round-000001.safetensors").write_bytes(large)
    files, known = Supply(spec, 1), -1
    while (number := folder.wanted(known, 0.0)) is not None:
        lost = files.batch(number)
        batch = files.batch(number)
        assert batch == lost, "asked for again, it is the same"
        folder.put(number, batch)
        folder.put(number, batch)
        known = number
    there = folder.wait(worker(spec.config, spec.run_dir)).run_dir
    assert (there / "peers" / "1" / "checkpoint" / "round-000001.safetensors").read_bytes() == large


def test_files_that_cannot_be_written_end_the_worker_with_their_folder_s_name(
    tmp_path: Path, folder: PrivateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Incoming, "put", full)
    folder.put(0, [Piece("config.toml", content=b"x", size=1)])
    with pytest.raises(P2PFLError, match=r"the launcher's files: .*No space left"):
        folder.wait(worker(small_config(), tmp_path))
