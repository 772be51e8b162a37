"""Record of the data set in a run directory, and its comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl import data
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.preflight.estimate import data_record
from p2pfl.run.data_record import DataRecord, keep_data_record, read_data_record
from p2pfl.run.directory import create_run_dir, open_run_dir, update_dataset
from p2pfl.run.paths import DATA_FILE
from p2pfl.run.settings import resolve
from p2pfl.topology import make_topology

RECORD = DataRecord("imagefolder:/a", "0123456789abcdef", True)


def test_content_is_held_against_what_is_recorded_and_the_place_is_not(tmp_path: Path) -> None:
    assert read_data_record(tmp_path) is None
    keep_data_record(tmp_path, RECORD)
    keep_data_record(tmp_path, DataRecord("imagefolder:/b", RECORD.content, True))
    assert read_data_record(tmp_path) == DataRecord("imagefolder:/b", RECORD.content, True)
    with pytest.raises(
        ConfigError, match=r"^--dataset digits: \S+ was trained on other data \(content 0123.*, now f\)"
    ):
        keep_data_record(tmp_path, DataRecord("digits", "f", True))
    assert [path.name for path in tmp_path.iterdir()] == [DATA_FILE]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"dataset": 1}'])
def test_a_damaged_record_is_written_again(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / DATA_FILE).write_bytes(damage)
    assert read_data_record(tmp_path) is None
    keep_data_record(tmp_path, RECORD)
    assert read_data_record(tmp_path) == RECORD


def test_it_says_whether_images_were_augmented_in_the_end(tmp_path: Path) -> None:
    path = data.prepare("digits", tmp_path, lambda *_: None)
    found = {
        choice: data_record(RunConfig.of(dataset="digits", augment=choice), path) for choice in ("auto", "on", "off")
    }
    assert {choice: record.augment for choice, record in found.items()} == {"auto": False, "on": True, "off": False}
    assert {record.content for record in found.values()} == {data.load(path).content[:16]}


def test_settings_say_where_data_are_from_anywhere_and_follow_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    topology = make_topology("ring", 3)
    config = resolve(RunConfig.of(dataset="imagefolder:pics", data_dir="~/c", run_dir="run"), topology, 1)
    assert config.data.dataset == f"imagefolder:{tmp_path}/pics"
    assert config.data.data_dir == str(Path.home() / "c")
    assert resolve(RunConfig.of(dataset="mod:function"), topology, 1).data.dataset == "mod:function"
    run_dir = create_run_dir(topology, config)
    moved = RunConfig.of(dataset="imagefolder:/b")
    update_dataset(run_dir, moved)  # nobody has looked at its content yet
    assert open_run_dir(run_dir)[1].data.dataset == config.data.dataset
    keep_data_record(run_dir, DataRecord("imagefolder:/b", "0", True))
    update_dataset(run_dir, moved)
    assert open_run_dir(run_dir)[1].data.dataset == "imagefolder:/b"
