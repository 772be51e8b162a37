"""Partitions that the user gives: files, functions, and the peers' own data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2pfl.config import DataConfig, RunConfig, load_toml, to_toml
from p2pfl.data import Request, Split, describe, load, partition, pooled, prepare
from p2pfl.errors import ConfigError, DataError
from p2pfl.topology import make_topology

LABELS = np.arange(12) % 3


def split(spec: str, names: Iterable[str] = ("a", "b", "c"), **options: object) -> Split:
    return partition(Request(spec, LABELS, tuple(names), seed=5, classes=3, **options))  # type: ignore[arg-type]


def written(folder: Path, content: object, name: str = "split.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return f"file:{path}"


GIVEN = {"a": [3, 0], "b": [1], "c": [11, 2, 4]}
AS_CSV = "sample,peer\n3,a\n0,a\n1,b\n11, c\n2,c\n4,c\n"


@pytest.mark.parametrize(("content", "name"), [(GIVEN, "split.json"), (AS_CSV, "split.csv")])
def test_a_file_assigns_samples_and_says_what_is_unused(tmp_path: Path, content: object, name: str) -> None:
    spec = written(tmp_path, content, name)
    found = split(spec)
    assert [shard.tolist() for shard in found.shards] == [[0, 3], [1], [2, 4, 11]]
    assert found.notes == (f"--partition {spec}: 6 of 12 training samples are not used",)
    [everything] = pooled(Request(spec, LABELS, ("0",), 5, 3)).shards
    assert everything.tolist() == [0, 1, 2, 3, 4, 11]


def test_a_file_that_covers_all_has_no_note(tmp_path: Path) -> None:
    spec = written(tmp_path, {"a": list(range(6)), "b": list(range(6, 11)), "c": [11]})
    assert split(spec).notes == ()


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("{", "x.json", "not JSON"),
        ([1], "x.json", "must be an object of lists"),
        ({"a": 3}, "x.json", "must be an object of lists"),
        ({"a": [1.5]}, "x.json", "peer 'a': 1.5 is no number of a sample"),
        ({"a": [-1]}, "x.json", "peer 'a': -1 is no number of a sample"),
        ({"a": [True]}, "x.json", "peer 'a': True is no number of a sample"),
        ('{"a": [1], "a": [2]}', "x.json", "peer 'a' stands there twice"),
        ({**GIVEN, "d": [5]}, "x.json", "peer 'd' is not in the topology; it has a, b, c"),
        ({"a": [1], "b": []}, "x.json", "no sample for peer b, c"),
        ({**GIVEN, "b": [12]}, "x.json", "peer b: there is no sample 12; there are 12, counted from 0"),
        ({**GIVEN, "b": [3]}, "x.json", "sample 3 is given to a and to b"),
        ({**GIVEN, "b": [1, 1]}, "x.json", "peer b has sample 1 twice"),
        ("3,a\n", "x.csv", "line 1: must be the heading sample,peer"),
        ("sample,peer\n3,a\nb\n", "x.csv", "line 3: must be a sample's number and a peer's label"),
        ("sample,peer\n-3,a\n", "x.csv", "line 2: must be a sample's number"),
        ("sample,peer\n" + "9" * 30 + ",a\n", "x.csv", "line 2: must be a sample's number"),
        ("sample,peer\n" + "9" * 5000 + ",a\n", "x.csv", "line 2: must be a sample's number"),
        ("sample,peer\n3," + "a" * 200_000 + "\n", "x.csv", "line 2: "),
        (
            "sample;peer\n3;a\n",
            "x.csv",
            "line 1: must be the heading sample,peer, separated by a comma, not a semicolon",
        ),
        (" \n", "x.csv", "the file is empty; it must have the heading sample,peer and a row a sample"),
        ("", "x.json", "the file is empty; it must have an object of lists"),
        ("s\0a\0m\0", "x.csv", "null characters, as UTF-16 text has; save it as UTF-8"),
        ('{"a": [1,]}', "x.json", "line 1, column 10: not JSON ("),
        ("[" * 200_000, "x.json", "nested too deeply; must be an object of lists"),
        ('{"a": [' + "9" * 5000 + "]}", "x.json", "9…9"),
        ({"a": [list(range(100_000))]}, "x.json", "peer 'a': [0, 1, 2"),
        ({"a" * 100_000: [1.5]}, "x.json", "…"),
        ({**GIVEN, "d" * 100_000: [5]}, "x.json", "is not in the topology"),
        ("sample,peer\n3," + "d" * 100_000 + "\n", "x.csv", "is not in the topology"),
        ("", "x.txt", "name it .json or .csv"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, content: object, name: str, words: str
) -> None:
    spec = written(tmp_path, content, name)
    with pytest.raises(ConfigError) as caught:
        split(spec)
    assert str(caught.value).startswith(f"--partition {spec}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(spec) + 200
    assert "Error" not in str(caught.value), "in Python's words"


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_line_ends_of_any_system_are_read(tmp_path: Path, end: str) -> None:
    path = tmp_path / "split.csv"
    path.write_bytes(AS_CSV.replace("\n", end).encode())
    assert [shard.tolist() for shard in split(f"file:{path}").shards] == [[0, 3], [1], [2, 4, 11]]


def test_utf_16_is_refused_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_bytes(AS_CSV.encode("utf-16"))
    with pytest.raises(ConfigError, match="not UTF-8 text; save it as UTF-8"):
        split(f"file:{path}")


@pytest.mark.parametrize("name", ["json", "csv"])
def test_a_long_label_that_only_a_pool_reads_is_shortened(tmp_path: Path, name: str) -> None:
    label = "z" * 100_000
    spec = written(tmp_path, {label: [99]} if name == "json" else f"sample,peer\n99,{label}\n", f"x.{name}")
    with pytest.raises(ConfigError, match="there is no sample 99") as caught:
        pooled(Request(spec, LABELS, ("0",), 5, 3))
    assert len(str(caught.value)) < len(spec) + 200


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^--partition file:{tmp_path}/none.json: "):
        split(f"file:{tmp_path}/none.json")


def test_the_path_in_a_settings_file_begins_at_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(to_toml(RunConfig.of(partition="file:split.csv")))
    assert load_toml(tmp_path / "run.toml").data.partition_file == str(tmp_path / "split.csv")
    assert DataConfig(partition="iid").partition_file is None


# The user's function


def by_parity(labels: np.ndarray, peers: int, seed: int) -> list[list[int]]:
    assert seed == 5
    return [[row for row in range(len(labels)) if row % peers == peer] for peer in range(peers)]


def fails(labels: np.ndarray, peers: int, seed: int) -> list[list[int]]:
    raise ValueError("no such\nluck")


def exits(labels: np.ndarray, peers: int, seed: int) -> list[list[int]]:
    raise SystemExit(0)


def beyond_int64(labels: np.ndarray, peers: int, seed: int) -> list[np.ndarray]:
    return [np.array(shard, dtype=np.uint64) + np.uint64(2**63) for shard in by_parity(labels, peers, seed)]


def one_short(labels: np.ndarray, peers: int, seed: int) -> list[list[int]]:
    return by_parity(labels, peers, seed)[1:]


def incomplete(labels: np.ndarray, peers: int, seed: int) -> list[list[int]]:
    return [shard[1:] for shard in by_parity(labels, peers, seed)]


def overlapping(labels: np.ndarray, peers: int, seed: int) -> list[list[int]]:
    return [range(len(labels)) for _ in range(peers)]


def empty(labels: np.ndarray, peers: int, seed: int) -> list[list[int]]:
    return [[*range(len(labels))], *([] for _ in range(peers - 1))]


HERE = "tests.unit.data.test_given_partitions"


def test_a_function_deals_the_samples_out() -> None:
    assert [shard.tolist() for shard in split(f"{HERE}:by_parity").shards] == [
        [0, 3, 6, 9],
        [1, 4, 7, 10],
        [2, 5, 8, 11],
    ]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("fails", "the function raised ValueError: no such luck"),
        ("exits", "the function raised SystemExit: 0"),
        ("beyond_int64", "peer a: there is no sample 9223372036854775817; there are 12"),
        ("one_short", "returned 2 shards for 3 peers"),
        ("incomplete", "the shards must cover all 12 samples; sample 0 and 2 more are missing"),
        ("overlapping", "sample 0 is given to a and to b"),
        ("empty", "returned for peer b no list of numbers of samples, or an empty one"),
        ("nothing", "'nothing' does not exist"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_in_one_line(function: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^--partition {HERE}:{function}: ") as caught:
        split(f"{HERE}:{function}")
    assert words in str(caught.value)


def test_a_module_that_exits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves_at_import.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot import 'leaves_at_import': SystemExit: 0"):
        split("leaves_at_import:f")


def test_a_path_is_no_name_of_a_module() -> None:
    with pytest.raises(
        ConfigError, match=r"^--partition \.\./fn:ok: '\.\./fn' is no name of a module; write it as in an"
    ):
        split("../fn:ok")


# Data of one's own


def test_own_samples_are_not_dealt_out() -> None:
    owners = {"owners": np.array([0, 0, 1, 1, 1, 2, 2, 0, 3, 3, 1, 0]), "owner_names": ("a", "b", "c", "z")}
    found = split("own", **owners)
    assert [shard.tolist() for shard in found.shards] == [[0, 1, 7, 11], [2, 3, 4, 10], [5, 6]]
    assert found.notes == ("--partition own: the data of z are not used (2 samples): no peer of that label",)
    with pytest.raises(ConfigError, match=r"^--partition own: peer d has no data; there are data of a, b, c, z"):
        split("own", ("a", "d"), **owners)
    with pytest.raises(ConfigError, match=r"^--partition own: this data set does not say whose its samples are"):
        split("own")


def save_picture(path: Path, *levels: int) -> None:
    """Save a picture of one color, which differs with the levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    red, green = (20 * level for level in levels)
    Image.new("RGB", (8, 8), (red, green, 100)).save(path)


