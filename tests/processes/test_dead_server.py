"""Launchers whose fork server is killed.

Also with signals, and with their temporary folder removed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from tests.support.launched import FAST, Swarm, nobody_left, ring
from tests.support.launched import start as start

from p2pfl.launch import fork_server
from p2pfl.run.records import read_rounds
from p2pfl.util import tempdir

LONG = ["--local-steps", "2", "--rounds", "100000"]


def server_of(swarm: Swarm) -> psutil.Process:
    (found,) = [p for p in psutil.Process(swarm.process.pid).children() if p.name() == "forkserver"]
    return found


@pytest.mark.processes
def test_ctrl_c_ends_a_swarm_whose_fork_server_was_killed(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    swarm = start(ring(tmp_path), *FAST, *LONG, "--run-dir", str(tmp_path / "run"))
    swarm.until("round 2/")
    family = swarm.family()
    server_of(swarm).kill()
    swarm.until("round 9/")  # the workers do not need it
    swarm.process.send_signal(signal.SIGINT)
    code, err = swarm.end(30.0)
    assert code == 130, err
    assert err.count("\n") == 1, err
    nobody_left(swarm, family)
    assert len(read_rounds(tmp_path / "run" / "peers" / "0")) >= 9


@pytest.mark.processes
@pytest.mark.parametrize("line", ["starting 3 processes", "results in"])
def test_a_server_killed_during_the_start_is_replaced_or_named(
    tmp_path: Path, start: Callable[..., Swarm], line: str
) -> None:
    swarm = start(ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "3", "--run-dir", str(tmp_path / "run"))
    swarm.until(line)
    server_of(swarm).kill()
    code, err = swarm.end(60.0)
    assert code == 0, err


@pytest.mark.processes
def test_a_restart_replaces_a_killed_server(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    swarm = start(
        ring(tmp_path),
        *FAST,
        "--local-steps",
        "2",
        "--rounds",
        "200",
        "--restart",
        "1",
        "--run-dir",
        str(tmp_path / "run"),
    )
    swarm.until("round 2/")
    victim = swarm.peers()[1]
    server_of(swarm).kill()
    victim.kill()
    code, err = swarm.end(120.0)
    assert code == 0, err
    assert any("since the fork server was killed" in line and "started again" in line for line in swarm.lines)


PATIENT = """
from p2pfl.cli import main
from p2pfl.launch import supervisor

if __name__ == "__main__":
    supervisor.STOP_SECONDS = 100_000.0
    raise SystemExit(main())
"""


@pytest.mark.processes
def test_a_second_ctrl_c_ends_a_swarm_that_does_not_answer(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    script = tmp_path / "patient.py"
    script.write_text(PATIENT)
    program = (sys.executable, str(script))
    swarm = start(ring(tmp_path), *FAST, *LONG, "--run-dir", str(tmp_path / "run"), program=program)
    swarm.until("round 2/")
    family = swarm.family()
    for peer in swarm.peers():
        peer.suspend()
    swarm.process.send_signal(signal.SIGINT)
    swarm.until("stopping")
    for _ in range(200):
        if swarm.process.poll() is None:
            swarm.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                swarm.process.wait(0.3)
    assert swarm.end(1.0)[0] == 130
    nobody_left(swarm, family)


REPORTING = """
import threading
from p2pfl.experiment import run
from p2pfl.cli import main

