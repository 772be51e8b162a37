"""One peer without a launcher: signals, and a folder shared with other peers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import commands
from tests.support.helpers import free_ports, small_config, token_file

from p2pfl import make_topology
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, Interrupted
from p2pfl.experiment.single import run_peer
from p2pfl.node.control import EXIT_INTERRUPTED, EXIT_OK, Control
from p2pfl.topology import Topology, save_topology
from p2pfl.util.signals import SAME_INTERRUPT_SECONDS

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    yield
    after = {number: signal.getsignal(number) for number in ALL}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before, "the caller's handlers are put back"


def lan() -> Topology:
    topology = make_topology("ring", 3)
    for peer, port in enumerate(free_ports(3)):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=port)
    return topology


def settings(folder: Path, **options: object) -> RunConfig:
    return small_config(
        **{"dataset": "digits", "token_file": token_file(folder), "run_dir": str(folder / "run"), **options}
    )


def peer(monkeypatch: pytest.MonkeyPatch, folder: Path, during: Callable[[], object], **options: object) -> None:
    """Run a peer whose rounds are `during`.

    It ends as interrupted if it is asked to end meanwhile.
    """

    def rounds(_spec: object, _report: object, control: Control, _make_transport: object) -> int:
        asked: list[str] = []
        control.attach(lambda: asked.append("stop"))
        during()
        return EXIT_INTERRUPTED if asked else EXIT_OK

    monkeypatch.setattr("p2pfl.launch.single.run", rounds)
    run_peer(lan(), 1, settings(folder, **options))


@pytest.mark.parametrize("number", ALL)
def test_every_signal_that_ends_a_run_ends_a_peer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=f"interrupted; resume with: p2pfl peer --resume {run} --node 1$"):
        peer(monkeypatch, tmp_path, lambda: signal.raise_signal(number))


def test_a_peer_without_checkpoints_starts_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="interrupted; start again with: p2pfl peer --resume"):
        peer(monkeypatch, tmp_path, lambda: signal.raise_signal(signal.SIGTERM), checkpoint=False)


@pytest.mark.parametrize("number", ALL)
def test_a_signal_that_the_caller_ignores_stays_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        peer(monkeypatch, tmp_path, lambda: signal.raise_signal(number))
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


class Ended(BaseException):
    """In place of the end of this process."""


def test_a_second_signal_ends_the_process_unless_it_belongs_to_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now, done = 100.0, []

    def end(status: int) -> None:
        done.append(status)
        raise Ended

    def during() -> None:
        nonlocal now
        for number in ALL:
            signal.raise_signal(number)
        assert done == []
        now += SAME_INTERRUPT_SECONDS + 0.1
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        peer(monkeypatch, tmp_path, during)
    assert done == [130]
    assert capfd.readouterr().err == f"p2pfl: interrupted; resume with: p2pfl peer --resume {tmp_path}/run --node 1\n"


def test_a_folder_that_peers_share_is_for_one_run_and_each_peer_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def again(**options: Any) -> None:
        peer(monkeypatch, tmp_path, lambda: None, **options)

    again()
    again()  # nothing has been recorded there: as good as the first time
    with pytest.raises(ConfigError, match="holds a run of another topology or other options; give each peer"):
        again(lr=0.5)
    (tmp_path / "run" / "peers" / "1" / "rounds.jsonl").write_text("")
    with pytest.raises(
        ConfigError, match=r"peer 1 has run there; resume with: p2pfl peer --resume \S+/run --node 1, or"
    ):
        again()


@pytest.mark.processes
def test_a_peer_whose_terminal_closes_says_how_to_resume(tmp_path: Path) -> None:
    save_topology(lan(), tmp_path / "lan.gml")
    words = ["--dataset", "digits", "--model", "user_models:linear", "--rounds", "3", "--threads", "1"]
    words += ["--token-file", token_file(tmp_path), "--run-dir", str(tmp_path / "run")]
    with commands.start("peer", str(tmp_path / "lan.gml"), "--node", "2", *words) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "waiting for its neighbors" in line:
                process.send_signal(signal.SIGHUP)
                process.send_signal(signal.SIGTERM)  # as a service manager does
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert err == f"p2pfl: interrupted; resume with: p2pfl peer --resume {tmp_path}/run --node 2\n"
