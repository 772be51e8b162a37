"""Launcher of real processes: Ctrl-C, crashes, orphans, and resumed runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from tests.support.launched import FAST, Swarm, nobody_left, ring
from tests.support.launched import start as start

from p2pfl import launch as launcher
from p2pfl.launch import preload
from p2pfl.launch.supervisor import STOP_SECONDS
from p2pfl.run.records import read_rounds


@pytest.mark.processes
@pytest.mark.parametrize("whole_group", [False, True], ids=["launcher alone", "whole group"])
def test_ctrl_c_ends_everything_and_the_run_can_be_resumed(
    tmp_path: Path, start: Callable[..., Swarm], whole_group: bool
) -> None:
    options = [ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "100"]
    swarm = start(*options, "--run-dir", str(tmp_path / "run"))
    swarm.until("round 3/")
    family = swarm.family()
    (os.killpg if whole_group else os.kill)(swarm.process.pid, signal.SIGINT)
    code, err = swarm.end()
    assert code == 130
    assert err.count("\n") == 1, err
    assert "--resume" in err
    nobody_left(swarm, family)
    records = (tmp_path / "run" / "peers" / "0" / "rounds.jsonl").read_text().splitlines()
    assert len(records) >= 2
    assert (tmp_path / "run" / "report.html").exists()

    resumed = start("--resume", str(tmp_path / "run"))
    code, err = resumed.end(200)
    assert code == 0, err
    undisturbed = start(*options, "--run-dir", str(tmp_path / "whole"))
    assert undisturbed.end(200)[0] == 0
    whole, again = ((tmp_path / name / "consensus.safetensors").read_bytes() for name in ("whole", "run"))
    assert whole == again, "a resumed run ends with the same bits"
    for folder in (tmp_path / "run" / "peers").iterdir():
        rounds = [record.round for record in read_rounds(folder)]
        assert rounds == list(range(1, len(rounds) + 1)), "every round is recorded once"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "complete"


@pytest.mark.processes
def test_a_peer_that_raises_ends_the_run(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    options = [ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "50", "--run-dir", str(tmp_path / "run")]
    swarm = start(*options, USER_MODEL_RAISES_AT="5")
    swarm.until("round 1/")
    family = swarm.family()
    code, err = swarm.end()
    assert code == 1
    assert err.count("\n") == 1, err
    assert "peer " in err
    assert "the user's own mistake" in err
    nobody_left(swarm, family)
    logs = [path.read_text() for path in (tmp_path / "run").glob("peers/*/log.txt")]
    assert any("Traceback" in log and "user_models.py" in log for log in logs)


@pytest.mark.processes
def test_a_killed_peer_ends_the_run_and_is_named(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    options = [ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "100000", "--run-dir", str(tmp_path / "run")]
    swarm = start(*options)
    swarm.until("round 2/")
    family, victim = swarm.family(), swarm.peers()[1]
    victim.kill()
    code, err = swarm.end()
    assert code == 1
    assert err.count("\n") == 1, err
    assert "died (killed by SIGKILL" in err
    nobody_left(swarm, family)


@pytest.mark.processes
@pytest.mark.parametrize("stage", ["training", "frozen"])
def test_peers_end_when_their_launcher_is_killed(tmp_path: Path, start: Callable[..., Swarm], stage: str) -> None:
    environment = {"USER_MODEL_FREEZES_AT": "9"} if stage == "frozen" else {}
    transport = "ipc" if stage == "frozen" else "tcp"
    options = [ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "100000", "--run-dir", str(tmp_path / "run")]
    swarm = start(*options, "--transport", transport, **environment)
    swarm.until("round 2/")
    family = swarm.family()
    swarm.process.kill()
    swarm.end()
    _, alive = psutil.wait_procs(family, timeout=60.0)  # 5 s promised, on a machine that is not busy
    assert not alive
    assert not list(swarm.temporary.glob("p2pfl-*")), "nor is the folder of their sockets left"


@pytest.mark.processes
def test_many_ctrl_c_lose_nothing(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    options = [ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "100000", "--run-dir", str(tmp_path / "run")]
    swarm = start(*options)
    swarm.until("round 5/")
    family = swarm.family()
    for _ in range(10):
        if swarm.process.poll() is None:
            os.killpg(swarm.process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                swarm.process.wait(timeout=0.05)
    code, err = swarm.end()
    assert code == 130, err
    assert err.count("\n") == 1, err
    assert "--resume" in err
    nobody_left(swarm, family)
    assert len(read_rounds(tmp_path / "run" / "peers" / "0")) >= 5


@pytest.mark.processes
def test_a_launcher_that_stops_reading_loses_no_result(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    options = [ring(tmp_path), *FAST, "--local-steps", "1", "--rounds", "400", "--no-checkpoint"]
    swarm = start(*options, "--run-dir", str(tmp_path / "run"))
    swarm.until("round 1/")
    peers = swarm.peers()
    swarm.process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 120
    while any(peer.status() != psutil.STATUS_ZOMBIE for peer in peers if peer.is_running()):
        assert time.monotonic() < deadline, "the peers wait for their launcher"
        psutil.wait_procs(peers, timeout=0.2)
    swarm.process.send_signal(signal.SIGCONT)
    code, err = swarm.end()
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "complete"


@pytest.mark.processes
def test_sigterm_is_an_interruption(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    options = [ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "100000", "--run-dir", str(tmp_path / "run")]
    swarm = start(*options)
    swarm.until("round 1/")
    family = swarm.family()
    swarm.process.terminate()
    assert swarm.end()[0] == 130
    nobody_left(swarm, family)


@pytest.mark.processes
def test_ctrl_c_while_peers_start(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    swarm = start(ring(tmp_path), *FAST, "--run-dir", str(tmp_path / "run"))
    swarm.until("starting")
    os.killpg(swarm.process.pid, signal.SIGINT)
    family = swarm.family() if swarm.process.poll() is None else []
    code, err = swarm.end()
    assert code == 130
    assert "Traceback" not in err
    nobody_left(swarm, family)


def report_modules(link: Connection) -> None:
    link.send_bytes(",".join(sorted(sys.modules)).encode())


@pytest.mark.processes
def test_workers_start_with_everything_imported_and_the_server_has_one_thread() -> None:
    with launcher.fork_server() as processes:
        worker, link = processes.start("probe", report_modules)
        loaded = link.recv_bytes().decode().split(",")
        worker.join(30)
        servers = [p for p in psutil.Process().children() if any("forkserver" in word for word in p.cmdline())]
        assert len(servers) == 1
        assert servers[0].num_threads() == 1, "a tensor operation or a ZeroMQ context ran in the fork server"
    assert set(preload.PRELOADED) <= set(loaded)


@pytest.mark.processes
def test_an_evaluation_may_last_longer_than_the_round_timeout(
    tmp_path: Path, start: Callable[..., Swarm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's owner evaluates it when the others have finished, and is not lost."""
    monkeypatch.setenv("EVALUATION_SECONDS", str(0.6 * STOP_SECONDS))  # a batch; there are two
    options = [
        "--model",
        "slow_evaluation:linear",
        "--round-timeout",
        str(STOP_SECONDS),
        "--rounds",
        "1",
        "--local-steps",
        "2",
    ]
    swarm = start(ring(tmp_path), *FAST, *options, "--run-dir", str(tmp_path / "run"))
    code, err = swarm.end()
    assert (code, err) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["lost_peers"] == []
    assert summary["consensus_accuracy"] is not None
    assert summary["status"] == "complete"
