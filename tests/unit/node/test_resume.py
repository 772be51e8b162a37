"""Choice of the checkpoint from which a process resumes.

Whatever lies in its folder, and what it says of the other checkpoints.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.ray_files import filled
from tests.support.saved_runs import LAST, Made, cut, made, other_version

from p2pfl.config import replace_options
from p2pfl.errors import CheckpointError, UnreadableError
from p2pfl.faults import FaultScript
from p2pfl.launch import LaunchSpec
from p2pfl.launch.ray_files import PrivateFolder
from p2pfl.launch.recovery import recover, recovery_line
from p2pfl.modes import assign_roles
from p2pfl.node.recorder import Recorder
from p2pfl.node.resume import SavedState, last_common_round, report_stale_client
from p2pfl.run import checkpoint
from p2pfl.run.checkpoint import Checkpoint, Origin, Sent
from p2pfl.run.identity import read_run_id
from p2pfl.run.paths import ROUNDS_FILE, RUN_ID_FILE, SKETCHES_FILE
from p2pfl.run.sketch_file import HEADER, file_size

LOST = "no checkpoint that can be used; takes its neighbors' weights if they are ahead"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """Two runs with equal settings, of which tests take copies."""
    folder = tmp_path_factory.mktemp("template")
    return made(folder / "run"), made(folder / "other")


@pytest.fixture
def pair(template: tuple[Made, Made], tmp_path: Path) -> tuple[Made, Made]:
    run, other = (replace(one, folder=tmp_path / one.folder.name) for one in template)
    for one, copy in zip(template, (run, other), strict=True):
        shutil.copytree(one.folder, copy.folder)
    return run, other


def misnamed(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def files_for_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


# What happens to peer 1 -> the round that it resumes from (None: it has lost its weights), and what is said in turn.
KINDS: dict[str, tuple[Callable[[Made, Made], object], int | None, list[str]]] = {
    "nothing": (lambda run, other: None, 5, []),
    "newest cut": (lambda run, other: cut(run.path(1, 5)), 4, ["not an intact checkpoint"]),
    "of another version": (lambda run, other: other_version(run.path(1, 5)), 4, ["written by another version"]),
    "of another peer": (
        lambda run, other: shutil.copy(run.path(2, 5), run.path(1, 5)),
        4,
        ["a checkpoint of '2' (number 2), not of '1' (number 1)"],
    ),
    "of a later round of another peer": (
        lambda run, other: shutil.copy(run.path(2, 5), run.path(1, 7)),
        5,
        ["holds round 5, not the one in its name"],
    ),
    "of the same peer in an equal run": (
        lambda run, other: shutil.copy(other.path(1, 5), run.path(1, 5)),
        4,
        ["a checkpoint of another run"],
    ),
    "all of an equal run": (
        lambda run, other: shutil.copytree(other.peer_dir(1), run.peer_dir(1), dirs_exist_ok=True),
        None,
        [
            "of another run",
            "of another run",
            LOST,
        ],
    ),
    "of the round before": (
        lambda run, other: shutil.copy(run.path(1, 4), run.path(1, 5)),
        4,
        ["holds round 4, not the one in its name"],
    ),
    "a name with more digits": (
        lambda run, other: misnamed(run.path(1, 5), "round-0000005.safetensors"),
        4,
        ["holds round 5, not the one"],
    ),
    "all of another peer": (
        lambda run, other: [shutil.copy(run.path(2, n), run.path(1, n)) for n in (4, 5)],
        None,
        ["of '2'", "of '2'", LOST],
    ),
    "records missing": (lambda run, other: (run.peer_dir(1) / ROUNDS_FILE).unlink(), 5, []),
    "records cut": (lambda run, other: cut(run.peer_dir(1) / ROUNDS_FILE), 5, []),
    "records of nothing": (lambda run, other: (run.peer_dir(1) / ROUNDS_FILE).write_bytes(b"\xff\n\n{}\n"), 5, []),
    "folder missing": (
        lambda run, other: shutil.rmtree(run.peer_dir(1)) or run.peer_dir(1).mkdir(),  # type: ignore[func-returns-value]
        None,
        [LOST],
    ),
    "checkpoints missing": (
        lambda run, other: shutil.rmtree(run.peer_dir(1) / "checkpoint"),
        None,
        [LOST],
    ),
    "a file in the folder's place": (
        lambda run, other: files_for_folder(run.peer_dir(1) / "checkpoint"),
        None,
        [LOST],
    ),
    "id missing": (lambda run, other: (run.folder / RUN_ID_FILE).unlink(), 5, ["run.id: missing or damaged"]),
    "id altered": (
        lambda run, other: (run.folder / RUN_ID_FILE).write_text("0" * 24 + "-00000000\n"),
        5,
        ["run.id: missing or damaged"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_checkpoint_of_ones_own_is_used_and_others_are_refused_by_name(
    pair: tuple[Made, Made], kind: str
) -> None:
    run, other = pair
    change, round, expected = KINDS[kind]
    change(run, other)
    past, said = run.find_resume_point(1)
    assert (past.saved.round if past.saved else None) == round
    assert past.lost == (round is None)
    assert len(said) == len(expected), said
    for line, part in zip(said, expected, strict=True):
        assert part in line
        assert line.startswith(str(run.folder))
    if past.saved is not None:
        assert past.origin.run == past.saved.origin.run
        refused = [line for line in said if RUN_ID_FILE not in line]
        assert all(line.endswith(f"; continues from its checkpoint of round {round} instead") for line in refused)
        assert set(past.unsent) == {n for n in (round, 4) if n and run.path(1, n).exists()}
        again, quiet = run.find_resume_point(1)
        assert (again.saved or past.saved).round == round
        assert not any("run.id" in line for line in quiet), "an id that was lost is there again"


def test_folders_of_several_machines_stay_usable_in_one_directory(tmp_path: Path) -> None:
    """Peers that run alone have separate run directories, with their id in each."""
    runs = [made(tmp_path / name, alone=name) for name in ("0", "1", "2")]
    ids = {read_run_id(run.peer_dir(index)) for index, run in enumerate(runs)}
    assert len(ids) == 3
    assert None not in ids
    for index in (1, 2):
        shutil.copytree(runs[index].peer_dir(index), runs[0].peer_dir(index), dirs_exist_ok=True)
    for index in range(3):
        past, said = runs[0].find_resume_point(index)
        assert past.saved is not None
        assert (past.saved.round, said) == (5, [])
    shutil.copy(runs[0].path(2, 5), runs[0].path(1, 5))
    assert runs[0].find_resume_point(1)[0].saved.round == 4  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["sgd", "centralized"])
@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "missing"])
def test_the_end_where_nobody_else_has_the_weights(tmp_path: Path, mode: str, gone: bool) -> None:
    run = made(tmp_path / "run", mode)
    index = run.topology.n - 1
    for number in (4, 5):
        run.path(index, number).unlink() if gone else cut(run.path(index, number))
    with pytest.raises(CheckpointError, match=r"no checkpoint that can be used; start a new run without --resume$"):
        run.find_resume_point(index)


def test_a_local_peer_begins_again(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "local")
    shutil.rmtree(run.peer_dir(1))
    run.peer_dir(1).mkdir()
    past, said = run.find_resume_point(1)
    assert past.saved is None
    assert said == [f"{run.peer_dir(1) / 'checkpoint'}: no checkpoint that can be used; begins at round 1 again"]


def test_other_settings_are_no_damage(pair: tuple[Made, Made]) -> None:
    run, _ = pair
    kept = checkpoint.load(run.path(1, 5))
    checkpoint.save(run.peer_dir(1) / "checkpoint", replace(kept, settings="others"))
    with pytest.raises(
        CheckpointError,
        match=r"of a run with other settings, or on another graph than topology.graphml has now; start a new",
    ):
        run.find_resume_point(1)


def test_a_run_that_saved_nothing_begins_at_its_first_round(pair: tuple[Made, Made]) -> None:
    run, _ = pair
    for index in range(3):
        shutil.rmtree(run.peer_dir(index) / "checkpoint")
        (run.peer_dir(index) / ROUNDS_FILE).unlink()
    past, said = run.find_resume_point(1)
    assert (past.saved, past.lost, said) == (None, False, [])


# All continue together with a coordinator.
COMMON: dict[str, tuple[Callable[[Made], object], int]] = {
    "nothing": (lambda run: None, 5),
    "coordinator's records missing": (lambda run: (run.peer_dir(3) / ROUNDS_FILE).unlink(), 5),
    "coordinator's records garbage": (lambda run: (run.peer_dir(3) / ROUNDS_FILE).write_bytes(b"\xff{}\n" * 9), 5),
    "coordinator's newest cut": (lambda run: cut(run.path(3, 5)), 4),
    "coordinator's newest of a client": (lambda run: shutil.copy(run.path(0, 5), run.path(3, 5)), 4),
    "a client's newest missing": (lambda run: run.path(0, 5).unlink(), 4),
    "a client's newest cut": (lambda run: cut(run.path(0, 5)), 4),
    "a client's newest of another": (lambda run: shutil.copy(run.path(1, 5), run.path(0, 5)), 4),
    "newest of a client that was not drawn cut": (lambda run: cut(run.path(2, 5)), 5),
}


@pytest.fixture(scope="module")
def centralized(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("template") / "centralized", "centralized")


@pytest.mark.parametrize("kind", COMMON)
def test_all_of_a_centralized_run_go_back_to_the_same_round(centralized: Made, tmp_path: Path, kind: str) -> None:
    run = replace(centralized, folder=tmp_path / "run")
    shutil.copytree(centralized.folder, run.folder)
    change, round = COMMON[kind]
    change(run)
    go_back_together(run)
    parts = assign_roles(run.config, run.topology)
    assert [last_common_round(run.spec(index), parts, LAST) for index in range(4)] == [round] * 4
    for index in range(4):
        with contextlib.closing(PrivateFolder()) as folder:
            there = run.spec(index, run_dir=on_its_own(run, folder, index))
            assert last_common_round(there, parts, LAST) == round, "on a node that has only what it was sent"


def go_back_together(run: Made) -> bool:
    """Do what a launcher does before it starts the processes; whether some go back."""
    roles = assign_roles(run.config, run.topology)
    line = recovery_line(roles, run.config, run.folder)
    if line is not None:
        recover(line, roles, run.config, run.folder, FaultScript(names=roles.topology.names))
    return line is not None


def on_its_own(run: Made, folder: PrivateFolder, index: int) -> Path:
    """Run directory of a process on a node that does not share the launcher's."""
    roles = assign_roles(run.config, run.topology)
    return filled(folder, LaunchSpec(roles, run.config, run.folder, "run", "settings", True), index).run_dir