def write_report(_):
    print("writing", flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    run.write_report = write_report
    raise SystemExit(main())
"""


@pytest.mark.processes
@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_while_the_report_is_made_says_how_the_run_ended(
    tmp_path: Path, start: Callable[..., Swarm], fails: bool
) -> None:
    script, run_dir = tmp_path / "reporting.py", str(tmp_path / "run")
    script.write_text(REPORTING)
    length = LONG if fails else ["--local-steps", "1", "--rounds", "2"]
    swarm = start(ring(tmp_path), *FAST, *length, "--run-dir", run_dir, program=(sys.executable, str(script)))
    swarm.until("round 2/")
    family = swarm.family()
    if fails:
        victim = swarm.peers()[1]
        server_of(swarm).suspend()
        victim.kill()
    swarm.until("writing")
    swarm.process.send_signal(signal.SIGTERM)
    code, err = swarm.end()
    assert code == 130, err
    assert err.count("\n") == 1, err
    assert "interrupted before the report was written" in err
    assert f"p2pfl {'gossip --resume' if fails else 'report'} {run_dir}" in err
    assert ("died (" in err) == fails
    nobody_left(swarm, family)
    assert list(swarm.temporary.iterdir()) == [], "nothing is left behind"


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_terminal_that_closes_ends_a_run_like_ctrl_c(
    tmp_path: Path, start: Callable[..., Swarm], number: signal.Signals
) -> None:
    swarm = start(ring(tmp_path), *FAST, *LONG, "--run-dir", str(tmp_path / "run"))
    swarm.until("round 2/")
    family = swarm.family()
    os.killpg(swarm.process.pid, number)
    code, err = swarm.end()
    assert code == 130, err
    assert "--resume" in err
    nobody_left(swarm, family)
    assert list(swarm.temporary.iterdir()) == [], "nothing is left behind"


@pytest.mark.processes
def test_the_next_start_removes_what_killed_launchers_left(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    swarm = start(ring(tmp_path), *FAST, *LONG, "--run-dir", str(tmp_path / "run"))
    swarm.until("round 2/")
    family = swarm.family()
    os.killpg(swarm.process.pid, signal.SIGKILL)  # nobody is left to remove anything
    swarm.end()
    psutil.wait_procs(family, timeout=10.0)
    (left,) = swarm.temporary.iterdir()
    foreign = [swarm.temporary / name for name in ("pymp-abcdefgh", "p2pfl-notours", "p2pfl-empty")]
    for folder in foreign:
        folder.mkdir()
    (foreign[1] / tempdir.MARKER_FILE).write_text("something else")
    tempdir.remove_abandoned(swarm.temporary)  # what a launcher does first
    assert not left.exists()
    assert sorted(swarm.temporary.iterdir()) == sorted(foreign)


def test_a_temporary_folder_in_use_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with tempdir.TemporaryFolder() as first, tempdir.TemporaryFolder() as second:
        assert {first.path, second.path} == set(tmp_path.iterdir())
        tempdir.remove_abandoned(tmp_path)
        assert {first.path, second.path} == set(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_a_temporary_folder_that_is_cleaned_amid_a_run_fails_nothing(
    tmp_path: Path, start: Callable[..., Swarm]
) -> None:
    options = [ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "400", "--restart", "1"]
    swarm = start(*options, "--run-dir", str(tmp_path / "run"))
    swarm.until("round 2/")
    family, victim = swarm.family(), swarm.peers()[1]
    for path in sorted(swarm.temporary.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    swarm.until("round 20/")
    victim.kill()  # who is started again looks for its neighbors, and they for it
    code, err = swarm.end(120.0)
    assert code == 0, err
    assert any("died (killed by SIGKILL" in line and "started again" in line for line in [*swarm.lines, err])
    for peer in range(3):
        last = read_rounds(tmp_path / "run" / "peers" / str(peer))[-1]
        assert (last.absent or []) == [], "all are there in the end"
    nobody_left(swarm, family)


def test_a_server_of_others_is_used() -> None:
    with fork_server() as outer, fork_server() as inner:
        assert outer is inner


def say_parent(link: Connection) -> None:
    link.send_bytes(str(os.getppid()).encode())


@pytest.mark.processes
def test_the_next_process_of_a_comparison_gets_a_new_server() -> None:
    with fork_server() as server:
        parents = []
        for _ in range(2):
            child, link = server.start("probe", say_parent)
            parents.append(int(link.recv_bytes()))
            assert child.join(30)
            assert child.exitcode == 0
            child.close()
            fork_server_process = psutil.Process(parents[-1])
            fork_server_process.kill()
            fork_server_process.wait(10)
    assert parents[0] != parents[1]