def folder_of(root: Path) -> Path:
    """Pictures of two peers with different classes, and a test set of all."""
    for row, place in enumerate(
        ["ann/train/cat", "ann/train/dog", "bob/train/dog", "bob/train/owl", "test/cat", "test/owl", "bob/test/dog"]
    ):
        for number in range(3):
            save_picture(root / place / f"{number}.png", row, number)
    return root


def test_folders_by_peer_unite_their_classes(tmp_path: Path) -> None:
    folder, pictures = folder_of(tmp_path / "data"), DataConfig(partition="own").pictures
    spec = f"imagefolder:{folder}"
    info = describe(spec, tmp_path, pictures)
    assert (info.train_samples, info.test_samples, info.classes) == (12, 9, ("cat", "dog", "owl"))
    dataset = load(prepare(spec, tmp_path, lambda *_: None, pictures))
    assert dataset.owners == ("ann", "bob")
    assert dataset.train_owners is not None
    assert dataset.train_owners.tolist() == [0] * 6 + [1] * 6
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert dataset.test_labels.tolist() == [0, 0, 0, 2, 2, 2, 1, 1, 1]


def test_pictures_that_are_no_peers_are_counted_in_a_note(tmp_path: Path) -> None:
    folder, pictures = folder_of(tmp_path / "data"), DataConfig(partition="own").pictures
    assert describe(f"imagefolder:{folder}", tmp_path, pictures).notes == ()
    for place in ("train/cat", "ann/val/cat"):
        save_picture(folder / place / "0.png", 0, 0)
        save_picture(folder / place / "1.png", 0, 0)
    (folder / "plots").mkdir()
    assert describe(f"imagefolder:{folder}", tmp_path, pictures).notes == (
        "with --partition own, pictures outside of PEER/train/, PEER/test/ and test/ are not used: "
        "train/ (2 pictures), ann/val/ (2 pictures)",
    )