def test_what_was_saved_after_the_common_round_is_gone(centralized: Made, tmp_path: Path) -> None:
    """A client that dies in the round again must not resume from its old state."""
    run = replace(centralized, folder=tmp_path / "run")
    shutil.copytree(centralized.folder, run.folder)
    run.path(0, 5).unlink()
    assert go_back_together(run)
    assert not any(run.path(index, 5).exists() for index in range(4))
    assert all(run.path(index, 4).exists() for index in range(4))
    assert not go_back_together(run)


@pytest.mark.parametrize(("newest", "is_lost"), [(0, False), (1, False), (5, True)])
def test_a_process_that_sees_its_own_files_only_is_told_that_rounds_were_saved(
    pair: tuple[Made, Made], newest: int, is_lost: bool
) -> None:
    run, _ = pair
    for index in range(3):
        shutil.rmtree(run.peer_dir(index))
        run.peer_dir(index).mkdir()
    past, said = run.find_resume_point(1, newest_round=newest)
    assert past.lost == is_lost
    assert [line.endswith(LOST) for line in said] == [True] * is_lost


@pytest.mark.parametrize(("rounds", "state"), [((5,), "that of round 4"), ((4, 5), "none")])
def test_a_client_whose_own_state_is_too_old_says_so(
    centralized: Made, tmp_path: Path, rounds: tuple[int, ...], state: str
) -> None:
    """The coordinator resumes from round 5, its oldest: the client's momentum differs."""
    run = replace(centralized, folder=tmp_path / "run")
    shutil.copytree(centralized.folder, run.folder)
    run.path(3, 4).unlink()
    (run.peer_dir(3) / ROUNDS_FILE).unlink()
    for number in rounds:
        cut(run.path(0, number))
    past, said = run.find_resume_point(0)
    assert len(said) == len(rounds)
    said.clear()
    parts = assign_roles(run.config, run.topology)
    assert last_common_round(run.spec(0), parts, LAST) == 5
    report_stale_client(run.spec(0), parts, past, 5, lambda message: said.append(message.text))  # type: ignore[union-attr]
    assert said == [f"its momentum after round 5 is lost; continues with {state}, to other bits"]


