"""Clients that crash or freeze, as real processes: rounds finish without them."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.support.real_run import Run

from p2pfl.node.control import EXIT_FAILED

FAST = shlex.split(
    "--num-clients 4 --num-selected 4 --dataset digits --model user_models:linear --batch-size 8 --lr 0.01"
    " --local-steps 20 --eval-every 1000000 --threads 1 --no-checkpoint"
)

pytestmark = pytest.mark.processes


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*options: str) -> Run:
        runs.append(Run(tmp_path, "centralized", *FAST, *options))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def missing(run: Run) -> list[list[str]]:
    """Of each round; all clients are selected in all rounds."""
    records = run.records()
    assert [record.round for record in records] == list(range(1, len(records) + 1))
    assert all(record.selected == ["0", "1", "2", "3"] for record in records)
    return [record.missing or [] for record in records]


def test_a_killed_client_is_missing_from_then_on_and_the_run_completes(start: Callable[..., Run]) -> None:
    run = start("--num-rounds", "40", "--deadline", "2", "--min-updates", "2")
    run.signal_in_round("1", signal.SIGKILL, 3)
    code, err = run.end()
    assert code == 0, err
    gone = missing(run)
    assert len(gone) == 40
    died = gone.index(["1"])
    assert died >= 3
    assert gone == [[]] * died + [["1"]] * (40 - died)
    assert len(run.records("1")) in (died, died - 1)  # its last update may have come before its record was written
    assert [record.round for record in run.records("2")] == list(range(1, 41))
    assert run.records()[died].seconds >= 2.0
    # Twenty steps of eight samples, of all clients but the dead one.
    assert run.records()[-1].samples == 20 * 8 * (4 * 40 - (40 - died))
    summary = run.summary()
    assert summary["status"] == "complete"
    assert summary["lost_peers"] == ["1"]
    assert summary["rounds_completed"] == 40
    assert isinstance(summary["consensus_accuracy"], float)
    assert (run.run_dir / "consensus.safetensors").exists()
    assert err == ""
    assert any("client 1 died (killed by SIGKILL" in line for line in run.lines)
    log = (run.run_dir / "peers" / "coordinator" / "log.txt").read_text()
    assert f"round {died + 1} continues without 1" in log
    # Until its connection counts as lost each round waits for it; later ones begin without it.
    assert log.count("continues without 1") < 40 - died


def test_a_killed_client_ends_a_run_that_needs_all(start: Callable[..., Run]) -> None:
    run = start("--num-rounds", "100000", "--deadline", "2", "--min-updates", "4")
    run.signal_in_round("2", signal.SIGKILL, 3)
    code, err = run.end()
    assert code == EXIT_FAILED
    done = len(run.records())
    assert done >= 3
    reason = f"round {done + 1}: 3 of 4 updates came, and --min-updates asks for 4; missing: 2"
    assert reason in err.splitlines()[-1]
    assert "Traceback" not in err
    assert missing(run) == [[]] * done
    summary = run.summary()
    assert summary["status"] == "incomplete"
    assert "2" in summary["lost_peers"]  # type: ignore[operator]
    assert (run.run_dir / "report.html").exists()


def test_a_stopped_client_holds_up_rounds_for_the_deadline_and_nothing_hangs_at_the_end(
    start: Callable[..., Run],
) -> None:
    # With shorter rounds all ten may be over before the client is stopped.
    run = start("--num-rounds", "10", "--deadline", "3", "--local-steps", "40")
    run.signal_in_round("0", signal.SIGSTOP, 2)
    code, err = run.end()
    assert code == 0, err
    gone = missing(run)
    stopped = gone.index(["0"])
    assert gone == [[]] * stopped + [["0"]] * (10 - stopped)
    assert all(record.seconds >= 3.0 for record in run.records()[stopped:])
    summary = run.summary()
    assert summary["status"] == "complete"
    assert summary["lost_peers"] == ["0"]


def test_a_client_that_was_stopped_takes_part_again(start: Callable[..., Run]) -> None:
    run = start("--num-rounds", "60", "--deadline", "2")
    run.until("processes ready 5/5")
    client = run.worker("3")
    run.until("round 2/")
    client.send_signal(signal.SIGSTOP)
    while ["3"] not in missing(run):
        run.until("round ")
    client.send_signal(signal.SIGCONT)
    code, err = run.end()
    assert code == 0, err
    gone = missing(run)
    assert 1 <= gone.count(["3"]) < 20
    assert gone[-20:] == [[]] * 20
    assert run.summary()["lost_peers"] == []
    assert [record.round for record in run.records("3")][-20:] == list(range(41, 61))


def test_without_its_coordinator_a_run_ends_and_says_so(start: Callable[..., Run]) -> None:
    run = start("--num-rounds", "100000")
    run.signal_in_round("coordinator", signal.SIGKILL, 3)
    code, err = run.end()
    assert code == EXIT_FAILED
    assert err.count("\n") == 1, err
    assert "the coordinator died (killed by SIGKILL" in err
    assert run.summary()["status"] == "incomplete"


def test_a_frozen_coordinator_does_not_block_the_launcher(start: Callable[..., Run]) -> None:
    """Its clients give it up after heartbeats (30 s) and a grace period (10 s).

    The coordinator never ends by itself.
    """
    run = start("--num-rounds", "100000")
    run.signal_in_round("coordinator", signal.SIGSTOP, 3)
    family = run.family()
    code, err = run.end(250)
    assert code == EXIT_FAILED
    assert "all clients are gone, and the coordinator does not answer" in err.splitlines()[-1]
    assert run.summary()["status"] == "incomplete"
    assert not psutil.wait_procs(family, timeout=10)[1]
