"""Directory in a shared folder: atomic files, stale and damaged ones, restarts."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.support.entries import entry

from p2pfl import make_topology
from p2pfl.errors import ConfigError
from p2pfl.rendezvous.directory import DirectoryError, Found
from p2pfl.rendezvous.entry import ENTRY_BYTES
from p2pfl.rendezvous.folder import Folder

RING = make_topology("ring", 4)


def test_peers_find_each_other(tmp_path: Path) -> None:
    zero, one = (Folder(tmp_path / "meet" / "here", RING) for _ in range(2))
    assert zero.exchange(entry(0), [1, 3]) == Found()
    assert one.exchange(entry(1), [0, 2]) == Found((entry(0),))
    assert zero.exchange(entry(0), [1, 3]) == Found((entry(1),))
    assert sorted(path.name for path in (tmp_path / "meet" / "here").iterdir()) == ["0.json", "1.json"]
    one.withdraw(entry(1))
    assert zero.exchange(entry(0), [1, 3]) == Found()


def test_a_restarted_peer_replaces_its_entry_and_the_old_process_is_told(tmp_path: Path) -> None:
    old, new, other = (Folder(tmp_path, RING) for _ in range(3))
    old.exchange(entry(1), [])
    restarted = entry(1, "tcp://10.0.0.7:7000", process="the new one")
    assert new.exchange(restarted, []) == Found(replaced=entry(1))
    assert new.exchange(restarted, []) == Found(), "said once"
    assert other.exchange(entry(0), [1]) == Found((restarted,))
    assert old.exchange(entry(1), []) == Found(is_superseded=True)
    old.withdraw(entry(1))
    assert other.exchange(entry(0), [1]) == Found((restarted,)), "the old one removes only what is its own"


def test_a_place_is_claimed_only_if_nobody_has_taken_it_since(tmp_path: Path) -> None:
    run, check, other = (Folder(tmp_path, RING) for _ in range(3))
    first, checking = entry(1), entry(1, "tcp://10.0.0.8:7000", process="the check")
    assert check.occupant(checking) is None
    run.exchange(first, [])
    assert not check.claim(checking, None)
    assert check.occupant(checking) == first
    again = entry(1, "tcp://10.0.0.7:7000", process="the new one")
    run.exchange(again, [])
    assert not check.claim(checking, first)
    assert other.exchange(entry(0), [1]) == Found((again,)), "it is there still"
    assert check.claim(checking, again)
    assert check.exchange(checking, []) == Found()
    assert other.exchange(entry(0), [1]) == Found((checking,))
    (tmp_path / "1.json").write_bytes(b"half of an ent")
    assert check.claim(checking, None), "what nobody can read is nobody's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json"]


def test_a_folder_in_a_place_is_said_and_stays(tmp_path: Path) -> None:
    check = Folder(tmp_path, RING)
    (tmp_path / "1.json").mkdir()
    with pytest.raises(DirectoryError, match=r"1\.json: cannot be written"):
        check.claim(entry(1), None)
    assert [path.name for path in tmp_path.iterdir()] == ["1.json"]


def test_an_entry_is_written_again_where_it_was_removed_or_has_changed(tmp_path: Path) -> None:
    zero, one = Folder(tmp_path, RING), Folder(tmp_path, RING)
    one.exchange(entry(1), [])
    (tmp_path / "1.json").unlink()
    one.exchange(entry(1), [])
    assert zero.exchange(entry(0), [1]) == Found((entry(1),))
    changed = entry(1, "tcp://10.0.0.2:7001")
    assert one.exchange(changed, []) == Found()
    assert zero.exchange(entry(0), [1]) == Found((changed,))


def test_half_written_large_and_foreign_files_are_named_and_do_no_harm(tmp_path: Path) -> None:
    whole = msgspec.json.encode(entry(1))
    contents = {
        "damaged or of another version": [whole[:-1], b"[]", b"\xff\xfe", whole.replace(b'"peer":1', b'"peer":"1"')],
        "larger than": [whole + b" " * ENTRY_BYTES],
        "of another peer": [msgspec.json.encode(entry(2))],
    }
    zero = Folder(tmp_path, RING)
    for problem, files in contents.items():
        for content in files:
            (tmp_path / "1.json").write_bytes(content)
            found = zero.exchange(entry(0), [1, 3])
            assert found.entries == ()
            assert problem in found.unreadable[1]
            assert set(found.unreadable) == {1}
    (tmp_path / "1.json").unlink()
    os.mkfifo(tmp_path / "1.json")
    assert "not a regular file" in zero.exchange(entry(0), [1]).unreadable[1]
    assert list(tmp_path.glob("*.tmp")) == []


def test_labels_are_file_names(tmp_path: Path) -> None:
    import networkx as nx

    from p2pfl.topology import build_topology

    odd = build_topology(nx.path_graph(["../up", "a/b", "x y", "A", "a"]), name="odd", source="odd")
    folder = Folder(tmp_path / "in", odd)
    for peer in range(odd.n):
        folder = Folder(tmp_path / "in", odd)
        folder.exchange(entry(peer), [])
    assert len({path.name.lower() for path in (tmp_path / "in").iterdir()}) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_unusable_folder_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--rendezvous .*file"):
        Folder(tmp_path / "file", RING)
    with pytest.raises(ConfigError, match=r"--rendezvous .*file/in"):
        Folder(tmp_path / "file" / "in", RING)
    folder = Folder(tmp_path / "gone", RING)
    (tmp_path / "gone").rmdir()
    with pytest.raises(DirectoryError, match="gone"):
        folder.exchange(entry(0), [1])