def test_an_origin_is_checked_where_it_is_known(pair: tuple[Made, Made]) -> None:
    run, _ = pair
    path = run.path(1, 5)
    own = checkpoint.load(path).origin
    assert (own.peer, own.index) == ("1", 1)
    assert checkpoint.load(path, own).round == checkpoint.load(path, replace(own, run="")).round == 5
    for wrong in (replace(own, run="x"), replace(own, peer="x"), replace(own, index=0), Origin()):
        with pytest.raises(CheckpointError, match=rf"^{path}: a checkpoint of "):
            checkpoint.load(path, wrong)


def test_a_save_after_a_refusal_keeps_what_can_be_resumed(pair: tuple[Made, Made]) -> None:
    """Checkpoints of others with higher numbers are in the folder.

    The peer resumes from its own.
    """
    run, other = pair
    foreign = [run.path(1, 100), run.path(1, 101), run.path(1, 3)]
    for source, path in zip((run.path(2, 5), other.path(1, 5), other.path(1, 4)), foreign, strict=True):
        shutil.copy(source, path)
    for number in (6, 7, 8):
        past, _ = run.find_resume_point(1)
        assert past.saved is not None
        assert past.saved.round == number - 1
        checkpoint.save(run.peer_dir(1) / "checkpoint", replace(past.saved, round=number))
    left = {path.name for path in (run.peer_dir(1) / "checkpoint").iterdir()}
    assert left == {path.name for path in (run.path(1, 7), run.path(1, 8), *foreign)}