def test_folders_by_peer_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    pictures = DataConfig(partition="own").pictures
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no folder PEER/train/CLASS of any peer \(there are train\)"):
        describe(f"imagefolder:{tmp_path / 'empty'}", tmp_path, pictures)
    folder = folder_of(tmp_path / "data")
    (folder / "eve" / "train" / "owl").mkdir(parents=True)
    with pytest.raises(DataError, match=f"{folder}/eve/train: no picture in any class folder; put pictures there, or"):
        describe(f"imagefolder:{folder}", tmp_path, pictures)
    (folder / "eve" / "train" / "owl").rmdir()
    (folder / "eve" / "train").rmdir()
    save_picture(folder / "test" / "emu" / "0.png", 0, 0)
    with pytest.raises(DataError, match=r"no peer has training pictures of class 'emu' in test/"):
        describe(f"imagefolder:{folder}", tmp_path, pictures)
    assert make_topology("ring", 3).n == 3


def owned() -> dict[str, object]:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])
    peers = ["b", "a", "a", "b", "a", "a"]
    return {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels} | {
        "train_peers": peers
    }


def exits_as_data() -> dict[str, object]:
    raise SystemExit(3)


def badly_owned() -> dict[str, object]:
    return owned() | {"train_peers": ["a"]}


def test_a_users_function_says_whose_its_samples_are(tmp_path: Path) -> None:
    dataset = load(prepare(f"{HERE}:owned", tmp_path, lambda *_: None))
    assert dataset.owners == ("a", "b")
    assert dataset.train_owners is not None
    assert dataset.train_owners.tolist() == [1, 0, 0, 1, 0, 0]
    with pytest.raises(DataError, match="the function raised SystemExit: 3"):
        prepare(f"{HERE}:exits_as_data", tmp_path, lambda *_: None)
    with pytest.raises(DataError, match="train_peers must be a list with a peer's label for each training image"):
        prepare(f"{HERE}:badly_owned", tmp_path, lambda *_: None)
