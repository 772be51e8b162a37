"""First round of a resumed run: reported or refused before a process starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.runs import train_record
from tests.support.saved_runs import Made, cut, made, other_version

from p2pfl import RunConfig, make_topology
from p2pfl.cli import main
from p2pfl.config import replace_options
from p2pfl.errors import CheckpointError, TopologyError
from p2pfl.experiment.resume import starting_point
from p2pfl.launch.recovery import recovery_line
from p2pfl.modes import assign_roles
from p2pfl.report import load_run
from p2pfl.run.directory import create_run_dir, open_run_dir
from p2pfl.run.identity import write_run_id
from p2pfl.run.paths import ROUNDS_FILE
from p2pfl.run.records import append_round

MODES = ("gossip", "local", "centralized", "sgd")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    folder = tmp_path_factory.mktemp("templates")
    return {mode: made(folder / mode, mode) for mode in MODES}


@pytest.fixture(params=MODES)
def saved(request: pytest.FixtureRequest, templates: dict[str, Made], tmp_path: Path) -> Made:
    """A run of each mode of which five rounds are done."""
    run = replace(templates[request.param], folder=tmp_path / "a run")
    shutil.copytree(templates[request.param].folder, run.folder)
    return run


def looked(run: Made, again: str | None = None) -> str:
    return starting_point(assign_roles(run.config, run.topology), run.config, run.folder, again)


def each(change: Callable[[Path], object]) -> Callable[[Made], None]:
    def change_all(run: Made) -> None:
        for path in run.folder.glob("peers/*/checkpoint/*"):
            change(path)

    return change_all


def without_peers(run: Made) -> None:
    shutil.rmtree(run.folder / "peers")
    (run.folder / "summary.json").write_text(json.dumps({"rounds_completed": 1}))


def without_peers_and_summary(run: Made) -> None:
    shutil.rmtree(run.folder / "peers")
    (run.folder / "report.html").touch()


def without_checkpoints_and_records(run: Made) -> None:
    for name in ("checkpoint", ROUNDS_FILE):
        for path in run.folder.glob(f"peers/*/{name}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run.folder / "consensus.safetensors").touch()


LOSSES: dict[str, Callable[[Made], None]] = {
    "all folders": without_peers,
    "all folders and the summary": without_peers_and_summary,
    "all but a model": without_checkpoints_and_records,
    "checkpoints": each(Path.unlink),
    "cut": each(cut),
    "empty": each(lambda path: path.write_bytes(b"")),
    "garbage": each(lambda path: path.write_bytes(b"\xff" * 99)),
    "of another run": lambda run: write_run_id(run.folder) and None,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_of_whose_rounds_nobody_has_weights_is_not_resumed(saved: Made, loss: str) -> None:
    LOSSES[loss](saved)
    command = f"start a new run with: p2pfl {saved.config.mode} --config '{saved.folder / 'config.toml'}'"
    with pytest.raises(CheckpointError, match=r"^[^\n]*rounds were done, and [^\n]*$") as caught:
        looked(saved)
    assert str(caught.value).endswith(command)
    assert not caught.value.resumable
    with pytest.raises(CheckpointError, match=r"away, then run it again with: p2pfl compare x$"):
        looked(saved, "p2pfl compare x")


def test_a_run_resumes_from_a_checkpoint_that_some_peer_has(saved: Made) -> None:
    assert looked(saved) == "resuming after round 5"
    index = saved.topology.n - 1  # where there is a coordinator, it is the last
    cut(saved.path(index, 5))
    several = saved.config.mode in ("gossip", "local")
    assert looked(saved) == (
        "resuming after round 4 to 5, each peer from its own newest checkpoint" if several else "resuming after round 4"
    )
    if several:
        shutil.rmtree(saved.peer_dir(index))
        assert looked(saved) == "resuming after round 5"


def test_a_centralized_run_says_that_a_client_has_not_saved_its_part(
    templates: dict[str, Made], tmp_path: Path
) -> None:
    run = replace(templates["centralized"], folder=tmp_path / "run")
    shutil.copytree(templates["centralized"].folder, run.folder)
    cut(run.path(0, 5))
    roles = assign_roles(run.config, run.topology)
    line = recovery_line(roles, run.config, run.folder)
    assert starting_point(roles, run.config, run.folder, line=line) == (
        "resuming after round 4: a client has not saved its part in the next one"
    )


def test_what_may_be_used_by_others_or_later_is_no_loss(saved: Made) -> None:
    """The process that finds it says what is the matter."""
    for path in saved.folder.glob("peers/*/checkpoint/*"):
        other_version(path)
    assert looked(saved) == "looking for checkpoints to resume from"
    for path in list(saved.folder.glob("peers/*/checkpoint")):
        shutil.rmtree(path)
        path.symlink_to("not-mounted")
    assert looked(saved) == "looking for checkpoints to resume from"


@pytest.mark.parametrize("recorded", [0, 1])
def test_a_run_that_had_saved_nothing_begins_at_its_first_round(saved: Made, recorded: int) -> None:
    for path in saved.folder.glob("peers/*"):
        shutil.rmtree(path / "checkpoint")
        lines = (path / ROUNDS_FILE).read_bytes().splitlines(keepends=True)
        (path / ROUNDS_FILE).write_bytes(b"".join(lines[:recorded]))
    (saved.folder / "summary.json").write_text(json.dumps({"rounds_completed": recorded}))
    assert looked(saved) == "begins at round 1: the run was stopped before it had saved a checkpoint"
    keeps_none = replace(saved, config=replace_options(saved.config, checkpoint=False))
    assert looked(keeps_none) == "begins at round 1: the run keeps no checkpoints"


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text(""), cut])
def test_a_run_without_its_graph_is_told_to_get_that_back(saved: Made, change: Callable[[Path], object]) -> None:
    path = saved.folder / "topology.graphml"
    change(path)
    for use in (open_run_dir, load_run):
        with pytest.raises(TopologyError, match=rf"^{path}: [^\n]+; put back the file that the run began with$"):
            use(saved.folder)


def test_a_comparison_of_which_nothing_is_written_yet_says_so(
    capsys: pytest.CaptureFixture[str], templates: dict[str, Made], tmp_path: Path
) -> None:
    folder = tmp_path / "all"
    shutil.copytree(templates["sgd"].folder, folder / "sgd-seed-0")
    assert main(["report", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder}: contains no finished comparison (none of its 1 run has finished); finish it" in line
    assert line.endswith(f"p2pfl report {folder / 'sgd-seed-0'}")
    trials = tmp_path / "tuned" / "tuning"
    shutil.copytree(templates["sgd"].folder, trials / "sgd-lr-0.1")
    assert main(["report", str(trials.parent)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{trials.parent}: contains no finished comparison" in line
    assert line.endswith(f"p2pfl report {trials / 'sgd-lr-0.1'}")


@pytest.mark.usefixtures("blank_plots")
def test_resume_without_the_peers_folder_starts_no_process(
    capsys: pytest.CaptureFixture[str], templates: dict[str, Made], tmp_path: Path
) -> None:
    """Not one test of processes: none may be started here."""
    run = replace(templates["gossip"], folder=tmp_path / "run")
    shutil.copytree(templates["gossip"].folder, run.folder)
    without_peers(run)
    assert main(["gossip", "--resume", str(run.folder)]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.endswith(f"start a new run with: p2pfl gossip --config {run.folder / 'config.toml'}")
    assert "after round" not in out


def test_rounds_before_the_first_checkpoint_are_no_loss_when_more_are_saved_now(tmp_path: Path) -> None:
    """The run was to save every tenth round when it was stopped."""
    config = RunConfig.of(run_dir=str(tmp_path / "run"), rounds=20, dataset="digits", checkpoint_every=10)
    topology = make_topology("ring", 3)
    run = Made(create_run_dir(topology, config), config, topology)
    for index in range(3):
        for number in range(1, 5):
            append_round(run.peer_dir(index), train_record(topology, index, number, 20, 100), None)
    now = replace(run, config=replace_options(config, checkpoint_every=1))
    assert looked(now).startswith("begins at round 1")
    past, said = now.find_resume_point(1)
    assert (past.lost, said) == (False, [])


def test_first_checkpoints_that_a_power_cut_has_damaged_are_no_loss(tmp_path: Path) -> None:
    """The run begins again, since nobody has more than its first rounds."""
    config = RunConfig.of(run_dir=str(tmp_path / "run"), rounds=20, dataset="digits", checkpoint_every=3)
    topology = make_topology("ring", 3)
    run = Made(create_run_dir(topology, config), config, topology)
    for index in range(3):
        run.path(index, 3).parent.mkdir(parents=True)
        run.path(index, 3).write_bytes(bytes(1000))
    assert looked(run).startswith("begins at round 1")
    past, said = run.find_resume_point(1)
    assert not past.lost
    assert [line for line in said if "not an intact checkpoint" in line] == said
    run.path(0, 3).rename(run.path(0, 6))
    assert run.find_resume_point(1)[0].lost, "another has been further"
    with pytest.raises(CheckpointError, match="rounds were done"):
        looked(run)