def test_a_peer_that_begins_again_keeps_what_it_saves(tmp_path: Path) -> None:
    """Checkpoints that could not be used have higher numbers."""
    run = made(tmp_path / "run", "local")
    saved = checkpoint.load(run.path(1, 5))
    for number in (4, 5):
        cut(run.path(1, number))
    for number in (1, 2, 3):
        checkpoint.save(run.peer_dir(1) / "checkpoint", replace(saved, round=number))
    past, _ = run.find_resume_point(1)
    assert past.saved is not None
    assert (past.saved.round, set(past.unsent)) == (3, {2, 3})
    assert not run.path(1, 1).exists()


def test_payloads_of_all_exchanges_of_a_round_are_saved_and_found(tmp_path: Path) -> None:
    first, last = torch.ones(3), torch.full((3,), 2.0)
    before = Sent({1: {"x": first}, 2: {"x": first}}, {1: {"w": 0.5}})
    kept = Checkpoint(2, 2, "", "", torch.zeros(3), torch.zeros(3), sent={1: {"x": last}}, earlier=(before, Sent()))
    found = checkpoint.load(checkpoint.save(tmp_path / "checkpoint", kept))
    unsent = SavedState(found.origin, found).unsent
    assert set(unsent) == {4, 5, 6}
    assert [torch.equal(payload.vectors["x"][0], first) for payload in unsent[4].values()] == [True, True]
    assert (unsent[4][1].scalars, unsent[5]) == ({"w": 0.5}, {})
    assert torch.equal(unsent[6][1].vectors["x"][0], last)


def contents(run: Made) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["gossip", "local", "centralized", "sgd"])
def test_checkpoints_of_another_version_are_refused_and_stay(tmp_path: Path, mode: str) -> None:
    run = made(tmp_path / "run", mode)
    index = run.topology.n - 1
    for number in (4, 5):
        other_version(run.path(index, number))
    before = contents(run)
    remedy = r"resume with that version, or start a new run without --resume$"
    with pytest.raises(
        CheckpointError, match=rf"^{run.path(index, 5)}: written by another version of p2pfl; {remedy}"
    ) as it:
        run.find_resume_point(index)
    assert not it.value.resumable
    assert contents(run) == before


def to_itself(path: Path) -> None:
    """A link that cannot be followed, whoever reads."""
    path.unlink() if path.is_file() else shutil.rmtree(path)
    path.symlink_to(path.name)


def to_nowhere(path: Path) -> None:
    """As where a disk is not mounted."""
    path.unlink() if path.is_file() else shutil.rmtree(path)
    path.symlink_to("not-mounted")


@pytest.mark.parametrize("cause", [to_itself, to_nowhere])
@pytest.mark.parametrize(
    ("mode", "what"),
    [*[("gossip", what) for what in ("newest", "before", "folder", "id")], ("local", "newest"), ("sgd", "newest")],
)
def test_what_cannot_be_read_now_is_no_damage(
    tmp_path: Path, mode: str, cause: Callable[[Path], None], what: str
) -> None:
    """The run ends with one line, and can be resumed when the file is readable."""
    run = made(tmp_path / "run", mode)
    index = run.topology.n - 1
    path = {
        "newest": run.path(index, 5),
        "before": run.path(index, 4),
        "folder": run.path(index, 5).parent,
        "id": run.folder / RUN_ID_FILE,
    }[what]
    cause(path)
    before = contents(run)
    with pytest.raises(UnreadableError, match=rf"^{path}: cannot be read \(") as caught:
        run.find_resume_point(index)
    assert caught.value.resumable
    assert contents(run) == before


def test_all_of_a_centralized_run_end_where_one_file_cannot_be_read(centralized: Made, tmp_path: Path) -> None:
    """None goes back a round for it, and its own process says so."""
    run = replace(centralized, folder=tmp_path / "run")
    shutil.copytree(centralized.folder, run.folder)
    to_itself(run.path(0, 5))
    assert not go_back_together(run)
    assert last_common_round(run.spec(3), assign_roles(run.config, run.topology), LAST) == 5
    with pytest.raises(UnreadableError, match=str(run.path(0, 5))):
        run.find_resume_point(0)


def recorder(run: Made, **options: Any) -> Recorder:
    config = replace_options(run.config, **options)
    return Recorder(
        config,
        run.folder,
        run.peer_dir(1),
        evaluates=False,
        sketches=True,
        settings="settings",
        origin=Origin(),
        consensus_rounds=0,
        kept=None,
    )


def test_records_that_no_checkpoint_stands_behind_are_kept(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "local")
    folder, trainer = run.peer_dir(1), SimpleNamespace(steps=0)
    names = (ROUNDS_FILE, SKETCHES_FILE)
    (folder / SKETCHES_FILE).write_bytes(HEADER + bytes(file_size(5) - file_size(0)))
    before = [(folder / name).read_bytes() for name in names]
    for number in ("1", "2"):
        (line,) = recorder(run).begin(1, trainer)  # type: ignore[arg-type]
        assert line == (
            f"{folder / ROUNDS_FILE}: begins at round 1 again; its records until round 5 are kept in "
            f"{folder / ROUNDS_FILE}.{number}"
        )
        assert [(folder / f"{name}.{number}").read_bytes() for name in names] == before
        assert [(folder / name).read_bytes() for name in names] == [b"", b""]
        for name, data in zip(names, before, strict=True):
            (folder / name).write_bytes(data)


@pytest.mark.parametrize(("round", "options"), [(5, {}), (6, {}), (1, {"checkpoint": False})])
def test_no_copy_where_nothing_is_lost_that_was_to_be_kept(tmp_path: Path, round: int, options: dict[str, Any]) -> None:
    """One round may have been recorded and not saved.

    And without checkpoints a run begins again, as is said.
    """
    run = made(tmp_path / "run", "local")
    recorder(run, **options).begin(round, SimpleNamespace(steps=0))  # type: ignore[arg-type]
    assert list(run.peer_dir(1).glob(f"{ROUNDS_FILE}.*")) == []
